"""Google's Gemini language models."""
