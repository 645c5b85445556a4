"""llama.cpp with a GGUF file, run by the council itself: no server to install, no port to open."""
