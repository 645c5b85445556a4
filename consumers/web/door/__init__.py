"""Who may come in, how often, and what is said to those who may not."""
