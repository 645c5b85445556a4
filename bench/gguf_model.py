"""A tiny model that llama.cpp runs like any other, built from text that every Python carries.

    pydoc_data.topics --> tokenizer --> bigram counts --> logits L[a, b] = log P(b | a) - mean, V x V
    L ~ U S V'  (the dim - 1 largest singular values)     embedding E = U sqrt(S),  output O = sqrt(S) V'

llama.cpp computes rms_norm(E[a]) O where every layer adds zero to the residual. The norm divides E[a] by
|E[a]| / sqrt(dim); one more column gives all rows of E the same length M, and O, scaled by M / sqrt(dim), takes that
back: the logits are L.
What it writes looks like Python's documentation seen through a keyhole; its probabilities are honest and have shape.

Models of different tokenizers: byte pairs as in GPT-2 (of 300 tokens it is one of characters, of 1,000 nearly one of
words), or sentence pieces as in Llama 2, where a space is "▁" and rare characters are written byte by byte. A model
that thinks does so from its first token on, or where its chat template begins that for it; it finds its tags only where
`dim` is nearly `vocab`, for what is rare gets lost first. A model that has read Hangul writes characters of three
bytes, many of which take several tokens; one that has read a mixture writes characters of one to four bytes. One that
attends mixes what came before into each place: its logits depend on the whole context, and it writes worse. One that
has read a single sentence knows it by heart. A wide one has a feed-forward layer of so many zeros: it says the same and
takes longer.
"""

from __future__ import annotations

import fcntl
import re
import string
import zlib
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from pydoc_data.topics import topics
from typing import Literal

import gguf
import numpy as np
import numpy.typing as npt
import pytest

Floats = npt.NDArray[np.float64]

Kind = Literal["byte_pairs", "sentence_pieces"]
# Whether a model thinks before it answers: it begins by itself, or its chat template begins.
Thinks = Literal["never", "by_itself", "by_template"]

END_OF_TEXT, _TURN_BEGINS, TURN_ENDS = SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Where the answer of a model that thinks begins; and its tags, which are text.
_ANSWER_BEGINS = "<|im_sep|>"
THINK, THOUGHT = TAGS = ("<think>", "</think>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
THINKING_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '<|im_sep|>' }}"
    "{% if message['role'] == 'assistant' and message['reasoning_content'] %}"
    "{{ '<think>\\n' + message['reasoning_content'] + '\\n</think>\\n\\n' }}"
    "{% endif %}"
    "{{ message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>BEGUN' }}{% endif %}"
)
TEMPLATES: dict[Thinks, str] = {
    "never": CHAT_TEMPLATE,
    "by_itself": THINKING_TEMPLATE.replace("BEGUN", ""),
    "by_template": THINKING_TEMPLATE.replace("BEGUN", "<think>\\n"),
}
# Close to GPT-2's own rule, as far as the standard library's regular expressions go.
WORD = re.compile(r"'(?:[stmd]|re|ve|ll)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")
PARAGRAPHS_PER_ANSWER = 8
READ_SHARE = 0.8
READINGS = 4
# No limit of the model: a server's context may be so long that an answer does not end while a test looks at it.
CONTEXT_TOKENS = 1 << 20
HEADS = 4


def gguf_model(
    folder: Path,
    *,
    vocab: int = 512,
    dim: int = 128,
    seed: int = 0,
    kind: Kind = "byte_pairs",
    thinks: Thinks = "never",
    hangul: bool = False,
    mixture: bool = False,
    attends: bool = False,
    context: int = CONTEXT_TOKENS,
    sentence: str = "",
    width: int = 0,
) -> Path:
    """The path of the model in `folder`, built at the first call with these parameters, whoever else asks at once.

    `vocab` tokens (at least 300, or 450 sentence pieces) in `dim` dimensions (a multiple of 8, below `vocab`); `seed`
    chooses which topics it has read, and with them its tokenizer and its probabilities. `context` tokens are what it
    says it was trained with. `sentence` is all that it has read, where there is one. `width` is that of its
    feed-forward layer, 0 for `dim`: for each token 6 dim width bytes of memory are read.
    """
    words = {kind: kind != "byte_pairs", f"thinks-{thinks}": thinks != "never", "hangul": hangul, "attends": attends}
    words |= {"mixture": mixture, f"context-{context}": context != CONTEXT_TOKENS, f"width-{width}": width > 0}
    words[f"sentence-{zlib.crc32(sentence.encode()):08x}"] = sentence != ""
    variant = "".join(f"-{word}" for word, is_unusual in words.items() if is_unusual)
    path = folder / f"tiny-{vocab}-{dim}-{seed}{variant}.gguf"
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # freed when the file is closed, also by a process that dies
        if not path.exists():
            unfinished = path.with_suffix(".unfinished")
            build(
                unfinished,
                vocab=vocab,
                dim=dim,
                seed=seed,
                kind=kind,
                thinks=thinks,
                hangul=hangul,
                mixture=mixture,
                attends=attends,
                context=context,
                sentence=sentence,
                width=width,
            )
            unfinished.replace(path)
    return path


def session_folder(factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of one test session share."""
    own = factory.getbasetemp()
    return own.parent if own.name.startswith("popen-") else own


def build(
    path: Path,
    *,
    vocab: int,
    dim: int,
    seed: int,
    kind: Kind = "byte_pairs",
    thinks: Thinks = "never",
    hangul: bool = False,
    mixture: bool = False,
    attends: bool = False,
    context: int = CONTEXT_TOKENS,
    sentence: str = "",
    width: int = 0,
) -> None:
    """Writes the model to `path`."""
    answers = [sentence] * READINGS if sentence else topic_answers(seed)
    if hangul or mixture:
        answers = [answer.translate(HANGUL if hangul else MIXTURE) for answer in answers]
    trained = BytePairs.trained if kind == "byte_pairs" else SentencePieces.trained
    tokenizer = trained("\n".join(answers), vocab, () if thinks == "never" else (_ANSWER_BEGINS, *TAGS))
    row = [number for answer in answers for number in _turn(tokenizer, answer, thinks)]
    embedding, output = factored(bigram_logits(row, vocab), dim)
    layer = attending_layer(dim, seed, width) if attends else silent_layer(dim, width)
    matrices = {"token_embd": embedding, "output": output, **layer}
    _write(path, tokenizer, matrices, TEMPLATES[thinks], context)


def _turn(tokenizer: ToyTokenizer, answer: str, thinks: Thinks) -> list[int]:
    """What is written where it is the model's turn, from what the chat template ends with."""
    ids, encode = tokenizer.ids, tokenizer.encode
    if thinks == "never":
        # The newline is the template's.
        return [*encode(f"\n{answer}"), ids[TURN_ENDS]]
    thought, said, *_ = [*answer.split("\n"), answer]
    begun = [ids[_ANSWER_BEGINS], ids[THINK], *encode(f"\n{thought}\n"), ids[THOUGHT]]
    return [*begun, *encode(f"\n\n{said}"), ids[TURN_ENDS]]


class ToyTokenizer(ABC):
    """A tokenizer that joins the characters of a word, most frequent pairs first.

    A token is a string of characters of its alphabet; merges are applied in the order in which they were learnt.
    """

    model = ""
    # Whether a text begins with a token that says so.
    begins_text = False

    def __init__(self, alphabet: Sequence[str], merges: list[tuple[str, str]], extra: Sequence[str]) -> None:
        self.merges = merges
        self.alphabet = list(alphabet)
        self.specials = (*SPECIALS, *extra)
        self.tokens = [*alphabet, *(left + right for left, right in merges), *self.specials]
        self.ids = {token: number for number, token in enumerate(self.tokens)}
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._known: dict[str, list[int]] = {}

    @staticmethod
    @abstractmethod
    def spelt(word: str) -> list[str]:
        """The word in characters of the alphabet."""

    def encode(self, text: str) -> list[int]:
        return [number for word in WORD.findall(text) for number in self._encode_word(word)]

    def _encode_word(self, word: str) -> list[int]:
        if word not in self._known:
            parts = self.spelt(word)
            while ranked := [(self._ranks[pair], pair) for pair in pairwise(parts) if pair in self._ranks]:
                parts = merged(parts, min(ranked)[1])
            self._known[word] = [number for part in parts for number in self.numbers(part)]
        return self._known[word]

    def numbers(self, part: str) -> list[int]:
        return [self.ids[part]]

    def add_to(self, writer: gguf.GGUFWriter) -> None:
        """Writes what the tokenizer is to the file."""
        writer.add_tokenizer_model(self.model)
        writer.add_token_list(self.tokens)
        writer.add_token_types([self.kind_of(token) for token in self.tokens])
        writer.add_bos_token_id(self.ids[END_OF_TEXT])
        writer.add_eos_token_id(self.ids[TURN_ENDS])
        writer.add_add_bos_token(self.begins_text)

    def kind_of(self, token: str) -> gguf.TokenType:
        if token in TAGS:
            return gguf.TokenType.USER_DEFINED
        return gguf.TokenType.CONTROL if token in self.specials else gguf.TokenType.NORMAL


class BytePairs(ToyTokenizer):
    """A byte-level byte-pair tokenizer in GPT-2's notation: each byte is written as one printable letter."""

    model = "gpt2"

    @classmethod
    def trained(cls, text: str, vocab: int, extra: Sequence[str] = ()) -> BytePairs:
        words = Counter(WORD.findall(text))
        return cls(LETTERS, learnt(words, letters, vocab - len(LETTERS) - len(SPECIALS) - len(extra)), extra)

    @staticmethod
    def spelt(word: str) -> list[str]:
        return letters(word)

    def add_to(self, writer: gguf.GGUFWriter) -> None:
        super().add_to(writer)
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_merges([f"{left} {right}" for left, right in self.merges])


class SentencePieces(ToyTokenizer):
    """A tokenizer of characters, as of Llama 2: a space is "▁", and what is not in its alphabet is written in bytes."""

    model = "llama"
    begins_text = True

    @classmethod
    def trained(cls, text: str, vocab: int, extra: Sequence[str] = ()) -> SentencePieces:
        words = Counter(WORD.findall(text))
        letters_used = Counter("".join(words).replace(" ", SPACE))
        common = sorted(letter for letter, count in letters_used.items() if count >= COMMON_LETTER)
        alphabet = ["<unk>", *BYTES, *common]
        known = {word: count for word, count in words.items() if set(cls.spelt(word)) <= set(common)}
        return cls(alphabet, learnt(known, cls.spelt, vocab - len(alphabet) - len(SPECIALS) - len(extra)), extra)

    @staticmethod
    def spelt(word: str) -> list[str]:
        return list(word.replace(" ", SPACE))

    def numbers(self, part: str) -> list[int]:
        return [self.ids[part]] if part in self.ids else [self.ids[BYTES[byte]] for byte in part.encode()]

    def kind_of(self, token: str) -> gguf.TokenType:
        if token == "<unk>":
            return gguf.TokenType.UNKNOWN
        return gguf.TokenType.BYTE if token in BYTES else super().kind_of(token)

    def add_to(self, writer: gguf.GGUFWriter) -> None:
        super().add_to(writer)
        writer.add_add_space_prefix(False)
        writer.add_unk_token_id(0)
        # Of two pairs the one is joined that is worth more: the one that was learnt first.
        worth = {left + right: -float(rank) for rank, (left, right) in enumerate(self.merges)}
        writer.add_token_scores([worth.get(token, -1e6) for token in self.tokens])


SPACE = "▁"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
# A letter that is rarer than this is written in bytes.
COMMON_LETTER = 3


# A syllable for each letter.
HANGUL = {ord(letter): chr(0xAC00 + 97 * number) for number, letter in enumerate(string.ascii_letters)}
# Characters of two, three and four bytes among the ASCII ones, common and rare.
MIXTURE = str.maketrans("eokbwvxqjz", "éö日本語ñ🙂🎉🚀漢")


def learnt(counts: Mapping[str, int], spelt: Callable[[str], list[str]], number: int) -> list[tuple[str, str]]:
    """The first merges: each time the most frequent pair of neighbours, of equals the greatest."""
    words = [spelt(word) for word in counts]
    times = list(counts.values())
    frequency: Counter[tuple[str, str]] = Counter()
    found_in: defaultdict[tuple[str, str], set[int]] = defaultdict(set)

    def count(word: int, sign: int) -> None:
        for pair in pairwise(words[word]):
            frequency[pair] += sign * times[word]
            found_in[pair].add(word)

    for word in range(len(words)):
        count(word, 1)
    merges: list[tuple[str, str]] = []
    while len(merges) < number:
        best = max(frequency, key=lambda pair: (frequency[pair], pair))
        merges.append(best)
        for word in found_in.pop(best):
            count(word, -1)
            words[word] = merged(words[word], best)
            count(word, 1)
        del frequency[best]
    return merges


def _byte_letters() -> list[str]:
    """GPT-2's letter for each byte: itself where it is printable, else the next free one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(0x100 + others.index(byte)) for byte in range(256)]


LETTERS = _byte_letters()


def letters(word: str) -> list[str]:
    return [LETTERS[byte] for byte in word.encode()]


def merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """`parts` with every neighbouring `pair` made one, from the left."""
    joined: list[str] = []
    for part in parts:
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def topic_answers(seed: int) -> list[str]:
    """Some paragraphs each, one a line: a line break inside a paragraph is no more than a space here."""
    names = np.random.default_rng(seed).permutation(sorted(topics))
    answers: list[str] = []
    for name in sorted(names[: int(READ_SHARE * len(names))]):
        paragraphs = [" ".join(paragraph.split()) for paragraph in topics[name].split("\n\n") if paragraph.strip()]
        starts = range(0, len(paragraphs), PARAGRAPHS_PER_ANSWER)
        answers += ["\n".join(paragraphs[start : start + PARAGRAPHS_PER_ANSWER]) for start in starts]
    return answers


def bigram_logits(row: list[int], vocab: int) -> Floats:
    """log P(next | token) less each row's mean, smoothed with three pseudo-counts of the unigram distribution."""
    counts = np.zeros((vocab, vocab))
    np.add.at(counts, (row[:-1], row[1:]), 1.0)
    unigram = counts.sum(axis=0) + 0.01
    unigram /= unigram.sum()
    logits = np.log((counts + 3.0 * unigram) / (counts.sum(axis=1, keepdims=True) + 3.0))
    centred: Floats = logits - logits.mean(axis=1, keepdims=True)
    return centred


def factored(logits: Floats, dim: int) -> tuple[Floats, Floats]:
    """Embedding and output, both V x dim; rms_norm(embedding) @ output.T is as close to `logits` as dim allows."""
    left, singular, right = np.linalg.svd(logits)
    root = np.sqrt(singular[: dim - 1])
    embedding, output = left[:, : dim - 1] * root, right[: dim - 1].T * root
    squares = (embedding**2).sum(axis=1)
    length = np.sqrt(squares.max())
    embedding = np.column_stack([embedding, np.sqrt(squares.max() - squares)])
    output = np.column_stack([output * length / np.sqrt(dim), np.zeros(len(output))])
    return embedding, output


def _write(path: Path, tokenizer: ToyTokenizer, matrices: dict[str, Floats], template: str, context: int) -> None:
    vocab, dim = matrices["token_embd"].shape
    width = matrices["blk.0.ffn_up"].shape[0]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(path.stem)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(context)
    writer.add_embedding_length(dim)
    writer.add_block_count(1)
    writer.add_feed_forward_length(width)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(dim // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocab)
    tokenizer.add_to(writer)
    writer.add_chat_template(template)
    for name, matrix in matrices.items():
        writer.add_tensor(f"{name}.weight", matrix.astype(np.float16 if matrix.ndim == 2 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def silent_layer(dim: int, width: int = 0) -> dict[str, Floats]:
    """A transformer block that adds zero to the residual, and the norm after it."""
    wide = width or dim
    feed_forward = {"ffn_gate": (wide, dim), "ffn_up": (wide, dim), "ffn_down": (dim, wide)}
    shapes = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (dim, dim)) | feed_forward
    return {
        **{f"blk.0.{name}": np.zeros(shape) for name, shape in shapes.items()},
        **{name: np.ones(dim) for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm")},
    }


def attending_layer(dim: int, seed: int, width: int = 0) -> dict[str, Floats]:
    """One that adds to each place something of those before it."""
    chance = np.random.default_rng(seed)
    mixing = {f"blk.0.attn_{part}": chance.normal(size=(dim, dim)) / np.sqrt(dim) for part in ("q", "k", "v", "output")}
    return silent_layer(dim, width) | mixing
