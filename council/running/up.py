"""`python -m council.running.up`, with COUNCIL_PLAN: the program that `council up` executes when its plan is made.

Choosing models needs the libraries of the command line, the settings, HTTP and the page: 26 MB. Watching the processes
of a council needs none of them. So the command replaces its program by this one, which inherits the listening socket.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import sys
import webbrowser
from collections.abc import Callable
from typing import NoReturn

import msgspec

from council.running.supervisor import CouncilPlan, Supervisor
from recordings.plain import plain
from schemas.errors import CouncilError


def become_supervisor(plan: CouncilPlan, listening: socket.socket, command: str, *, opens_page: bool) -> NoReturn:
    """Replaces this program, in the same process, by one that runs the plan. `command` is how a user calls council."""
    listening.set_inheritable(True)
    options = ["--fd", str(listening.fileno()), "--command", command, *(["--open"] if opens_page else [])]
    environment = os.environ | {"COUNCIL_PLAN": msgspec.json.encode(plan).decode()}
    os.execve(sys.executable, [sys.executable, "-m", "council.running.up", *options], environment)


def main() -> int:
    """Runs the plan of COUNCIL_PLAN until a signal or the end of the terminal; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m council.running.up", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, metavar="N", help="the listening socket, inherited")
    parser.add_argument("--command", required=True, help="how a user calls the council command")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    arguments = parser.parse_args()
    plan = msgspec.json.decode(os.environ.pop("COUNCIL_PLAN"), type=CouncilPlan)
    try:
        with socket.socket(fileno=arguments.fd) as listening:
            _run(plan, listening, arguments.command, opens_page=arguments.open)
    except CouncilError as error:
        say(str(error))
        return 1
    return 0


def _run(plan: CouncilPlan, listening: socket.socket, command: str, *, opens_page: bool) -> None:
    supervisor = Supervisor(plan, say, listening)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, supervisor.stop)
    is_terminal_closed = _closed_terminal()  # first: the terminal may be closed as soon as the last message is written
    if plan.host not in ("127.0.0.1", "localhost", "::1"):
        say(f"The page listens on {plan.host}, unencrypted: every client with the token can use this council.")
    where = "the Redis that you named" if plan.redis_url else "a private Redis"
    say(f"Starting on {where}, {plan.tier.name} tier.")
    try:
        supervisor.start()
        if not supervisor.is_stopping:
            address = f"http://{_shown_host(plan.host)}:{listening.getsockname()[1]}"
            say(f"Ready: {', '.join(supervisor.members)}.")
            if plan.councils:
                say(f"Councils: {', '.join(council.name for council in plan.councils)}.")
            signing_in = " and sign in with the token" if plan.token else ""
            say(f"Open {address}{signing_in}, or ask from another terminal: {command} ask 'What is a generator?'")
            say("Ctrl-C ends it.")
            if opens_page:
                _open_page(address)
        supervisor.run(is_terminal_closed)
    finally:
        supervisor.end()
    say("The council has ended.")


def _closed_terminal() -> Callable[[], bool]:
    """A function that is True once the terminal of this process is closed. Where make started this process, the hangup
    signal reaches make alone."""
    had_terminal = os.isatty(sys.stderr.fileno())
    return lambda: had_terminal and not os.isatty(sys.stderr.fileno())


def _shown_host(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}.get(host, host)


def _open_page(address: str) -> None:
    """Opens the page, if there is a browser."""
    with contextlib.suppress(webbrowser.Error):
        webbrowser.get()
        webbrowser.open(address)


def say(sentence: str) -> None:
    """Writes a sentence for the user on standard error."""
    # The terminal may be closed: that is not an error.
    with contextlib.suppress(OSError):
        # Content and names of files may contain control characters, which the terminal would obey.
        print(f"council: {plain(sentence)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
