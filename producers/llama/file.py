"""A GGUF file on disk, with its header and the other files of a model that was split."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from producers.llama.header import BrokenHeader, GgufHeader, decoded_header
from schemas.errors import Refused

_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


class GgufFacts(GgufHeader, frozen=True, kw_only=True):
    """A GGUF file with a whole header. `size_bytes` counts all files of a split model; two names of one file have the
    same `digest`."""

    path: str
    size_bytes: int
    digest: str


def gguf_facts(path: str | Path) -> GgufFacts:
    """Reads the header. Raises Refused, with one sentence, for a file that cannot be a model."""
    found = Path(path).expanduser()
    try:
        info = found.stat()
        if not found.is_file():
            raise Refused("bad_model_file", f"{found} is not a file: name a GGUF file, such as gguf:model.gguf.")
        with found.open("rb") as file:
            header = decoded_header(file, info.st_size)
        size_bytes = info.st_size + _other_parts_bytes(found, header)
    except FileNotFoundError:
        raise Refused(
            "no_model_file", f"There is no file {found}: name a GGUF file, such as gguf:model.gguf."
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise Refused("bad_model_file", f"{found} cannot be read: {reason}.") from None
    except BrokenHeader as broken:
        raise Refused("bad_model_file", f"{found} {broken}.") from None
    digest = f"{info.st_dev:x}-{info.st_ino:x}-{info.st_mtime_ns:x}"
    return GgufFacts(path=str(found), size_bytes=size_bytes, digest=digest, **msgspec.structs.asdict(header))


def _other_parts_bytes(path: Path, header: GgufHeader) -> int:
    """The size of the other files of a split model. Raises BrokenHeader where one is missing."""
    if header.parts <= 1:
        return 0
    found = _PART.search(path.name)
    if found is None or header.part != 0 or int(found[1]) != 1:
        raise BrokenHeader("is one of several files of a model: name the first one, which ends in -00001-of-0000N.gguf")
    stem, count = path.name[: found.start()], int(found[2])
    total = 0
    for number in range(2, count + 1):
        sibling = path.with_name(f"{stem}-{number:05}-of-{count:05}.gguf")
        if not sibling.is_file():
            raise BrokenHeader(f"is the first of {count} files of a model, and {sibling.name} is missing beside it")
        total += sibling.stat().st_size
    return total
