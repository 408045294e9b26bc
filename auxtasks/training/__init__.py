"""Training: the one loop, which knows no task."""
