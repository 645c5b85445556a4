"""Benchmarks: what the council costs. Each number has a limit beside it that was measured in the same run."""
