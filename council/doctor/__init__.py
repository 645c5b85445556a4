"""`council doctor`: what a council needs of this machine and its servers."""
