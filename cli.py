#!/usr/bin/env python3
"""`python cli.py ...` from a checkout is `shmbpf ...`."""

from shmbpf.cli import main

if __name__ == "__main__":
    main()
