"""The conversation engine: hears, decides whose turn it is, thinks, calls functions, speaks."""
