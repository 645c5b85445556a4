"""Councils among the model servers. A council that is a member of itself asks itself again with each question, without
end; so a council is refused as a member, unless it is another one and the settings allow it. Pure.

GET /v1/models  --> "owned_by": "local-council", or the header "Server: council": it is a council
GET /api/status --> lists the producer that asks: it is the council of that producer, at whatever address
"""

from __future__ import annotations

from collections.abc import Mapping

from producers.servers.faults import ServerFault
from producers.servers.reading import entries, text

# The owner in a council's list of models, and the name of its server in each response.
OWNER = "local-council"
_SERVER = "council"
_LOOP = "a council with itself as a member asks itself without end"
IS_COUNCIL = f"is a council, and {_LOOP}: if it is another one, set allow_council = true for that server"
IS_ITSELF = f"is this council itself, and {_LOOP}: remove that server"


class CouncilFault(ServerFault):
    """The server is a council, and is refused as a member."""


def is_from_council(headers: Mapping[str, str]) -> bool:
    """True for the headers of every response of a council, a refusal too."""
    return headers.get("server") == _SERVER


def lists_process(status: bytes, process: str) -> bool:
    """True where the body of a council's GET /api/status contains the process with this name."""
    return any(text(entry, "name") == process for entry in entries(status, "processes", "name") or ())
