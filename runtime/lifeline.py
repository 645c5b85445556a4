"""A process that ends with the one that started it.

A process that a supervisor started (COUNCIL_SUPERVISED=1) holds the read end of a pipe as its standard input. When the
supervisor is gone, however it ended, that pipe ends, and so does the process: by SIGTERM first, and by force if it
still runs three seconds later.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

# What a process may take to end well before it is ended: under the five seconds that a council promises.
_GRACE_S = 3.0
_PR_SET_PDEATHSIG = 1


def is_supervised() -> bool:
    """True for a process that a supervisor started."""
    return os.environ.get("COUNCIL_SUPERVISED") == "1"


def end_with_supervisor() -> None:
    """Ties this process's life to its supervisor's, where it has one. Ctrl-C in the terminal is then left to the
    supervisor."""
    if not is_supervised():
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_wait_for_the_end, daemon=True).start()


def _wait_for_the_end() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_S)
    os._exit(1)


def die_with_parent() -> None:
    """Linux kills this process when its parent's thread ends; elsewhere nothing happens. To be called in the child."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
