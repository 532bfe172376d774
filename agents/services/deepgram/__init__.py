"""Deepgram: Nova and Flux speech-to-text, Aura voices."""
