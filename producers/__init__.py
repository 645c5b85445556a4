"""One process per model: what it writes is what its model said, and what was measured about it."""
