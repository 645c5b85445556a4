"""A child process of the supervisor: it is started, watched, restarted within bounds, and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO

MOST_RESTARTS_A_MINUTE = 5
_FIRST_BACKOFF_S = 0.25
_MOST_BACKOFF_S = 4.0
# The exit code of a process that was refused: a restart would be refused again.
_REFUSED = 2


class Child:
    """One role process. Its standard input is a pipe that ends when the supervisor ends."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        say: Callable[[str], None],
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.name = name
        self._arguments, self._environment, self._pass_fds = arguments, environment, pass_fds
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None
        self._deaths: list[float] = []
        self._start_at = 0.0
        self.gave_up = False

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def input(self) -> IO[bytes] | None:
        """The write end of its standard input; poll() reports an error on it when the child has ended."""
        return self._process.stdin if self._process else None

    @property
    def is_waiting(self) -> bool:
        """True while it has died and is not yet started again."""
        return self._process is None and not self.gave_up

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", *self._arguments],
            stdin=subprocess.PIPE,
            env={**os.environ, **self._environment, "COUNCIL_SUPERVISED": "1"},
            pass_fds=self._pass_fds,
            # A Ctrl-C in the terminal goes to the supervisor alone, also while this process starts.
            process_group=0,
        )

    def watch(self) -> None:
        """Starts it again after it died, at most MOST_RESTARTS_A_MINUTE times, each time a little later."""
        if self.is_running or self.gave_up:
            return
        now = time.monotonic()
        if self._process is not None:
            self._note_death(now, self._process.returncode)
            if self._process.stdin:
                self._process.stdin.close()
            self._process = None
        if not self.gave_up and now >= self._start_at:
            self.start()

    def _note_death(self, now: float, code: int) -> None:
        self._deaths = [death for death in self._deaths if now - death < 60.0] + [now]
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        if code == _REFUSED or len(self._deaths) > MOST_RESTARTS_A_MINUTE:
            self.gave_up = True
            times = "" if code == _REFUSED else f", {len(self._deaths)} times in a minute"
            self._say(f"{self.name} {how}{times}; it is not started again.")
            return
        backoff_s = min(_MOST_BACKOFF_S, _FIRST_BACKOFF_S * 2 ** (len(self._deaths) - 1))
        self._start_at = now + backoff_s
        self._say(f"{self.name} {how}; starting it again in {backoff_s:g} s.")

    def terminate(self) -> None:
        """Asks it to end at once, without draining: the end of its input is that of its supervisor."""
        self.gave_up = True
        if self._process is not None and self.is_running:
            if self._process.stdin:
                self._process.stdin.close()
            self._process.terminate()

    def wait_or_kill(self, deadline: float) -> None:
        """Waits until time.monotonic() passes `deadline`, then kills it."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()
