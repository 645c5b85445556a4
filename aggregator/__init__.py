"""From a token stream to frames: a pure core (release, alignment, energy, diversity) and a loop around it."""
