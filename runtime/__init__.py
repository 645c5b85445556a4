"""What the process of each role is made of: its environment, its log, its record, and an end with its supervisor."""
