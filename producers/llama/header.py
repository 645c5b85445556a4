"""The header of a GGUF file, decoded: what the model is, and what its context costs. Pure: the caller opens the file.

    "GGUF" version tensors pairs │ key type value  key type value ... │ name shape type offset ... │ padding │ weights

A vocabulary of 260,000 tokens makes a header of some 15 MiB, which takes a quarter of a second. Reading ends whatever
the bytes are: each loop consumes bytes, and the bytes are bounded.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, TypeAlias

import msgspec

from producers.servers.faults import one_line

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
# The largest vocabularies make headers of 15 MiB.
MAX_HEADER_BYTES = 32 << 20
# Real files have at most some hundred pairs and a few thousand tensors.
_MAX_PAIRS = 4_096
_MAX_TENSORS = 1 << 16
_MAX_DIMENSIONS = 4
_ALIGNMENT_BYTES = 32
# The longest key that llama.cpp reads has 64 bytes; chat templates have some 20 KiB.
_MAX_KEPT_BYTES = 1 << 20
_MAX_NAME_CHARS = 64
# As many layers as any model may have.
_MAX_KEPT_ITEMS = 4_096

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
# llama.cpp's names for how weights are stored, the common ones.
FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 25: "IQ4_NL", 30: "IQ4_XS",
    32: "BF16", 38: "MXFP4_MOE",
}  # fmt: skip
_DAMAGED = "has a damaged header"

Value: TypeAlias = int | float | bool | str | list[int]


class BrokenHeader(Exception):
    """Why the bytes are not a language model's header, as a predicate that follows the file's name."""


class GgufHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What a whole header contains; 0 and "" where it does not. `part` counts from 0, of `parts` files of one model."""

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
    parts: int = 1
    part: int = 0

    @property
    def capabilities(self) -> tuple[str, ...]:
        """In the terms of an Offer."""
        if self.is_embedding:
            return ("embedding",)
        return ("completion", "thinking") if "think" in self.chat_template.lower() else ("completion",)

    @property
    def details(self) -> str:
        """For a list of models, such as "qwen3 8B Q4_K_M"."""
        return " ".join(word for word in (self.architecture, self.size_label, self.file_type) if word)


def decoded_header(file: BinaryIO, size_bytes: int) -> GgufHeader:
    """The header at the beginning of an open file of this size. Raises BrokenHeader, and OSError of the file."""
    pairs = _HeaderReader(file, size_bytes).pairs()
    architecture = _text(pairs, "general.architecture")
    if not architecture:
        raise BrokenHeader("does not name its architecture: it contains no language model")
    if not architecture.isprintable() or len(architecture) > _MAX_NAME_CHARS:
        raise BrokenHeader(_DAMAGED)
    return GgufHeader(
        architecture=architecture,
        name=one_line(_text(pairs, "general.name"), _MAX_NAME_CHARS),
        size_label=one_line(_text(pairs, "general.size_label"), _MAX_NAME_CHARS),
        file_type=FILE_TYPES.get(_number(pairs, "general.file_type", -1), ""),
        context_tokens=_number(pairs, f"{architecture}.context_length"),
        vocabulary=_number(pairs, "tokenizer.ggml.tokens"),
        chat_template=_text(pairs, "tokenizer.chat_template"),
        is_embedding=f"{architecture}.pooling_type" in pairs,
        context_token_bytes=_context_token_bytes(architecture, pairs),
        parts=max(_number(pairs, "split.count"), 1),
        part=_number(pairs, "split.no"),
    )


def _context_token_bytes(architecture: str, pairs: dict[str, Value]) -> int:
    """Two bytes for each number of keys and values. Layers with a sliding window count as layers without one."""
    layers = _number(pairs, f"{architecture}.block_count")
    heads = _number(pairs, f"{architecture}.attention.head_count")
    head_length = _number(pairs, f"{architecture}.embedding_length") // heads if heads else 0
    lengths = [_number(pairs, f"{architecture}.attention.{name}_length", head_length) for name in ("key", "value")]
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


class _HeaderReader:
    """Reads forwards only, and no further than a header may be long."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file, self._size = file, size_bytes
        self._most = self._left = min(size_bytes, MAX_HEADER_BYTES)

    def pairs(self) -> dict[str, Value]:
        """The metadata: short values, and the lengths of long arrays. Raises BrokenHeader, OSError."""
        if self._left < len(MAGIC) or self._read(len(MAGIC)) != MAGIC:
            raise BrokenHeader("is not a GGUF file")
        version = self._scalar("<I")
        if version not in _VERSIONS:
            raise BrokenHeader(
                f"is a GGUF file of version {version}, and only 2 and 3 are supported: convert the model again"
            )
        tensors, count = self._scalar("<Q"), self._scalar("<Q")
        if count > _MAX_PAIRS or tensors > _MAX_TENSORS:
            raise BrokenHeader(_DAMAGED)
        found: dict[str, Value] = {}
        for _ in range(int(count)):
            key = self._text()
            value = self._value(int(self._scalar("<I")))
            if value is not None:
                found[key] = value
        offsets = [self._tensor_offset() for _ in range(int(tensors))]
        alignment = _number(found, "general.alignment") or _ALIGNMENT_BYTES
        weights_begin = -(-(self._most - self._left) // alignment) * alignment
        if offsets and weights_begin + max(offsets) >= self._size:
            raise BrokenHeader("is not complete: its weights end too early; copy or download it again")
        return found

    def _tensor_offset(self) -> int:
        self._text()
        dimensions = int(self._scalar("<I"))
        if dimensions > _MAX_DIMENSIONS:
            raise BrokenHeader(_DAMAGED)
        self._read(8 * dimensions + 4)
        return int(self._scalar("<Q"))

    def _value(self, kind: int) -> Value | None:
        if kind in _SCALARS:
            return self._scalar(_SCALARS[kind])
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY:
            return self._array()
        raise BrokenHeader(_DAMAGED)

    def _array(self) -> Value | None:
        """A short list of whole numbers; the length of any other array."""
        kind, count = int(self._scalar("<I")), int(self._scalar("<Q"))
        if kind == _STRING:
            for _ in range(self._affordable(count, 8)):
                self._read(self._length())
            return count
        if kind not in _SCALARS:
            raise BrokenHeader(_DAMAGED)
        form = _SCALARS[kind]
        raw = self._read(self._affordable(count, struct.calcsize(form)) * struct.calcsize(form))
        if count > _MAX_KEPT_ITEMS or form in ("<f", "<d"):
            return count
        return [max(int(number), 0) for (number,) in struct.iter_unpack(form, raw)]

    def _text(self) -> str:
        """Empty where it is longer than every text that is used."""
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

    def _too_short(self) -> BrokenHeader:
        if self._size < MAX_HEADER_BYTES:
            return BrokenHeader("is not complete: its header ends too early; copy or download it again")
        return BrokenHeader(_DAMAGED)
