"""The OpenAI-compatible API, /v1: any client of that API can ask the council."""
