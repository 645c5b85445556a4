"""GGUF files as a backend: llama.cpp, run by the council itself. No server to install, no port to open."""
