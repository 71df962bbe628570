"""The loader: from object files to specs."""
