"""What a GGUF file says of itself: its header read, and nothing loaded.

    "GGUF" version tensors pairs │ key type value  key type value ... │ name shape type offset ... │ padding │ weights

A vocabulary of 260,000 tokens makes a header of some 15 MiB, read in a quarter of a second. Whatever the bytes are,
reading ends: each loop consumes bytes, and the bytes are bounded.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import BinaryIO, TypeAlias

import msgspec

from producers.servers.faults import one_line
from schemas.errors import Refused

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
# The largest vocabularies of today make headers of 15 MiB.
MAX_HEADER_BYTES = 32 << 20
# Real files have at most some hundred pairs and a few thousand tensors.
_MAX_PAIRS = 4_096
_MAX_TENSORS = 1 << 16
_MAX_DIMENSIONS = 4
_ALIGNMENT_BYTES = 32
# The longest key that llama.cpp reads is 64 bytes; chat templates have some 20 KiB.
_MAX_KEPT_BYTES = 1 << 20
_MAX_NAME_CHARS = 64
# As many layers as any model may have.
_MAX_KEPT_ITEMS = 4_096

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
# The commonest of llama.cpp's names for how the weights are written.
FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 25: "IQ4_NL", 30: "IQ4_XS",
    32: "BF16", 38: "MXFP4_MOE",
}  # fmt: skip

Value: TypeAlias = int | float | bool | str | list[int]


class GgufFacts(msgspec.Struct, frozen=True):
    """A GGUF file with a whole header. `size_bytes` counts all parts of a model that was split; `digest` is the same
    for two names of one file. 0 and "" where the file does not tell."""

    path: str
    size_bytes: int
    digest: str
    architecture: str
    name: str = ""
    size_label: str = ""
    file_type: str = ""
    context_tokens: int = 0
    vocabulary: int = 0
    chat_template: str = ""
    is_embedding: bool = False
    # What each token of context costs in memory, keys and values in 16 bits.
    context_token_bytes: int = 0

    @property
    def capabilities(self) -> tuple[str, ...]:
        """In the words of an Offer."""
        if self.is_embedding:
            return ("embedding",)
        return ("completion", "thinking") if "think" in self.chat_template.lower() else ("completion",)

    @property
    def details(self) -> str:
        """For a list of models, such as "qwen3 8B Q4_K_M"."""
        return " ".join(word for word in (self.architecture, self.size_label, self.file_type) if word)


class _Broken(Exception):
    """Why the bytes are no whole header, as a predicate."""


def gguf_facts(path: str | Path) -> GgufFacts:
    """Reads the header. Raises Refused, with one sentence, for a file that cannot be a model."""
    found = Path(path).expanduser()
    try:
        info = found.stat()
        if not found.is_file():
            raise Refused("bad_model_file", f"{found} is no file: name a GGUF file, such as gguf:model.gguf.")
        with found.open("rb") as file:
            pairs = _Header(file, info.st_size).pairs()
        size_bytes = info.st_size + _other_parts_bytes(found, pairs)
    except FileNotFoundError:
        raise Refused(
            "no_model_file", f"There is no file {found}: name a GGUF file, such as gguf:model.gguf."
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a name that cannot be one, with a zero byte in it
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise Refused("bad_model_file", f"{found} cannot be read: {reason}.") from None
    except _Broken as broken:
        raise Refused("bad_model_file", f"{found} {broken}.") from None
    digest = f"{info.st_dev:x}-{info.st_ino:x}-{info.st_mtime_ns:x}"
    return _facts(str(found), size_bytes, digest, pairs)


def _facts(path: str, size_bytes: int, digest: str, pairs: dict[str, Value]) -> GgufFacts:
    architecture = _text(pairs, "general.architecture")
    if not architecture:
        raise Refused("bad_model_file", f"{path} does not name its architecture: it holds no language model.")
    if not architecture.isprintable() or len(architecture) > _MAX_NAME_CHARS:
        raise Refused("bad_model_file", f"{path} has a damaged header.")
    return GgufFacts(
        path,
        size_bytes,
        digest,
        architecture,
        name=one_line(_text(pairs, "general.name"), _MAX_NAME_CHARS),
        size_label=one_line(_text(pairs, "general.size_label"), _MAX_NAME_CHARS),
        file_type=FILE_TYPES.get(_number(pairs, "general.file_type", -1), ""),
        context_tokens=_number(pairs, f"{architecture}.context_length"),
        vocabulary=_number(pairs, "tokenizer.ggml.tokens"),
        chat_template=_text(pairs, "tokenizer.chat_template"),
        is_embedding=f"{architecture}.pooling_type" in pairs,
        context_token_bytes=_context_token_bytes(architecture, pairs),
    )


def _context_token_bytes(architecture: str, pairs: dict[str, Value]) -> int:
    """Two bytes for each number of keys and values. Layers that look back less far are counted as those that do not."""
    layers = _number(pairs, f"{architecture}.block_count")
    heads = _number(pairs, f"{architecture}.attention.head_count")
    head_length = _number(pairs, f"{architecture}.embedding_length") // heads if heads else 0
    lengths = [
        _number(pairs, f"{architecture}.attention.{name}_length", head_length) for name in ("key", "value")
    ]  # fmt: skip
    shared = pairs.get(f"{architecture}.attention.head_count_kv", heads)
    heads_of_all_layers = sum(shared) if isinstance(shared, list) else layers * _whole(shared)
    return 2 * heads_of_all_layers * sum(lengths)


def _text(pairs: dict[str, Value], key: str) -> str:
    value = pairs.get(key, "")
    return value if isinstance(value, str) else ""


def _number(pairs: dict[str, Value], key: str, default: int = 0) -> int:
    return _whole(pairs[key]) if key in pairs else default


def _whole(value: Value) -> int:
    return max(value, 0) if isinstance(value, int) else 0


def _other_parts_bytes(path: Path, pairs: dict[str, Value]) -> int:
    """The size of the other files of a model that was split into several. Raises _Broken where one is not there."""
    if _number(pairs, "split.count") <= 1:
        return 0
    part = _PART.search(path.name)
    if part is None or _number(pairs, "split.no") != 0 or int(part[1]) != 1:
        raise _Broken("is one part of a model in several files: name the first, which ends in -00001-of-0000N.gguf")
    stem, count = path.name[: part.start()], int(part[2])
    total = 0
    for number in range(2, count + 1):
        sibling = path.with_name(f"{stem}-{number:05}-of-{count:05}.gguf")
        if not sibling.is_file():
            raise _Broken(f"is the first of {count} files of one model, and {sibling.name} is not beside it")
        total += sibling.stat().st_size
    return total


class _Header:
    """A reader that knows where it is and how far it may go."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file, self._size = file, size_bytes
        self._left = min(size_bytes, MAX_HEADER_BYTES)

    def pairs(self) -> dict[str, Value]:
        """The metadata that a list or an array's length can hold. Raises _Broken, OSError."""
        if self._left < len(MAGIC) or self._read(len(MAGIC)) != MAGIC:
            raise _Broken("is no GGUF file")
        version = self._scalar("<I")
        if version not in _VERSIONS:
            raise _Broken(f"is a GGUF file of version {version}, and only 2 and 3 are known: convert the model again")
        tensors, count = self._scalar("<Q"), self._scalar("<Q")
        if count > _MAX_PAIRS or tensors > _MAX_TENSORS:
            raise _Broken("has a damaged header")
        found: dict[str, Value] = {}
        for _ in range(int(count)):
            key = self._text()
            value = self._value(int(self._scalar("<I")))
            if value is not None:
                found[key] = value
        offsets = [self._tensor_offset() for _ in range(int(tensors))]
        alignment = _number(found, "general.alignment") or _ALIGNMENT_BYTES
        weights_begin = -(-self._file.tell() // alignment) * alignment
        if offsets and weights_begin + max(offsets) >= self._size:
            raise _Broken("is not whole: the weights end too early; copy or download it again")
        return found

    def _tensor_offset(self) -> int:
        self._text()
        dimensions = int(self._scalar("<I"))
        if dimensions > _MAX_DIMENSIONS:
            raise _Broken("has a damaged header")
        self._read(8 * dimensions + 4)
        return int(self._scalar("<Q"))

    def _value(self, kind: int) -> Value | None:
        if kind in _SCALARS:
            return self._scalar(_SCALARS[kind])
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY:
            return self._array()
        raise _Broken("has a damaged header")

    def _array(self) -> Value | None:
        """A short list of whole numbers; of any other array its length."""
        kind, count = int(self._scalar("<I")), int(self._scalar("<Q"))
        if kind == _STRING:
            for _ in range(self._affordable(count, 8)):
                self._read(self._length())
            return count
        if kind not in _SCALARS:
            raise _Broken("has a damaged header")
        form = _SCALARS[kind]
        raw = self._read(self._affordable(count, struct.calcsize(form)) * struct.calcsize(form))
        if count > _MAX_KEPT_ITEMS or form in ("<f", "<d"):
            return count
        return [max(int(number), 0) for (number,) in struct.iter_unpack(form, raw)]

    def _text(self) -> str:
        """Empty where it is longer than anything that we want to know."""
        raw = self._read(self._length())
        return raw.decode("utf-8", "replace") if len(raw) <= _MAX_KEPT_BYTES else ""

    def _length(self) -> int:
        return self._affordable(int.from_bytes(self._read(8), "little"), 1)

    def _affordable(self, count: int, item_bytes: int) -> int:
        if count * item_bytes > self._left:
            raise self._too_short()
        return count

    def _scalar(self, form: str) -> int | float | bool:
        (number,) = struct.unpack(form, self._read(struct.calcsize(form)))
        return number  # type: ignore[no-any-return]

    def _read(self, count: int) -> bytes:
        self._left -= count
        if self._left < 0:
            raise self._too_short()
        raw = self._file.read(count)
        if len(raw) < count:
            raise self._too_short()
        return raw

    def _too_short(self) -> _Broken:
        if self._size < MAX_HEADER_BYTES:
            return _Broken("is not whole: its header ends too early; copy or download it again")
        return _Broken("has a damaged header")
