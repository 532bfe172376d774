"""Google Cloud's speech-to-text and voices."""
