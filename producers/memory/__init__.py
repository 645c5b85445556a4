"""Which models are in this machine's memory: loading, evicting, and the record of it."""
