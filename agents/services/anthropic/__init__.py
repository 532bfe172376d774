"""Anthropic's language models."""
