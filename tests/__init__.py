"""Tests, in the same rooms as the code; support/ has what they share, oracle/ the slow reference."""
