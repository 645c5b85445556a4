"""Where the project is, and which of its folders are its packages."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("schemas", "recordings", "transport", "runtime", "producers", "aggregator", "consumers", "council")
