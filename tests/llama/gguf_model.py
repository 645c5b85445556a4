"""A tiny model that llama.cpp runs like any other, built from text that every Python carries.

    pydoc_data.topics --> byte-pair tokenizer --> bigram counts --> logits L[a, b] = log P(b | a) - mean, V x V
    L ~ U S V'  (the dim - 1 largest singular values)     embedding E = U sqrt(S),  output O = sqrt(S) V'

llama.cpp computes rms_norm(E[a]) O where every layer adds zero to the residual. The norm divides E[a] by
|E[a]| / sqrt(dim); one more column gives all rows of E the same length M, and O, scaled by M / sqrt(dim), takes that
back: the logits are L.
What it writes looks like Python's documentation seen through a keyhole; its probabilities are honest and have shape.
"""

from __future__ import annotations

import fcntl
import re
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from pydoc_data.topics import topics

import gguf
import numpy as np
import numpy.typing as npt
import pytest

Floats = npt.NDArray[np.float64]

END_OF_TEXT, _TURN_BEGINS, TURN_ENDS = SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Close to GPT-2's own rule, as far as the standard library's regular expressions go.
WORD = re.compile(r"'(?:[stmd]|re|ve|ll)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")
PARAGRAPHS_PER_ANSWER = 8
READ_SHARE = 0.8
# No limit of the model: a server's context may be so long that an answer does not end while a test looks at it.
CONTEXT_TOKENS = 1 << 20
HEADS = 4


def gguf_model(folder: Path, *, vocab: int = 512, dim: int = 128, seed: int = 0) -> Path:
    """The path of the model in `folder`, built at the first call with these parameters, whoever else asks at once.

    `vocab` tokens (at least 300) in `dim` dimensions (a multiple of 8, below `vocab`); `seed` chooses which topics it
    has read, and with them its tokenizer and its probabilities.
    """
    path = folder / f"tiny-{vocab}-{dim}-{seed}.gguf"
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # freed when the file is closed, also by a process that dies
        if not path.exists():
            unfinished = path.with_suffix(".unfinished")
            build(unfinished, vocab=vocab, dim=dim, seed=seed)
            unfinished.replace(path)
    return path


def session_folder(factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of one test session share."""
    own = factory.getbasetemp()
    return own.parent if own.name.startswith("popen-") else own


def build(path: Path, *, vocab: int, dim: int, seed: int) -> None:
    """Writes the model to `path`."""
    answers = topic_answers(seed)
    tokenizer = BytePairs.trained("\n".join(answers), vocab)
    # An answer begins after the newline with which the chat template ends.
    row = [number for answer in answers for number in [*tokenizer.encode(f"\n{answer}"), tokenizer.ids[TURN_ENDS]]]
    embedding, output = factored(bigram_logits(row, vocab), dim)
    _write(path, tokenizer, embedding, output)


class BytePairs:
    """A byte-level byte-pair tokenizer in GPT-2's notation: each byte is written as one printable letter.

    A token is a string of letters; merges are applied in the order in which they were learnt.
    """

    def __init__(self, merges: list[tuple[str, str]]) -> None:
        self.merges = merges
        self.tokens = [*LETTERS, *(left + right for left, right in merges), *SPECIALS]
        self.ids = {token: number for number, token in enumerate(self.tokens)}
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._known: dict[str, list[int]] = {}

    @classmethod
    def trained(cls, text: str, vocab: int) -> BytePairs:
        """Learns merges until there are `vocab` tokens: each time the most frequent pair, of equals the greatest."""
        counts = Counter(WORD.findall(text))
        words = [letters(word) for word in counts]
        times = list(counts.values())
        frequency: Counter[tuple[str, str]] = Counter()
        found_in: defaultdict[tuple[str, str], set[int]] = defaultdict(set)

        def count(number: int, sign: int) -> None:
            for pair in pairwise(words[number]):
                frequency[pair] += sign * times[number]
                found_in[pair].add(number)

        for number in range(len(words)):
            count(number, 1)
        merges: list[tuple[str, str]] = []
        while len(merges) < vocab - len(LETTERS) - len(SPECIALS):
            best = max(frequency, key=lambda pair: (frequency[pair], pair))
            merges.append(best)
            for number in found_in.pop(best):
                count(number, -1)
                words[number] = merged(words[number], best)
                count(number, 1)
            del frequency[best]
        return cls(merges)

    def encode(self, text: str) -> list[int]:
        return [number for word in WORD.findall(text) for number in self._encode_word(word)]

    def _encode_word(self, word: str) -> list[int]:
        if word not in self._known:
            parts = letters(word)
            while ranked := [(self._ranks[pair], pair) for pair in pairwise(parts) if pair in self._ranks]:
                parts = merged(parts, min(ranked)[1])
            self._known[word] = [self.ids[part] for part in parts]
        return self._known[word]


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


def _write(path: Path, tokenizer: BytePairs, embedding: Floats, output: Floats) -> None:
    vocab, dim = embedding.shape
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(path.stem)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(dim)
    writer.add_block_count(1)
    writer.add_feed_forward_length(dim)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(dim // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocab)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_merges([f"{left} {right}" for left, right in tokenizer.merges])
    kinds = gguf.TokenType
    writer.add_token_types([kinds.CONTROL if token in SPECIALS else kinds.NORMAL for token in tokenizer.tokens])
    writer.add_bos_token_id(tokenizer.ids[END_OF_TEXT])
    writer.add_eos_token_id(tokenizer.ids[TURN_ENDS])
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    for name, matrix in {"token_embd": embedding, "output": output, **silent_layer(dim)}.items():
        writer.add_tensor(f"{name}.weight", matrix.astype(np.float16 if matrix.ndim == 2 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def silent_layer(dim: int) -> dict[str, Floats]:
    """A transformer block that adds zero to the residual, and the norm after it."""
    square = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    return {
        **{f"blk.0.{name}": np.zeros((dim, dim)) for name in square},
        **{name: np.ones(dim) for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm")},
    }
