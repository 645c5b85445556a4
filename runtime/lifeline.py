"""Ending a process together with the process that started it.

The standard input of a supervised process (COUNCIL_SUPERVISED=1) is a pipe from its supervisor. When the supervisor has
ended, in any way, the pipe is at its end; then the process gets SIGTERM, and is killed if it still runs three seconds
later.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

# How long a process may take to end by itself: less than the five seconds within which a council ends.
_GRACE_S = 3.0
_PR_SET_PDEATHSIG = 1


def is_supervised() -> bool:
    """True for a process that a supervisor started."""
    return os.environ.get("COUNCIL_SUPERVISED") == "1"


def end_with_supervisor() -> None:
    """Ends this process when its supervisor ends, where it has one. The supervisor alone handles Ctrl-C then."""
    if not is_supervised():
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_after_input, daemon=True).start()


def _end_after_input() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_S)
    os._exit(1)


def die_with_parent() -> None:
    """Has Linux kill this process when its parent's thread ends; does nothing elsewhere. Called in the child."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
