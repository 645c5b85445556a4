"""The n-gram council: small language models that learn, at the start, from text that every Python carries. No LLMs."""
