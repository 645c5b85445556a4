"""The mathematics of docs/maths.md, as pure functions."""
