"""The header of a GGUF file, whatever its bytes are, and the memory that its model will take."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.gguf_model import gguf_model
from producers.llama.file import GgufFacts, gguf_facts
from producers.llama.footprint import CONTEXTS_TOKENS, WORKING_BYTES, plan_for
from producers.llama.header import FILE_TYPES, MAX_HEADER_BYTES, BrokenHeader, decoded_header
from producers.llama.threads import threads_for
from schemas.errors import Refused
from tests.support.session_folder import session_folder

GB = 10**9
HEAD = struct.Struct("<4sIQQ")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gguf_model(session_folder(tmp_path_factory))


@functools.cache
def parts_of(model: Path) -> tuple[bytes, int, int]:
    """(the file's bytes, where its weights begin, where the last tensor begins). Not a fixture: hypothesis prints
    fixtures."""
    reader = gguf.GGUFReader(model)
    return model.read_bytes(), int(reader.data_offset), max(int(tensor.data_offset) for tensor in reader.tensors)


def written(path: Path, pairs: dict[str, Any], architecture: str = "llama") -> Path:
    """A GGUF file with this metadata and no weights."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in pairs.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        else:
            writer.add_uint32(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def refusal(path: Path) -> str:
    with pytest.raises(Refused) as refused:
        gguf_facts(path)
    sentence = str(refused.value)
    assert "\n" not in sentence
    return sentence.replace(str(path), "FILE")


# A valid file


def test_a_header_contains_what_the_model_is_and_what_it_takes(model: Path) -> None:
    """One layer of 4 heads, each with 32 numbers of keys and 32 of values, of two bytes."""
    facts = gguf_facts(model)
    assert (facts.architecture, facts.context_tokens, facts.vocabulary) == ("llama", 1 << 20, 512)
    assert facts.chat_template.startswith("{% for message in messages %}")
    assert (facts.details, facts.capabilities) == ("llama F16", ("completion",))
    assert (facts.size_bytes, facts.context_token_bytes) == (model.stat().st_size, 1 * 4 * (32 + 32) * 2)


def test_a_context_costs_what_the_layers_with_attention_keep(tmp_path: Path) -> None:
    """A hybrid model has a number of heads for each layer, 0 for layers without attention."""
    sizes = {"llama.block_count": 4, "llama.embedding_length": 512, "llama.attention.head_count": 8}
    assert gguf_facts(written(tmp_path / "a", sizes)).context_token_bytes == 2 * 4 * 8 * (64 + 64)
    of_layers = {"llama.attention.head_count_kv": [2, 0, 0, 2], "llama.attention.key_length": 128}
    assert gguf_facts(written(tmp_path / "b", sizes | of_layers)).context_token_bytes == 2 * 4 * (128 + 64)
    assert gguf_facts(written(tmp_path / "c", {"mamba.block_count": 4}, "mamba")).context_token_bytes == 0


def test_capabilities_follow_from_the_template_and_the_pooling(tmp_path: Path) -> None:
    thinks = written(tmp_path / "a", {"tokenizer.chat_template": "{{ '<think>' }}", "general.size_label": "8B"})
    assert gguf_facts(thinks).capabilities == ("completion", "thinking")
    assert gguf_facts(thinks).details == "llama 8B"
    embeds = written(tmp_path / "b", {"bert.pooling_type": 1}, "bert")
    assert gguf_facts(embeds).capabilities == ("embedding",)


def test_a_terminal_can_show_the_name_in_a_file(tmp_path: Path) -> None:
    label = written(tmp_path / "a", {"general.size_label": "8B\x1b[2J\n" + "x" * 100})
    assert gguf_facts(label).details == "llama 8B " + "x" * 60 + "…"
    assert refusal(written(tmp_path / "b", {}, "lla\nma")) == DAMAGED


def test_file_types_have_llama_cpps_names() -> None:
    theirs = {kind.value: kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in gguf.LlamaFileType}
    assert theirs | FILE_TYPES == theirs


def test_two_names_of_one_file_are_one_model(model: Path, tmp_path: Path) -> None:
    (tmp_path / "link.gguf").symlink_to(model)
    os.link(model, tmp_path / "hard.gguf")
    (tmp_path / "copy.gguf").write_bytes(model.read_bytes())
    digests = [gguf_facts(tmp_path / f"{name}.gguf").digest for name in ("link", "hard", "copy")]
    assert [digest == gguf_facts(model).digest for digest in digests] == [True, True, False]


def test_a_model_in_several_files_is_as_large_as_all_of_them(tmp_path: Path) -> None:
    split = {"split.count": 3, "split.no": 0}
    first = written(tmp_path / "m-00001-of-00003.gguf", split)
    for number in (2, 3):
        written(tmp_path / f"m-0000{number}-of-00003.gguf", split | {"split.no": number - 1})
    second = tmp_path / "m-00002-of-00003.gguf"
    assert gguf_facts(first).size_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert refusal(second) == (
        "FILE is one of several files of a model: name the first one, which ends in -00001-of-0000N.gguf."
    )
    second.unlink()
    assert refusal(first) == f"FILE is the first of 3 files of a model, and {second.name} is missing beside it."


def test_reading_a_header_imports_neither_numpy_nor_llama_cpp() -> None:
    """`council models` reads headers where neither is installed."""
    program = (
        "import sys, producers.llama.backend; print({'numpy', 'gguf', 'xllamacpp'} & {*sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "set()\n"


# An invalid file


def test_a_path_that_is_not_a_file_is_refused_in_one_sentence(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.gguf") == "There is no file FILE: name a GGUF file, such as gguf:model.gguf."
    assert refusal(tmp_path) == "FILE is not a file: name a GGUF file, such as gguf:model.gguf."
    assert refusal(tmp_path / ("x" * 300)) == "FILE cannot be read: File name too long."
    assert "cannot be read" in refusal(Path("zero\0byte"))


DAMAGED = "FILE has a damaged header."
CUT_HEADER = "FILE is not complete: its header ends too early; copy or download it again."
PAIR = struct.Struct("<Q1sI")
BROKEN = {
    b"": "FILE is not a GGUF file.",
    b"GGU": "FILE is not a GGUF file.",
    b"<html>": "FILE is not a GGUF file.",
    b"GGUF": CUT_HEADER,
    HEAD.pack(b"GGUF", 1, 0, 0): (
        "FILE is a GGUF file of version 1, and only 2 and 3 are supported: convert the model again."
    ),
    HEAD.pack(b"GGUF", 3, 0, 0): "FILE does not name its architecture: it contains no language model.",
    HEAD.pack(b"GGUF", 3, 0, 1): CUT_HEADER,
    HEAD.pack(b"GGUF", 3, 0, 2**63): DAMAGED,
    HEAD.pack(b"GGUF", 3, 2**63, 0): DAMAGED,
    HEAD.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q", 2**64 - 1): CUT_HEADER,
    HEAD.pack(b"GGUF", 3, 0, 1) + PAIR.pack(1, b"k", 99): DAMAGED,
    HEAD.pack(b"GGUF", 3, 0, 1) + PAIR.pack(1, b"k", 9) + struct.pack("<IQ", 9, 1): DAMAGED,
    HEAD.pack(b"GGUF", 3, 0, 1) + PAIR.pack(1, b"k", 9) + struct.pack("<IQ", 8, 2**61): CUT_HEADER,
    HEAD.pack(b"GGUF", 3, 0, 1) + PAIR.pack(1, b"k", 9) + struct.pack("<IQ", 10, 2**63): CUT_HEADER,
    HEAD.pack(b"GGUF", 3, 1, 0) + struct.pack("<Q1sI", 1, b"t", 2**31): DAMAGED,
}


@pytest.mark.parametrize(("content", "sentence"), BROKEN.items(), ids=range(len(BROKEN)))
def test_bytes_that_are_not_a_header_are_refused_in_one_sentence(content: bytes, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    assert refusal(path) == sentence


def test_an_endless_header_is_read_up_to_the_bound(tmp_path: Path) -> None:
    path = tmp_path / "endless.gguf"
    with path.open("wb") as file:
        file.write(HEAD.pack(b"GGUF", 3, 0, 1) + PAIR.pack(1, b"k", 9) + struct.pack("<IQ", 0, 1 << 40))
        file.truncate(1 << 41)
    assert refusal(path) == DAMAGED
    assert path.stat().st_size > MAX_HEADER_BYTES


@given(cut=st.integers(0, 1 << 20))
def test_a_file_that_is_cut_is_refused_except_in_its_last_tensor(cut: int, model: Path) -> None:
    """Only llama.cpp notices that a part of the last tensor is missing."""
    whole, weights, last = parts_of(model)
    cut %= last + 1
    path = model.with_name(f"cut-{os.getpid()}")
    path.write_bytes(whole[:cut])
    if cut >= weights:
        assert refusal(path) == "FILE is not complete: its weights end too early; copy or download it again."
    else:
        assert refusal(path) == (CUT_HEADER if cut >= len(b"GGUF") else "FILE is not a GGUF file.")


@given(data=st.data())
def test_no_bytes_break_the_reader(data: st.DataObject, model: Path) -> None:
    """A header with some bytes changed, or random bytes after a valid beginning: facts, or one sentence."""
    whole, weights, _ = parts_of(model)
    changed = bytearray(whole[:weights])
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(changed) - 1))
        changed[place : place + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    noise = data.draw(st.binary(max_size=200))
    counts = data.draw(st.tuples(st.integers(0, 5), st.integers(0, 5)))
    path = model.with_name(f"changed-{os.getpid()}")
    for content in (bytes(changed), HEAD.pack(b"GGUF", 3, *counts) + noise):
        path.write_bytes(content)
        with contextlib.suppress(Refused):
            assert gguf_facts(path).details.isprintable()


def test_a_header_is_decoded_from_any_readable_bytes(model: Path) -> None:
    """No file is needed, and nothing after the header is read."""
    whole, weights, _ = parts_of(model)

    class HeaderOnly(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            assert size is not None
            assert self.tell() + size <= weights
            return super().read(size)

    header = decoded_header(HeaderOnly(whole), len(whole))
    facts = gguf_facts(model)
    assert (header.vocabulary, header.details, header.parts) == (facts.vocabulary, facts.details, 1)


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_are_a_header_or_a_reason(noise: bytes, has_begun: bool) -> None:
    content = HEAD.pack(b"GGUF", 3, 1, 2) + noise if has_begun else noise
    with contextlib.suppress(BrokenHeader):
        decoded_header(io.BytesIO(content), len(content))


# Memory


def facts_of(size_bytes: int, *, trained: int = 1 << 17, token_bytes: int = 131_072) -> GgufFacts:
    return GgufFacts(
        path="m.gguf", size_bytes=size_bytes, digest="", architecture="llama", context_tokens=trained,
        context_token_bytes=token_bytes,
    )  # fmt: skip


def test_the_context_is_the_longest_that_fits_and_that_the_model_supports() -> None:
    """8 GB of weights; 131 KB for each token of context, in each of two slots."""
    facts = facts_of(8 * GB)
    needs = {tokens: 8 * GB + 2 * tokens * 131_072 + WORKING_BYTES for tokens in CONTEXTS_TOKENS}
    for tokens, needed in needs.items():
        plan = plan_for(facts, 2, needed, 0)
        assert (plan.fits, plan.footprint.context_tokens, plan.footprint.needed_bytes) == (True, tokens, needed)
    least = min(needs.values())
    assert not plan_for(facts, 2, least - 1, 0).fits
    assert plan_for(facts, 2, least - 1, 0).footprint.needed_bytes == least
    assert plan_for(facts_of(8 * GB, trained=512), 2, 64 * GB, 0).footprint.context_tokens == 512
    assert plan_for(facts_of(8 * GB, trained=0), 2, 64 * GB, 0).footprint.context_tokens == 8_192


def test_a_graphics_card_is_used_where_the_whole_model_fits() -> None:
    facts = facts_of(8 * GB)
    assert plan_for(facts, 2, 1 * GB, 12 * GB).is_on_gpu
    assert plan_for(facts, 2, 1 * GB, 12 * GB).fits
    assert not plan_for(facts, 2, 16 * GB, 6 * GB).is_on_gpu
    assert plan_for(facts, 2, 16 * GB, 6 * GB).fits
    assert not plan_for(facts, 2, 1 * GB, 6 * GB).fits


def test_models_share_all_cores_but_one() -> None:
    assert [threads_for(cpus, 1) for cpus in (1, 2, 4, 8, 16, 128)] == [1, 1, 3, 7, 8, 8]
    assert [threads_for(8, models) for models in (0, 1, 2, 3, 7, 20)] == [7, 7, 3, 2, 1, 1]
