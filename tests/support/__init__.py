"""What several test directories share: the kernel oracle, models, writers."""
