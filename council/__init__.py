"""The Local Council: two to six local models answer one prompt at once, and sixty times a second says what happens.

from council import TurboEnsemble
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from council.ensemble import EnsembleSession, TurboEnsemble

__all__ = ["EnsembleSession", "TurboEnsemble", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """The API, when it is first asked for: the command must be able to say goodbye while it still loads."""
    if name in ("EnsembleSession", "TurboEnsemble"):
        from council import ensemble

        return getattr(ensemble, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
