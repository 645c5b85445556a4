"""redis-py without its clients. Importing this module comes before importing any part of redis-py.

The packages `redis` and `redis.asyncio` import all clients and commands as soon as one of their modules is imported.
The council uses connections alone; the rest costs each of its processes 4 MB and 60 ms. So here the packages are only
made known; their own code runs when a name of theirs is first used (`redis.Redis`).
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any


class _Postponed(ModuleType):
    """A package whose code has not run yet."""

    def __getattr__(self, name: str) -> Any:
        module = f"{self.__name__}.{name}"
        if importlib.util.find_spec(module):
            return importlib.import_module(module)
        self.__class__ = ModuleType  # type: ignore[assignment]  # once: the package's code asks for names of its own
        assert self.__spec__ is not None
        assert self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def postpone(name: str) -> None:
    """Makes the package known without running its code. One that has been imported stays as it is."""
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    if spec is None:
        return  # the import itself says what is missing
    package = importlib.util.module_from_spec(spec)
    package.__class__ = _Postponed
    sys.modules[name] = package
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, package)


postpone("redis")
postpone("redis.asyncio")
