"""N-gram models as a backend: small statistical models that learn, at the start, from text in every Python."""
