"""Which models are in this machine's memory: loading, eviction, and the record of both."""
