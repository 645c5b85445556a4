"""Which sessions a council records, from its settings."""

from __future__ import annotations

from collections.abc import Callable

from council.running.supervisor import RecordingPlan
from council.settings.schema import Settings
from schemas.errors import Refused


def recording_plan(settings: Settings, say: Callable[[str], None]) -> RecordingPlan | None:
    """The plan; None, and a sentence to `say`, where the default folder cannot be used.

    Raises Refused where a folder that is set, or that is needed to record all sessions, cannot be used.
    """
    library = settings.library
    is_wanted = settings.recordings is not None or settings.record == "all"
    try:
        if library is None:
            raise Refused("no_recordings_folder", "There is no home folder for recordings: name one with --recordings.")
        library.make()
    except Refused as error:
        if is_wanted:
            raise
        say(f"{error} Without it, nothing is recorded and there is no library.")
        return None
    return RecordingPlan(settings.record, str(library.folder), settings.recordings_gb, settings.record_text)
