"""Bad networks: delay, jitter, loss and the rest, by a seed."""
