"""From a token stream to frames: a pure core (release, alignment, energy, diversity) and one dull loop around it."""
