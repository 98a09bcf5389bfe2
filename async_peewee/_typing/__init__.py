"""What type checkers are told; nothing here exists when the program runs."""
