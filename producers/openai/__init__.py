"""OpenAI-compatible servers as a backend: llama-server, vLLM, LM Studio and others."""
