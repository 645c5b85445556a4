"""DECIPHER, the real-time compiler downstream of the ensemble: frames in, protocol events out."""
