"""Settings: files, variables and flags, checked and merged."""
