"""Ollama as a backend, through its own API."""
