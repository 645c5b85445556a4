"""Ollama as a backend."""
