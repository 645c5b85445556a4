"""The Local Council: two to six local models answer one prompt at once, and sixty times a second says what happens.

from council import TurboEnsemble
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from council.ensemble import EnsembleSession, TurboEnsemble
    from schemas.sessions import MemberSpec

__all__ = ["EnsembleSession", "MemberSpec", "TurboEnsemble", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """The API, imported when it is first used: a Ctrl-C while it loads must end the command without a traceback."""
    if name in ("EnsembleSession", "TurboEnsemble"):
        from council import ensemble

        return getattr(ensemble, name)
    if name == "MemberSpec":
        from schemas import sessions

        return sessions.MemberSpec
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
