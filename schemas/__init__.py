"""What travels through the council and what it is called: wire structs, the grid, key names, errors. No clock, no
I/O."""
