"""`python -m consumers.web`: serves the page, the API and the sockets for the sessions on REDIS_URL.

COUNCIL_TIER names the tier (default: by this machine's memory); COUNCIL_LIMITS is a JSON object of limits to change;
COUNCIL_TOKEN is the token that clients must send (required on any address but loopback), or COUNCIL_TOKEN_FILE is a
file that contains it; COUNCIL_ORIGINS is a JSON list of origins whose pages may use this council; COUNCIL_RECORDINGS is
the folder of the recordings (default: in the user's data folder).
"""

from __future__ import annotations

import sys
from pathlib import Path

from runtime.check import add_check
from runtime.role import RoleParser, run_role
from schemas.processes import ProcessRecord

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8145
_ANSWER_S = 2.0


def _is_healthy(record: ProcessRecord) -> bool:
    """True where the web process of this record answers GET /healthz."""
    from http.client import HTTPConnection, HTTPException

    try:
        connection = HTTPConnection(str(record.detail["host"]), int(record.detail["port"]), timeout=_ANSWER_S)
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, HTTPException, KeyError, ValueError):
        return False


def main() -> int:
    parser = RoleParser(prog="python -m consumers.web", description=__doc__)
    parser.add_argument("--host", default=DEFAULT_HOST, help="the address to listen on (default: %(default)s)")
    parser.add_argument("--port", default=str(DEFAULT_PORT), help="the port to listen on (default: %(default)s)")
    parser.add_argument("--fd", metavar="N", help="an inherited listening socket, instead of host and port")
    parser.add_argument("--recordings", type=Path, metavar="DIR", help="the library's folder")
    parser.add_argument("--token", help="the token that clients must send; safer as COUNCIL_TOKEN, not shown by ps")
    add_check(parser, "web", _is_healthy)
    arguments = parser.parse_args()
    from consumers.web.process import serve  # 0.3 s, which a health check need not spend

    return run_role(serve(arguments))


if __name__ == "__main__":
    sys.exit(main())
