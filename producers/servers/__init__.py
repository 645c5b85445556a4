"""What all backends with an HTTP server share: client, addresses, API keys, lines, pieces, thinking, faults."""
