"""OpenAI, and every server that speaks its API: vLLM, Ollama, llama.cpp, Groq, Together, Whisper servers."""
