"""`python -m council` is the `council` command."""

from council.cli import main

main()
