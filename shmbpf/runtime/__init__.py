"""CPUs as processes: the supervisor, its workers, what they count, and how others talk to them."""
