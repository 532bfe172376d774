"""Plivo Voice: its XML, audio streaming and the Call API."""
