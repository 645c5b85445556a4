"""`council doctor`: whether this machine and its servers have what a council needs."""
