"""Where a model comes from, as a supervisor's argument and as a person's flags."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.__main__ import argument_parser, order_of
from producers.source import Api, ModelSource, ProducerOrder, gguf_source, ordered
from schemas.errors import Refused
from tests.support.project import ROOT

# What an argument of a process may contain: anything but a zero byte and half characters.
texts = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=40)
numbers = st.integers(0, 2**31)
sources = st.builds(
    ModelSource,
    st.sampled_from(get_args(Api)),
    texts,
    url=texts,
    path=texts,
    key_env=texts,
    remote=st.booleans(),
    parallel=numbers,
    max_loaded=numbers,
    keep_alive_s=st.integers(-1, 2**31),
    threads=numbers,
)
orders = st.builds(
    ProducerOrder, texts, sources, st.booleans(), st.none() | st.floats(0, allow_nan=False, allow_infinity=False)
)


@given(orders)
def test_an_order_is_the_same_in_the_process_that_receives_it(order: ProducerOrder) -> None:
    assert ordered(order.as_arguments()) == order


def test_an_order_arrives_through_a_real_command_line() -> None:
    order = ProducerOrder("-x é \n'\"", ModelSource("openai", "a b", "http://h/?q=1&r=2"), tokens_per_s=0.1)
    program = "import sys; from producers.source import ordered; print(ascii(ordered(sys.argv[1:])))"
    said = subprocess.run(
        [sys.executable, "-c", program, *order.as_arguments()], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == ascii(order)


@pytest.mark.parametrize("arguments", [[], ["ngram:word-3"], ["ngram:word-3", "--warm"], ["--order"], ["--help"]])
def test_a_persons_flags_are_not_an_order(arguments: list[str]) -> None:
    assert ordered(arguments) is None


FILE, GGUF = gguf_source("/m/tiny.gguf", 2, 3)


@pytest.mark.parametrize(
    ("flags", "order"),
    [
        ("ngram:word-3", ProducerOrder("ngram:word-3", ModelSource("ngram", "ngram:word-3"))),
        ("ngram:word-3 --tokens-per-s 5 --warm",
         ProducerOrder("ngram:word-3", ModelSource("ngram", "ngram:word-3"), True, 5.0)),
        ("gguf:/m/tiny.gguf --parallel 2 --threads 3", ProducerOrder(FILE, GGUF)),
        ("own --path /m/tiny.gguf --parallel 2 --threads 3", ProducerOrder("own", GGUF)),
        ("m --backend http://127.0.0.1:1 --name n --key-env K --parallel 2 --max-loaded 3",
         ProducerOrder("m", ModelSource("openai", "n", "http://127.0.0.1:1", key_env="K", parallel=2, max_loaded=3))),
        ("m --backend http://127.0.0.1:1 --api ollama --keep-alive-s 9",
         ProducerOrder("m", ModelSource("ollama", "m", "http://127.0.0.1:1", keep_alive_s=9))),
        ("m --backend http://gpu.example --no-remote", ProducerOrder("m", ModelSource("openai", "m",
                                                                                      "http://gpu.example"))),
    ],
)  # fmt: skip
def test_a_persons_flags_give_the_same_order(flags: str, order: ProducerOrder) -> None:
    assert order_of(argument_parser().parse_args(flags.split())) == order


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        ("m", "no_backend"),
        ("m --backend http://gpu.example", "remote_model"),
        ("m --backend http://h --remote", "remote_model"),
    ],
)
def test_a_model_without_a_server_or_outside_this_network_is_refused(
    flags: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COUNCIL_TIER", "high")
    with pytest.raises(Refused) as caught:
        order_of(argument_parser().parse_args(flags.split()))
    assert caught.value.code == code


def test_no_api_key_is_in_an_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU_KEY", "sesame-open-up")
    order = ProducerOrder("m", ModelSource("openai", "m", "https://gpu.example", key_env="GPU_KEY", remote=True))
    assert "sesame" not in "".join(order.as_arguments())
    assert "GPU_KEY" in "".join(order.as_arguments())
