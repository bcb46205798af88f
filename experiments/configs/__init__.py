"""Training runs in numbers."""
