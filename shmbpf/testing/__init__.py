"""What tests need: the real kernel beside ours (`kernel`, `bpf_syscall`)."""
