"""N-gram models: their tokenizers, probabilities and backends."""

from __future__ import annotations

import asyncio
import math
import os
import selectors
import statistics
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from functools import cache
from itertools import islice, pairwise
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.backend import BackendFailed, Chunk, Ending, Piece, Request
from producers.ngram.backend import NGRAM_MODELS, NgramBackend
from producers.ngram.corpus import PASSAGE_WORDS, load_passages, passages_of
from producers.ngram.model import NgramModel, PromptedModel, drawn_token
from producers.ngram.relevance import BEST_MATCH, MIN_PASSAGES, PassageIndex
from producers.ngram.tokenizers import END, Kind, Tokenizer, byte_pair_spelling, learnt_tokenizer
from schemas.errors import Refused, Unavailable

KINDS: tuple[Kind, ...] = ("word", "char", "bpe")
PROMPT = "What happens when a generator is closed before its end?"
passages = cache(load_passages)
models = st.sampled_from(NGRAM_MODELS)
unhurried = settings(deadline=None, max_examples=60)


@cache
def tokenizer(kind: Kind) -> Tokenizer:
    return learnt_tokenizer(kind, passages())


@cache
def model(name: str) -> NgramModel:
    kind = next(kind for kind in KINDS if f":{kind}-" in name)
    return NgramModel(kind, int(name.rpartition("-")[2]), passages())


@cache
def prompted(name: str, prompt: str = PROMPT) -> PromptedModel:
    return model(name).prompted(prompt)


def a_request(max_tokens: int = 40, temperature: float = 0.7, seed: int | None = 5) -> Request:
    return Request(PROMPT, "", max_tokens, temperature, seed, top_k=20, silence_ms=30_000)


async def answered(name: str, request: Request) -> tuple[list[Piece], Ending]:
    """All items of a model's answer, as fast as possible."""
    backend = NgramBackend(name, math.inf)
    await backend.start()
    pieces: list[Piece] = []
    async for part in backend.generate(request):
        if isinstance(part, Ending):
            await backend.close()
            return pieces, part
        assert isinstance(part, Chunk)
        pieces += part.pieces
    raise AssertionError("an answer without an ending")


# The corpus


def test_a_chapter_becomes_its_sentences_without_headings_code_and_mark_up() -> None:
    chapter = (
        'The "for" statement\n*******************\n\n'
        'The "for" statement is used to\niterate over the *elements* of an iterable. [1]\n\n'
        "   for_stmt ::= for target in a list of eight or more words.\n\n"
        "   Total = sum(\n       numbers) # This adds up all of the numbers, once and for all.\n\n"
        "* This is an item of a list\n  that goes on in a second line.\n\n"
        "Too short a paragraph.\n\n"
        'The "for" statement is used to iterate over the *elements* of an iterable.\n\n'
        "Changed in version 3.11: Starred elements are now allowed in the list.\n"
    )
    first = "The for statement is used to iterate over the elements of an iterable."
    second = "This is an item of a list that goes on in a second line."
    assert passages_of([chapter]) == (f"{first}\n\n{second}",)


def test_the_passages_of_this_python_are_prose_and_no_paragraph_comes_twice() -> None:
    paragraphs = [paragraph for passage in passages() for paragraph in passage.split("\n\n")]
    assert len(passages()) > 100
    assert len(paragraphs) == len(set(paragraphs))
    assert all(text[0].isupper() and text.endswith(".") and "\n" not in text for text in paragraphs)
    assert statistics.median(len(passage.split()) for passage in passages()) >= PASSAGE_WORDS


# Tokenizers


@pytest.mark.parametrize("kind", KINDS)
def test_the_pieces_of_the_corpus_concatenate_to_the_corpus(kind: Kind) -> None:
    learnt = tokenizer(kind)
    for passage in passages():
        tokens = learnt.encode(passage)
        assert END not in tokens
        assert learnt.decode(tokens) == passage


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_except_the_end_has_its_own_text(kind: Kind) -> None:
    pieces = tokenizer(kind).pieces
    assert pieces[END] == ""
    assert all(pieces[END + 1 :])
    assert len(set(pieces)) == len(pieces)
    assert all(piece.encode().decode() == piece for piece in pieces)


@unhurried
@given(st.sampled_from(KINDS), st.data())
def test_words_with_their_spaces_can_be_put_in_any_order(kind: Kind, data: st.DataObject) -> None:
    spaced = sorted(word for word in tokenizer(kind).spelling if word[0] == " " and word[1:].isalpha())
    text = "".join(data.draw(st.lists(st.sampled_from(spaced), max_size=30)))
    assert tokenizer(kind).decode(tokenizer(kind).encode(text)) == text


@unhurried
@given(st.sampled_from(KINDS), st.text() | st.text("the lop-_.'’\n"))
def test_a_text_is_encoded_exactly_or_not_at_all(kind: Kind, text: str) -> None:
    with suppress(KeyError):
        assert tokenizer(kind).decode(tokenizer(kind).encode(text)) == text


def naive_byte_pairs(counts: Counter[str], merges: int) -> dict[str, tuple[str, ...]]:
    """Counts all pairs again before each merge."""
    spelt = {word: tuple(word) for word in counts}
    for _ in range(merges):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, pieces in spelt.items():
            for pair in pairwise(pieces):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        for word, pieces in spelt.items():
            merged: list[str] = []
            rest = list(pieces)
            while rest:
                taken = 2 if tuple(rest[:2]) == best else 1
                merged.append("".join(rest[:taken]))
                rest = rest[taken:]
            spelt[word] = tuple(merged)
    return spelt


@settings(deadline=None, max_examples=200)
@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=9), st.integers(1, 4), max_size=6),
    st.integers(0, 9),
)
def test_byte_pairs_are_those_of_the_algorithm_that_counts_all_pairs_again(counts: dict[str, int], merges: int) -> None:
    assert byte_pair_spelling(Counter(counts), merges) == naive_byte_pairs(Counter(counts), merges)


# Relevance


def test_a_passage_with_the_rare_word_has_the_largest_weight_and_the_others_have_one() -> None:
    texts = ["Bees make honey."] * MIN_PASSAGES + ["Cats sleep all day."] * 7
    weights = PassageIndex(texts).weights("Please tell me about honeys!")
    assert weights.tolist() == [BEST_MATCH] * MIN_PASSAGES + [1.0] * 7


@pytest.mark.parametrize("prompt", ["", "?!", "Why should I?", "xyzzy plugh", "warum ist der Himmel blau"])
def test_a_prompt_without_a_known_word_gives_all_passages_one_weight(prompt: str) -> None:
    assert set(PassageIndex(passages()).weights(prompt)) == {1.0}


@unhurried
@given(st.text(max_size=60) | st.lists(st.sampled_from(" ".join(passages()).split()), max_size=30).map(" ".join))
def test_weights_lie_between_one_and_the_best_match(prompt: str) -> None:
    weights = model("ngram:word-3").index.weights(prompt)
    assert weights.min() >= 1.0
    assert weights.max() in (1.0, BEST_MATCH)


@pytest.mark.parametrize("name", NGRAM_MODELS)
def test_the_best_passage_for_a_prompt_is_more_probable_than_without_it(name: str) -> None:
    best = passages()[int(model(name).index.weights(PROMPT).argmax())]
    tokens = [END] * (model(name).order - 1) + model(name).tokenizer.encode(best)[:60]

    def log_likelihood(of: PromptedModel) -> float:
        places = range(model(name).order - 1, len(tokens))
        return sum(math.log(of.distribution(tokens[:place])[tokens[place]]) for place in places)

    assert log_likelihood(prompted(name)) > log_likelihood(prompted(name, "")) + 1.0


# Probabilities


@unhurried
@given(models, st.sampled_from([PROMPT, "", "for loops and while loops"]), st.data())
def test_every_context_has_a_distribution_that_sums_to_one(name: str, prompt: str, data: st.DataObject) -> None:
    """Contexts of the corpus, and contexts that do not occur in it."""
    order, learnt = model(name).order, model(name).tokenizer
    seen = learnt.encode(data.draw(st.sampled_from(passages())))
    start = data.draw(st.integers(0, len(seen)))
    occurring = st.just(([END] * order + seen)[start : start + order])
    arbitrary = st.lists(st.integers(0, len(learnt.pieces) - 1), min_size=order - 1, max_size=order + 2)
    context = data.draw(occurring | arbitrary)
    distribution = prompted(name, prompt).distribution(context)
    assert distribution.shape == (len(learnt.pieces),)
    assert abs(distribution.sum() - 1.0) < 1e-9
    impossible = np.flatnonzero(distribution <= 0.0).tolist()
    assert impossible == ([END] if context[-1] == END else [])


def defined_probability(
    of: NgramModel, weights: list[float], texts: list[str], context: list[int], token: int
) -> float:
    """Witten-Bell by its definition, from every position of every text for each context length."""
    probability = 1.0 / len(of.tokenizer.pieces)
    for length in range(of.order):
        wanted = context[len(context) - length :]
        found: list[tuple[int, float]] = []
        for text, weight in zip(texts, weights, strict=True):
            stream = [END] * (of.order - 1) + of.tokenizer.encode(text) + [END]
            places = range(of.order - 1, len(stream))
            found += [(stream[place], weight) for place in places if stream[place - length : place] == wanted]
        if not found:
            break
        share = sum(weight for follower, weight in found if follower == token) / sum(weight for _, weight in found)
        different = len({follower for follower, _ in found})
        probability = (len(found) * share + different * probability) / (len(found) + different)
    return probability


@unhurried
@given(
    st.sampled_from(KINDS),
    st.integers(2, 4),
    st.lists(st.text("abé ", min_size=1, max_size=8), min_size=1, max_size=6),
    st.sampled_from(["", "aa bb ab"]),
    st.data(),
)
def test_probabilities_are_those_of_the_definition(
    kind: Kind, order: int, texts: list[str], prompt: str, data: st.DataObject
) -> None:
    learnt = NgramModel(kind, order, texts)
    known = st.integers(1, len(learnt.tokenizer.pieces) - 1)
    earlier = st.lists(known | st.just(END), min_size=order - 2, max_size=order - 2)
    context = [*data.draw(earlier), data.draw(known)]
    weights = learnt.index.weights(prompt).tolist()
    distribution = learnt.prompted(prompt).distribution(context)
    for token, probability in enumerate(distribution.tolist()):
        assert probability == pytest.approx(defined_probability(learnt, weights, texts, context, token), abs=1e-12)


@unhurried
@given(models, st.lists(st.lists(st.integers(0, 90), min_size=7, max_size=7), min_size=1, max_size=20))
def test_cached_sums_change_no_probability(name: str, contexts: list[list[int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("producers.ngram.model.LONG_RANGE", 0)
        keeping = model(name).prompted(PROMPT)
        kept = [keeping.distribution(context) for context in contexts * 2]
        patch.setattr("producers.ngram.model.LONG_RANGE", 10**9)
        own = [model(name).prompted(PROMPT).distribution(context) for context in contexts]
    assert np.array_equal(kept, own * 2)


@cache
def only_followers(name: str) -> tuple[list[tuple[tuple[int, ...], int]], Counter[int]]:
    """The full contexts that one token always follows, with that token; and the number of each token."""
    learnt = model(name)
    followers: defaultdict[tuple[int, ...], set[int]] = defaultdict(set)
    frequency: Counter[int] = Counter()
    for passage in passages():
        stream = [END] * (learnt.order - 1) + learnt.tokenizer.encode(passage) + [END]
        for place in range(learnt.order - 1, len(stream)):
            followers[tuple(stream[place - learnt.order + 1 : place])].add(stream[place])
            frequency[stream[place]] += 1
    return [(context, tokens.pop()) for context, tokens in followers.items() if len(tokens) == 1], frequency


@unhurried
@given(models, st.integers(0))
def test_a_token_that_always_follows_a_context_is_more_probable_after_it_than_alone(name: str, number: int) -> None:
    always, frequency = only_followers(name)
    context, follower = always[number % len(always)]
    by_itself = frequency[follower] / frequency.total()
    assert prompted(name, "").distribution(context)[follower] > by_itself + 0.3


@pytest.mark.parametrize("order", [1, 64])
def test_an_order_that_does_not_fit_into_a_key_is_an_error(order: int) -> None:
    with pytest.raises(ValueError, match="is too large: a context has 62 bits"):
        NgramModel("char", order, ["ab"])


# Drawing


@pytest.mark.parametrize(("temperature", "power"), [(1.0, 1.0), (0.5, 2.0), (2.0, 0.5)])
def test_tokens_are_drawn_in_proportion_to_their_tempered_probabilities(temperature: float, power: float) -> None:
    probabilities = np.array([0.15, 0.25, 0.6])
    random, draws = Random(1), 20_000
    drawn = Counter(drawn_token(np.log(probabilities), temperature, random) for _ in range(draws))
    tempered = probabilities**power / (probabilities**power).sum()
    for token, expected in enumerate(tempered):
        assert drawn[token] / draws == pytest.approx(expected, abs=5 * math.sqrt(0.25 / draws))


@pytest.mark.parametrize("temperature", [5e-324, 0.01, 1.0, 2.0])
@pytest.mark.parametrize("number", [0.0, 1.0 - 2.0**-53])
def test_the_least_and_the_largest_random_number_draw_possible_tokens(temperature: float, number: float) -> None:
    class Loaded(Random):
        def random(self) -> float:
            return number

    logprobs = np.array([-math.inf, math.log(0.25), math.log(0.75)])
    assert drawn_token(logprobs, temperature, Loaded()) in (1, 2)


@pytest.mark.parametrize("name", NGRAM_MODELS)
def test_temperature_zero_takes_the_likeliest_token(name: str) -> None:
    learnt, context = model(name), [END] * (model(name).order - 1)
    for drawn in islice(prompted(name).answer(0.0, Random(), 1), 30):
        token = int(prompted(name).distribution(context).argmax())
        assert drawn.text == learnt.tokenizer.pieces[token]
        assert drawn.top == ((drawn.text.encode(), drawn.logprob),)
        context.append(token)


@unhurried
@given(models, st.integers(0, 2**32), st.sampled_from([0.3, 1.0, 2.0]), st.integers(0, 200))
def test_logprobs_are_those_of_the_distribution_at_every_temperature(
    name: str, seed: int, temperature: float, top_k: int
) -> None:
    learnt, context = model(name), [END] * (model(name).order - 1)
    token_of = {piece: token for token, piece in enumerate(learnt.tokenizer.pieces)}
    for drawn in islice(prompted(name).answer(temperature, Random(seed), top_k), 5):
        with np.errstate(divide="ignore"):
            own = np.log(prompted(name).distribution(context))
        listed = [token_of[piece.decode()] for piece, _ in drawn.top]
        logprobs = [logprob for _, logprob in drawn.top]
        assert len(set(listed)) == len(listed) == min(top_k, int(np.isfinite(own).sum()))
        assert logprobs == own[listed].tolist() == sorted(own.tolist(), reverse=True)[: len(listed)]
        assert all(logprob <= 0.0 for logprob in logprobs)
        assert drawn.logprob == own[token_of[drawn.text]]
        context.append(token_of[drawn.text])


def test_a_list_as_long_as_the_vocabulary_has_every_possible_token_and_sums_to_one() -> None:
    first = next(prompted("ngram:char-6").answer(1.0, Random(3), 10_000))
    assert b"" not in dict(first.top)
    assert math.fsum(math.exp(logprob) for _, logprob in first.top) == pytest.approx(1.0, abs=1e-9)


def test_answers_are_never_empty_and_mostly_have_a_natural_length() -> None:
    lengths = []
    for name in NGRAM_MODELS:
        for seed in range(8):
            text = "".join(drawn.text for drawn in islice(prompted(name).answer(0.7, Random(seed), 0), 1_000))
            assert text
            lengths.append(len(text.split()))
    assert 40 <= statistics.median(lengths) <= 200


# The backend


@pytest.mark.parametrize("name", NGRAM_MODELS)
async def test_the_pieces_concatenate_to_the_model_s_answer(name: str) -> None:
    pieces, ending = await answered(name, a_request(max_tokens=60))
    own = [drawn for drawn in islice(prompted(name).answer(0.7, Random(5), 20), 60) if drawn.token != END]
    assert "".join(piece.text for piece in pieces) == "".join(drawn.text for drawn in own)
    assert [(piece.logprob, piece.top) for piece in pieces] == [(drawn.logprob, drawn.top) for drawn in own]
    assert ending.reason == ("length" if len(own) == 60 else "stop")
    for piece in pieces:
        assert piece.text
        assert (piece.piece or piece.text.encode()) == piece.text.encode()
        assert (piece.lane, piece.quality, len(piece.top)) == ("answer", "real", 20)


async def test_the_same_seed_gives_the_same_answer_and_no_seed_gives_others() -> None:
    async def text(seed: int | None) -> str:
        pieces, _ = await answered("ngram:word-3", a_request(seed=seed, temperature=1.0))
        return "".join(piece.text for piece in pieces)

    assert await text(5) == await text(5)
    assert len({await text(None) for _ in range(4)}) > 1


def test_another_process_gives_the_same_answer_to_the_same_seed() -> None:
    """Strings hash differently in each process: what a model learns must not depend on that."""
    script = (
        "from random import Random; from itertools import islice;"
        "from producers.ngram.corpus import load_passages; from producers.ngram.model import NgramModel;"
        f"answer = NgramModel('bpe', 3, load_passages()).prompted({PROMPT!r}).answer(1.0, Random(5), 20);"
        "print([(drawn.text, drawn.logprob, drawn.top) for drawn in islice(answer, 50)])"
    )
    answers = [python(script, PYTHONHASHSEED=seed) for seed in ("1", "2")]
    own = islice(prompted("ngram:bpe-3").answer(1.0, Random(5), 20), 50)
    assert answers == [str([(drawn.text, drawn.logprob, drawn.top) for drawn in own])] * 2


@pytest.mark.parametrize("max_tokens", [1, 7])
async def test_an_answer_that_is_cut_has_max_tokens_and_the_reason_length(max_tokens: int) -> None:
    """A character is a token of this model, which reads the turn to be answered alone."""
    request = a_request(max_tokens=max_tokens)
    pieces, ending = await answered("ngram:char-6", request)
    assert (len(pieces), ending) == (max_tokens, Ending("length", prompt_tokens=len(request.prompt)))


async def test_an_answer_that_the_model_ends_has_the_reason_stop() -> None:
    pieces, ending = await answered("ngram:word-3", a_request(max_tokens=8_192))
    assert 0 < len(pieces) < 8_192
    assert ending.reason == "stop"
    assert ending.logprob is not None
    assert dict(ending.top).get(b"", ending.logprob) == ending.logprob, "the end is a proposal like any other"


def test_an_unknown_model_is_refused_in_a_sentence_that_names_the_known_ones() -> None:
    with pytest.raises(Refused, match=r"^There is no model 'ngram:word-9'.*\.$") as refused:
        NgramBackend("ngram:word-9")
    assert refused.value.code == "unknown_model"
    assert all(name in str(refused.value) for name in NGRAM_MODELS)


@pytest.mark.parametrize("pace", [0.0, -1.0, math.nan])
def test_a_pace_that_is_not_above_zero_is_refused(pace: float) -> None:
    with pytest.raises(Refused, match="give a number above 0"):
        NgramBackend("ngram:word-3", pace)


async def test_a_model_that_has_not_learnt_fails_in_a_sentence() -> None:
    with pytest.raises(BackendFailed, match="the model ngram:word-3 has not learnt yet"):
        await anext(NgramBackend("ngram:word-3").generate(a_request()))


async def test_a_python_without_help_topics_fails_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(Unavailable, match=r"install the full standard library"):
        await NgramBackend("ngram:word-3").start()


async def test_the_event_loop_runs_while_a_model_learns() -> None:
    starting = asyncio.create_task(NgramBackend("ngram:bpe-3").start())
    turns = 0
    while not starting.done():
        await asyncio.sleep(0)
        turns += 1
    await starting
    assert turns > 5


def test_the_names_are_known_without_numpy_and_without_the_corpus() -> None:
    script = (
        "import sys; sys.modules['numpy'] = sys.modules['pydoc_data'] = None;"
        "from producers.ngram.backend import NGRAM_MODELS, NgramBackend;"
        "[NgramBackend(name) for name in NGRAM_MODELS]; print(len(NGRAM_MODELS))"
    )
    assert python(script) == "6"


def python(script: str, **environment: str) -> str:
    """The output of a new Python process."""
    process = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8", **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=True,
    )
    return process.stdout.strip()


# The pace, by a clock that runs only while the loop sleeps, and wakes it late


class LateClock(asyncio.SelectorEventLoop):
    """An event loop in which every sleep ends `late_s` after its time."""

    def __init__(self, late_s: float) -> None:
        super().__init__(LateSelector(self, late_s))
        self.now = 1_000.0

    def time(self) -> float:
        return self.now


class LateSelector(selectors.SelectSelector):
    def __init__(self, clock: LateClock, late_s: float) -> None:
        super().__init__()
        self.clock = clock
        self.late_s = late_s

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout:
            self.clock.now += timeout + self.late_s
            timeout = 0.0
        return super().select(timeout)


@pytest.fixture
def by_late_clock() -> Iterator[Callable[[Coroutine[Any, Any, None]], None]]:
    loop = LateClock(late_s=0.003)
    yield loop.run_until_complete
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def test_late_wake_ups_do_not_add_up(by_late_clock: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    """
    due      |    1    2    3    4   ...   each 0.1 s after the due time before it
    yielded  |    '1   '2   '3   '4  ...   3 ms late, the hundredth too
    """

    async def times() -> None:
        backend = NgramBackend("ngram:char-6", 10.0)
        await backend.start()
        clock = asyncio.get_running_loop()
        began = clock.time()
        answer = backend.generate(a_request(max_tokens=100, seed=1))
        while isinstance(await anext(answer), Chunk):
            arrivals.append(clock.time() - began)

    arrivals: list[float] = []
    by_late_clock(times())
    assert arrivals == pytest.approx([0.1 * (token + 1) + 0.003 for token in range(100)], abs=1e-6)


def test_a_reader_that_paused_gets_the_next_token_at_once_and_no_burst(
    by_late_clock: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    """
    due      |    1    2                      3    4    5
    taken    |    1    2   (five seconds)     3    4    5
    """

    async def times() -> None:
        backend = NgramBackend("ngram:char-6", 10.0)
        await backend.start()
        clock = asyncio.get_running_loop()
        answer = backend.generate(a_request(max_tokens=100, seed=1))
        for token in range(5):
            assert isinstance(await anext(answer), Chunk)
            arrivals.append(clock.time())
            if token == 1:
                await asyncio.sleep(5.0)

    arrivals: list[float] = []
    by_late_clock(times())
    gaps = [later - earlier for earlier, later in pairwise(arrivals)]
    assert gaps == pytest.approx([0.1, 5.003, 0.1, 0.1], abs=0.004)
