"""The models that this machine can use, and those that a council starts."""
