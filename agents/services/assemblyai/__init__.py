"""AssemblyAI's streaming speech-to-text."""
