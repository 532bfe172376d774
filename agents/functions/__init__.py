"""Functions that a language model may call: Python, HTTP, MCP, and those that act on the call itself."""
