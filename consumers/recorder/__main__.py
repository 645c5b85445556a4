"""`python -m consumers.recorder`: records the sessions on REDIS_URL that are asked for, or all of them.

COUNCIL_RECORD is asked (the default) or all; COUNCIL_RECORDINGS names the folder (default: the user's data folder);
COUNCIL_RECORDINGS_GB is how large it may become; COUNCIL_RECORD_TEXT=false records numbers alone.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path

from consumers.recorder.recorder import Recorder, RecorderSettings
from recordings.folder import DEFAULT_GB, library_of_role
from runtime.check import add_check
from runtime.environment import redis_from_environment
from runtime.log import log_to_stderr
from runtime.role import RoleParser, run_role, run_until_stopped
from schemas.errors import Refused
from transport.register import ProcessRegistration
from transport.rights import RECORDER_RIGHTS


def recorder_settings(arguments: argparse.Namespace) -> RecorderSettings:
    """The settings in the flags and environment variables. Raises Refused."""
    record = arguments.record or os.environ.get("COUNCIL_RECORD") or "asked"
    if record not in ("asked", "all"):
        raise Refused("bad_record", f"COUNCIL_RECORD is {record!r}: write asked or all.")
    written = os.environ.get("COUNCIL_RECORDINGS_GB") or str(DEFAULT_GB)
    try:
        limit_gb = float(written)
    except ValueError:
        limit_gb = math.nan
    if not 0 < limit_gb < math.inf:
        raise Refused("bad_limit", f"COUNCIL_RECORDINGS_GB is {written!r}: write a number of gigabytes above 0.")
    text = os.environ.get("COUNCIL_RECORD_TEXT", "true").lower()
    if text not in ("true", "false"):
        raise Refused("bad_record_text", f"COUNCIL_RECORD_TEXT is {text!r}: write true or false.")
    return RecorderSettings(record == "all", int(limit_gb * 10**9), text == "true" and not arguments.no_text)


async def record(arguments: argparse.Namespace) -> None:
    """Records until SIGTERM or SIGINT. Raises Refused."""
    settings = recorder_settings(arguments)
    url, library = redis_from_environment(RECORDER_RIGHTS), library_of_role(arguments.recordings)
    recorder = Recorder(url, library, settings, ProcessRegistration("recorder"), log_to_stderr("recorder"))
    await run_until_stopped(recorder.run())


def main() -> int:
    parser = RoleParser(prog="python -m consumers.recorder", description=__doc__)
    parser.add_argument("--record", choices=["asked", "all"], help="which sessions (default: asked)")
    parser.add_argument("--recordings", type=Path, metavar="DIR", help="the library's folder")
    parser.add_argument("--no-text", action="store_true", help="record numbers alone: no prompt, no answers")
    add_check(parser, "recorder")
    return run_role(record(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
