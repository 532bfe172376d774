"""A bot whose delays, levels and faults are known, against which the dialer's own error is measured."""
