"""Events on their way out of programs: perf rings and ring buffers as their consumers see them."""
