"""A process that ends with the process that started it.

The parent holds the write end of the child's standard input. When the parent ends, for whatever reason, the child reads
the end of its standard input and ends itself: by SIGTERM first, and by force a few seconds later.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

# A process that handles SIGTERM has this long: less than the five seconds in which a council ends.
GRACE_S = 3.0
_PR_SET_PDEATHSIG = 1
_parent_ended = threading.Event()


def is_supervised() -> bool:
    """True for a process that a supervisor started (COUNCIL_SUPERVISED=1)."""
    return os.environ.get("COUNCIL_SUPERVISED") == "1"


def has_lost_parent() -> bool:
    """True when the process that end_with_parent() watches has ended, or has closed this process's standard input."""
    return _parent_ended.is_set()


def end_with_supervisor() -> None:
    """Ends this process with its supervisor, if it has one. To be called when SIGTERM has its handler."""
    if is_supervised():
        end_with_parent()


def end_with_parent(grace_s: float = GRACE_S) -> None:
    """Sends SIGTERM to this process when its standard input ends, and ends it by force `grace_s` seconds later.

    Ctrl-C in the terminal is ignored from now on: it is for the parent.
    """

    def wait() -> None:
        while os.read(0, 4096):
            pass
        _parent_ended.set()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace_s)
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=wait, daemon=True).start()


def die_with_parent(signal_number: int = signal.SIGKILL) -> None:
    """On Linux, this process receives the signal when the thread that started it ends; 0 for no signal.

    For a child without an end_with_parent() of its own, or until that is called.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal_number)
