"""From the event loop to a worker and back."""
