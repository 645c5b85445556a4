"""The `council` command, also as `python -m council`."""

import sys


def main() -> None:
    """Runs the command. A Ctrl-C ends it with exit code 130 and without a message, also while it loads."""
    try:
        from council.command.cli import run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
