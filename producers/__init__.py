"""One process for each model: it writes what the model generates, and what was measured of it."""
