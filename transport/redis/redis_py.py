"""redis-py without its clients. This module is imported before any part of redis-py.

The packages `redis` and `redis.asyncio` import all clients and commands as soon as one of their modules is imported.
The council uses connections alone; the rest costs each of its processes 4 MB and 60 ms. So the packages are registered
here without their code, which runs when one of their names is first used (`redis.Redis`).
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
        self.__class__ = ModuleType  # type: ignore[assignment]  # once: the package's code uses its own names
        assert self.__spec__ is not None
        assert self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def postpone(name: str) -> None:
    """Registers the package without running its code. A package that has been imported stays as it is."""
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    if spec is None:
        return  # the import itself reports what is missing
    package = importlib.util.module_from_spec(spec)
    package.__class__ = _Postponed
    sys.modules[name] = package
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, package)


postpone("redis")
postpone("redis.asyncio")
