"""Speech and language services: what the conversation hears with, thinks with and speaks with."""
