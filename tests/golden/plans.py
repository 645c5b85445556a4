"""The golden sessions: their members and servers. Each contains something that only a real server does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas.rules.what_if import Change
from schemas.sessions import Sampling, Sync, Weighting
from tests.support.llama.files import SMOLLM2

# What a small machine reads in a millisecond: a model of N times so many bytes takes N ms a token, and the members of a
# council add up.
_BYTES_PER_MS = 12_500_000
# Nobody who knows these by heart needs a second look; cut by vocabularies that are too small for it, neither is known
# to its end.
_SENTENCE = (
    "Seven model servers recite identical sentences, although each vocabulary cuts words somewhere else; bytes agree."
)
_GERMAN = "Ein großes Café: müde Gäste hören 日本語 und 🙂, während Kellner schöne Lieder über Zürich singen."


@dataclass(frozen=True)
class Served:
    """A model and the server that answers for it. Equal ones share a server; `copy` tells apart those that must not.

    `ms` is about what a token takes where nobody else answers. One `in_process` is a GGUF file that its own producer
    runs. A `real` one is SmolLM2, and is not built. An `ngram` one is the n-gram model with the member's name.
    """

    vocab: int = 512
    dim: int = 128
    built: Mapping[str, object] = field(default_factory=dict)
    ms: int = 12
    drafts: bool = False
    in_process: bool = False
    copy: int = 0
    real: bool = False
    ngram: bool = False

    def __hash__(self) -> int:
        return hash(repr(self))

    @property
    def parameters(self) -> dict[str, object]:
        """What the model is built from."""
        width = self.ms * _BYTES_PER_MS // (6 * self.dim)
        return {"vocab": self.vocab, "dim": self.dim, "width": width, **self.built}

    def described(self) -> str:
        """The same in words, for the file's header."""
        if self.ngram:
            return "an n-gram model of this version"
        how = "a GGUF file in the producer's own llama.cpp" if self.in_process else "a llama.cpp server over HTTP"
        words = SMOLLM2.file if self.real else ", ".join(f"{name} {value}" for name, value in self.parameters.items())
        return f"{how}: {words}" + (", speculative decoding from its context's own n-grams" if self.drafts else "")


@dataclass(frozen=True)
class Part:
    """One member: its model, and what it has of its own. A `system` of None is the session's."""

    served: Served
    weight: float = 1.0
    system: str | None = None
    sampling: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """One session. The server of the member `killed` is killed when it has written a third of its tokens. One with a
    `change` is a what-if branch of the session that has the plan `branch_of`."""

    about: str
    parts: Mapping[str, Part]
    sampling: Sampling
    killed: str = ""
    weighting: Weighting = "fixed"
    system: str = ""
    sync: Sync = "step"
    prompt: str = "What is a list?"
    mixture: int = 0
    branch_of: str = ""
    change: Change | None = None


def _knows(sentence: str, vocab: int, ms: int) -> Part:
    return Part(Served(vocab, vocab - vocab % 8 - 8, {"sentence": sentence}, ms=ms))


_COLD = Sampling(max_tokens=60, temperature=0.0)
_WARM = Sampling(max_tokens=40, temperature=0.7, seed=3)
_TWIN = Served(512, 128, ms=16)
_REAL, _REAL_FILE = Served(real=True), Served(real=True, in_process=True)
_NGRAM_COUNCIL = {f"ngram:{name}": Part(Served(ngram=True)) for name in ("word-3", "char-6", "bpe-3")}
_FEW = Sampling(max_tokens=30, temperature=0.7, seed=3)

PLANS: dict[str, Plan] = {
    "vocabularies": Plan(
        "Four vocabulary sizes at temperature 0: after a few words each goes round in circles of its own.",
        {
            f"v{vocab}": Part(Served(vocab, dim, {"seed": 2}))
            for vocab, dim in ((400, 128), (640, 200), (1000, 200), (1024, 200))
        },
        Sampling(max_tokens=40, temperature=0.0),
    ),
    "one-text-many-cuts": Plan(
        "Three models know one sentence by heart and cut it differently; the least one loses the thread.",
        {f"v{vocab}": _knows(_SENTENCE, vocab, 16) for vocab in (330, 340, 400)},
        _COLD,
    ),
    "twins": Plan(
        "One model three times at temperature 0: twice on one server, whose batches they share, once on another.",
        {"left": Part(_TWIN), "right": Part(_TWIN), "other": Part(Served(512, 128, ms=16, copy=1))},
        _COLD,
    ),
    "seeds": Plan(
        "One model at temperature 0.7 with two seeds, its logits from all that came before. One begins by a space.",
        {
            "seed-1": Part(Served(512, 128, {"attends": True}, ms=16), sampling={"seed": 1}),
            "seed-6": Part(Served(512, 128, {"attends": True}, ms=16, copy=1), sampling={"seed": 6}),
        },
        Sampling(max_tokens=60, temperature=0.7),
    ),
    "split-characters": Plan(
        "Characters of two to four bytes, some split over tokens: byte pairs over HTTP and in the producer's own "
        "llama.cpp, Hangul, sentence pieces.",
        {
            "mixture": Part(Served(300, 200, {"mixture": True})),
            "gguf:mixture": Part(Served(300, 200, {"mixture": True}, in_process=True)),
            "hangul": Part(Served(400, 200, {"hangul": True})),
            "pieces": Part(Served(450, 200, {"kind": "sentence_pieces", "mixture": True})),
        },
        Sampling(max_tokens=50, temperature=1.0, seed=5),
    ),
    "split-twins": Plan(
        "One model of Hangul twice at temperature 0: over HTTP only the last token of a character is told, in the "
        "producer's own llama.cpp each.",
        {
            "hangul": Part(Served(400, 200, {"hangul": True}, ms=16)),
            "gguf:hangul": Part(Served(400, 200, {"hangul": True}, ms=16, in_process=True)),
        },
        _COLD,
    ),
    "many-alphabets": Plan(
        "A German sentence with Japanese and an emoji: two vocabularies know it by heart, a third one nearly.",
        {f"v{vocab}": _knows(_GERMAN, vocab, 16) for vocab in (300, 340, 400)},
        _COLD,
    ),
    "early-end": Plan(
        "One ends after 12 tokens, one when it has said its sentence, one goes on.",
        {
            "short": Part(Served(512, 128, {"seed": 1}), sampling={"max_tokens": 12}),
            "sentence": _knows(_SENTENCE, 400, 12),
            "long": Part(Served(1000, 200)),
        },
        _WARM,
    ),
    "no-lists": Plan(
        "One is asked for no alternatives, one for three, one for twenty.",
        {
            "none": Part(Served(512, 128), sampling={"top_k": 0}),
            "three": Part(Served(512, 128), sampling={"top_k": 3}),
            "twenty": Part(Served(512, 128, {"seed": 1})),
        },
        _WARM,
    ),
    "killed": Plan(
        "A model server is killed in mid-answer; two go on.",
        {"victim": Part(Served(512, 128)), "v400": Part(Served(400, 128)), "v1000": Part(Served(1000, 200))},
        _WARM,
        killed="victim",
    ),
    "drafts": Plan(
        "A server that decodes speculatively measures only what it did not guess.",
        {"drafting": Part(Served(512, 128, drafts=True)), "plain": Part(Served(512, 128))},
        _COLD,
    ),
    "thinking": Plan(
        "One thinks before it answers: its first token has no text. Weights 2, 1 and 0, by certainty.",
        {
            "thinks": Part(Served(328, 320, {"thinks": "by_itself"}), weight=2.0),
            "answers": Part(Served(640, 200)),
            "weightless": Part(Served(1000, 200, {"seed": 1}), weight=0.0),
        },
        Sampling(max_tokens=60, temperature=0.7, seed=113),
        weighting="certainty",
        system="Be brief.",
    ),
    "real-twins": Plan(
        "A real model three times at temperature 0: twice on one server, once in the producer's own llama.cpp.",
        {"left": Part(_REAL), "right": Part(_REAL), "gguf:smollm2": Part(_REAL_FILE)},
        Sampling(max_tokens=30, temperature=0.0),
    ),
    "real-seeds": Plan(
        "A real model in the producers' own llama.cpp, at temperatures 0 and 0.8: they agree until they part.",
        {
            "gguf:calm": Part(_REAL_FILE, sampling={"temperature": 0.0}),
            "gguf:open": Part(_REAL_FILE, sampling={"temperature": 0.8}),
        },
        Sampling(max_tokens=40, temperature=0.0, seed=5),
    ),
    "real-split-characters": Plan(
        "A real model writes emoji, of several tokens each: over HTTP and in the producer's own llama.cpp.",
        {"smollm2": Part(_REAL), "gguf:smollm2": Part(_REAL_FILE)},
        Sampling(max_tokens=40, temperature=0.0),
        system="You write emoji only. Continue this list of animals: 🦁 🐯 🐻 🐼 🐨",
    ),
    "real-early-end": Plan(
        "A real model: one member ends after 8 tokens, two go on.",
        {
            "short": Part(_REAL, sampling={"max_tokens": 8}),
            "gguf:long": Part(_REAL_FILE),
            "other": Part(_REAL, sampling={"seed": 4}),
        },
        _FEW,
        system="Be brief.",
    ),
    "real-no-lists": Plan(
        "A real model, asked for no alternatives, for three, and for twenty.",
        {
            "none": Part(_REAL, sampling={"top_k": 0}),
            "gguf:three": Part(_REAL_FILE, sampling={"top_k": 3}),
            "twenty": Part(_REAL),
        },
        _FEW,
    ),
    "real-killed": Plan(
        "A real model's server is killed in mid-answer; the same file in the producer's own llama.cpp goes on.",
        {"victim": Part(_REAL), "gguf:smollm2": Part(_REAL_FILE), "gguf:other": Part(_REAL_FILE, sampling={"seed": 4})},
        _FEW,
        killed="victim",
    ),
    "real-together": Plan(
        "A real model as two members that are asked in different ways: they write one answer.",
        {
            "gguf:plain": Part(_REAL_FILE, system="Answer in one short sentence."),
            "gguf:pirate": Part(_REAL_FILE, system="You are a pirate. Always begin with: Arrr!"),
        },
        Sampling(max_tokens=24, temperature=0.0),
        sync="consensus",
        prompt="Name an animal that lives in the sea.",
    ),
    "ngram-together": Plan(
        "The n-gram models, with their three tokenizers, write one answer.",
        _NGRAM_COUNCIL,
        Sampling(max_tokens=30, temperature=0.0),
        sync="consensus",
    ),
    "ngram-mixture": Plan(
        "The n-gram models write one answer, of which frames contain the mixture.",
        _NGRAM_COUNCIL,
        Sampling(max_tokens=20, temperature=0.0),
        sync="consensus",
        mixture=20,
    ),
    "ngram-what-if": Plan(
        "A branch of it: another word stands where they agreed on one, and they write one answer from there on.",
        _NGRAM_COUNCIL,
        Sampling(max_tokens=20, temperature=0.0),
        sync="consensus",
        branch_of="ngram-together",
        change=Change("names", word=3),
    ),
}
