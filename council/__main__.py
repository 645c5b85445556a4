"""The `council` command, also as `python -m council`."""

import sys


def main() -> None:
    """Runs the command. A Ctrl-C while it still loads ends it like any other: 130, without a word."""
    try:
        from council.command.cli import run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
