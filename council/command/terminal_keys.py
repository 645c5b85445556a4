"""Keys that a person presses while a command draws in the terminal."""

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
    """Calls `take` with what is typed, as it is typed; False where no terminal is there to type at.

    What is typed is not shown: it would fall into the picture.
    """
    try:
        fd = sys.stdin.fileno()
        before = termios.tcgetattr(fd)
        # A job in the background that changes its terminal is stopped.
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
            loop.remove_reader(fd)  # the terminal is gone

    tty.setcbreak(fd)
    loop.add_reader(fd, read)
    try:
        yield True
    finally:
        loop.remove_reader(fd)
        with contextlib.suppress(OSError, termios.error):
            if os.tcgetpgrp(fd) == os.getpgrp():
                termios.tcsetattr(fd, termios.TCSADRAIN, before)
