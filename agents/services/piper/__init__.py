"""Piper voices, from a voice file of the user's."""
