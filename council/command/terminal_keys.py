"""Keys that the user presses while a command draws in the terminal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import termios
import tty
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def pressed_keys(take: Callable[[bytes], None]) -> Iterator[bool]:
    """Calls `take` with the bytes of each key at once; False where there is no terminal to type in.

    The terminal does not echo the keys, which would disturb the drawing.
    """
    try:
        fd = sys.stdin.fileno()
        before = termios.tcgetattr(fd)
        # The system stops a job in the background that changes its terminal.
        is_in_front = os.tcgetpgrp(fd) == os.getpgrp()
    except (OSError, ValueError, termios.error):
        is_in_front = False
    if not is_in_front:
        yield False
        return
    loop = asyncio.get_running_loop()

    def read() -> None:
        try:
            typed = os.read(fd, 1_024)
        except OSError:
            typed = b""
        if typed:
            take(typed)
        else:
            loop.remove_reader(fd)  # the terminal is closed

    tty.setcbreak(fd)
    loop.add_reader(fd, read)
    try:
        yield True
    finally:
        loop.remove_reader(fd)
        with contextlib.suppress(OSError, termios.error):
            if os.tcgetpgrp(fd) == os.getpgrp():
                termios.tcsetattr(fd, termios.TCSADRAIN, before)
