"""What type checkers are told: the .pyi files. A .py beside one has what is evaluated at run time."""
