"""The Local Council: two to six local models answer one prompt at once, and every sixtieth of a second says what
happens.

from council import TurboEnsemble
"""

from council.ensemble import EnsembleSession, TurboEnsemble

__all__ = ["EnsembleSession", "TurboEnsemble", "__version__"]

__version__ = "0.1.0"
