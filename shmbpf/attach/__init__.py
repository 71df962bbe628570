"""Where packets come from and where programs are put: the virtual device and the sources that feed it."""
