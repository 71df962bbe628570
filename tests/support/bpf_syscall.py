"""bpf(2) by its commands: the product's module, under the name the tests know."""

from shmbpf.testing.bpf_syscall import *  # noqa: F403  (every public name)
