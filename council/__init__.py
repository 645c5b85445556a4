"""The Local Council: several local models answer one prompt at once, and 60 frames a second show how they compare.

import council
answers = await council.ask("What is a generator?", ["ngram:word-3", "ngram:char-6"])
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from council.answers import MemberAnswer, MemberAnswers
    from council.asking import ask
    from council.ensemble import TurboEnsemble
    from council.ensemble_session import EnsembleSession
    from council.session_frames import frames
    from schemas.errors import CouncilError, Refused, SetBack
    from schemas.frames import Frame, MemberFrame
    from schemas.rules.effect import Effect
    from schemas.sessions import MemberSpec, Message, SessionRequest

__version__ = "0.1.0"

# Each public name, and the module from which it is imported when it is first used: a Ctrl-C while a command loads must
# end it without a traceback.
_MODULES = {
    "CouncilError": "schemas.errors",
    "Effect": "schemas.rules.effect",
    "EnsembleSession": "council.ensemble_session",
    "Frame": "schemas.frames",
    "MemberAnswer": "council.answers",
    "MemberAnswers": "council.answers",
    "MemberFrame": "schemas.frames",
    "MemberSpec": "schemas.sessions",
    "Message": "schemas.sessions",
    "Refused": "schemas.errors",
    "SessionRequest": "schemas.sessions",
    "SetBack": "schemas.errors",
    "TurboEnsemble": "council.ensemble",
    "ask": "council.asking",
    "frames": "council.session_frames",
}

__all__ = [
    "CouncilError",
    "Effect",
    "EnsembleSession",
    "Frame",
    "MemberAnswer",
    "MemberAnswers",
    "MemberFrame",
    "MemberSpec",
    "Message",
    "Refused",
    "SessionRequest",
    "SetBack",
    "TurboEnsemble",
    "__version__",
    "ask",
    "frames",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
