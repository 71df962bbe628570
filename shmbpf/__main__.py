"""`python -m shmbpf` is `shmbpf`."""

from shmbpf.cli import main

main()
