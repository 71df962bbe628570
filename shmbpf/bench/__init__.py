"""This machine's figures, and the kernel's beside them where bpf(2) is permitted. See `shmbpf.bench.suite`."""
