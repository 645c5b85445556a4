"""A council's processes: starting, watching, restarting and ending them; and finding the council that runs."""
