"""A tiny model that llama.cpp runs like any other, built from text that every Python installation contains.

    pydoc_data.topics --> tokenizer --> bigram counts --> logits L[a, b] = log P(b | a) - mean, V x V
    L ~ U S V'  (the dim - 1 largest singular values)     embedding E = U sqrt(S),  output O = sqrt(S) V'

llama.cpp computes rms_norm(E[a]) O where every layer adds zero to the residual. The norm divides E[a] by
|E[a]| / sqrt(dim). One more column gives all rows of E the same length M, and O is multiplied by M / sqrt(dim), so the
logits are L. The model writes text that resembles Python's documentation. Its probabilities are those of the bigrams.
"""

from __future__ import annotations

import fcntl
import string
import zlib
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, Literal

import gguf
import numpy as np
import numpy.typing as npt

from bench.gguf_tokenizers import (
    ANSWER_BEGINS,
    TAGS,
    THINK,
    THOUGHT,
    TURN_ENDS,
    BytePairs,
    SentencePieces,
    SpacedPieces,
    TinyTokenizer,
)

Floats = npt.NDArray[np.float64]

Kind = Literal["byte_pairs", "sentence_pieces", "spaced_pieces"]
# Whether a model thinks before it answers: its first token begins the thinking, or its chat template does.
Thinks = Literal["never", "by_itself", "by_template"]

_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_THINKING_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '<|im_sep|>' }}"
    "{% if message['role'] == 'assistant' and message['reasoning_content'] %}"
    "{{ '<think>\\n' + message['reasoning_content'] + '\\n</think>\\n\\n' }}"
    "{% endif %}"
    "{{ message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>BEGUN' }}{% endif %}"
)
_TEMPLATES: dict[Thinks, str] = {
    "never": _CHAT_TEMPLATE,
    "by_itself": _THINKING_TEMPLATE.replace("BEGUN", ""),
    "by_template": _THINKING_TEMPLATE.replace("BEGUN", "<think>\\n"),
}
_TOKENIZERS: dict[Kind, type[BytePairs] | type[SentencePieces]] = {
    "byte_pairs": BytePairs,
    "sentence_pieces": SentencePieces,
    "spaced_pieces": SpacedPieces,
}
_PARAGRAPHS_PER_ANSWER = 8
# The share of all topics that a model is trained with.
_TOPICS_SHARE = 0.8
# How many times a single sentence is in the training text.
_SENTENCES = 4
# Not a limit of the model: a server's context may be so long that an answer does not end during a test.
_CONTEXT_TOKENS = 1 << 20
_HEADS = 4
# A syllable for each letter.
_HANGUL = {ord(letter): chr(0xAC00 + 97 * number) for number, letter in enumerate(string.ascii_letters)}
# Characters of two, three and four bytes among the ASCII ones, common and rare.
_MIXTURE = str.maketrans("eokbwvxqjz", "éö日本語ñ🙂🎉🚀漢")


@dataclass(frozen=True)
class TinyModel:
    """Parameters of a model.

    vocab     tokens: at least 300, for sentence pieces 450. 300 byte pairs are characters, 1,000 nearly words
    dim       dimensions: a multiple of 8, below `vocab`
    seed      chooses the topics of the training text, and so the tokenizer and the probabilities
    thinks    a model finds its thinking tags only where `dim` is nearly `vocab`: the rarest tokens are lost first
    hangul    the text is in characters of three bytes, many of which take several tokens
    mixture   the text is in characters of one to four bytes
    attends   the logits depend on the whole context, and the text is worse
    context   tokens of context that the file names as the training context
    sentence  the whole training text, where it is not empty: the model repeats it exactly
    width     of the feed-forward layer, which adds zero, 0 for `dim`: a token reads 6 dim width bytes of memory
    """

    vocab: int = 512
    dim: int = 128
    seed: int = 0
    kind: Kind = "byte_pairs"
    thinks: Thinks = "never"
    hangul: bool = False
    mixture: bool = False
    attends: bool = False
    context: int = _CONTEXT_TOKENS
    sentence: str = ""
    width: int = 0

    @property
    def name(self) -> str:
        """The name of its file without ".gguf", by the parameters that are not the defaults."""
        unusual = {
            self.kind: self.kind != "byte_pairs",
            f"thinks-{self.thinks}": self.thinks != "never",
            "hangul": self.hangul,
            "attends": self.attends,
            "mixture": self.mixture,
            f"context-{self.context}": self.context != _CONTEXT_TOKENS,
            f"width-{self.width}": self.width > 0,
            f"sentence-{zlib.crc32(self.sentence.encode()):08x}": self.sentence != "",
        }
        words = "".join(f"-{word}" for word, is_unusual in unusual.items() if is_unusual)
        return f"tiny-{self.vocab}-{self.dim}-{self.seed}{words}"

    def build(self, path: Path) -> None:
        """Writes the model to `path`."""
        answers = [self.sentence] * _SENTENCES if self.sentence else _topic_answers(self.seed)
        if self.hangul or self.mixture:
            answers = [answer.translate(_HANGUL if self.hangul else _MIXTURE) for answer in answers]
        trained = _TOKENIZERS[self.kind].trained
        extra = () if self.thinks == "never" else (ANSWER_BEGINS, *TAGS)
        tokenizer = trained("\n".join(answers), self.vocab, extra)
        row = [number for answer in answers for number in _turn(tokenizer, answer, self.thinks)]
        embedding, output = _factored(_bigram_logits(row, self.vocab), self.dim)
        matrices = {"token_embd": embedding, "output": output, **_silent_layer(self.dim, self.width)}
        if self.attends:
            matrices |= _attention(self.dim, self.seed)
        _write(path, tokenizer, matrices, _TEMPLATES[self.thinks], self.context)


def gguf_model(folder: Path, **parameters: Any) -> Path:
    """The path of the model in `folder`. `parameters` are fields of TinyModel.

    The first call with these parameters builds it; calls at the same time wait for that.
    """
    model = TinyModel(**parameters)
    path = folder / f"{model.name}.gguf"
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed, also when the process is killed
        if not path.exists():
            unfinished = path.with_suffix(".unfinished")
            model.build(unfinished)
            unfinished.replace(path)
    return path


def _turn(tokenizer: TinyTokenizer, answer: str, thinks: Thinks) -> list[int]:
    """The tokens of the model's turn, which follow the end of the chat template."""
    ids, encode = tokenizer.ids, tokenizer.encode
    if thinks == "never":
        # The newline belongs to the template.
        return [*encode(f"\n{answer}"), ids[TURN_ENDS]]
    thought, said, *_ = [*answer.split("\n"), answer]
    begun = [ids[ANSWER_BEGINS], ids[THINK], *encode(f"\n{thought}\n"), ids[THOUGHT]]
    return [*begun, *encode(f"\n\n{said}"), ids[TURN_ENDS]]


def _topic_answers(seed: int) -> list[str]:
    """The training text: some paragraphs an answer, one paragraph a line."""
    names = np.random.default_rng(seed).permutation(sorted(topics))
    answers: list[str] = []
    for name in sorted(names[: int(_TOPICS_SHARE * len(names))]):
        paragraphs = [" ".join(paragraph.split()) for paragraph in topics[name].split("\n\n") if paragraph.strip()]
        starts = range(0, len(paragraphs), _PARAGRAPHS_PER_ANSWER)
        answers += ["\n".join(paragraphs[start : start + _PARAGRAPHS_PER_ANSWER]) for start in starts]
    return answers


def _bigram_logits(row: list[int], vocab: int) -> Floats:
    """log P(next | token) less each row's mean, smoothed with three pseudo-counts of the unigram distribution."""
    counts = np.zeros((vocab, vocab))
    np.add.at(counts, (row[:-1], row[1:]), 1.0)
    unigram = counts.sum(axis=0) + 0.01
    unigram /= unigram.sum()
    logits = np.log((counts + 3.0 * unigram) / (counts.sum(axis=1, keepdims=True) + 3.0))
    centred: Floats = logits - logits.mean(axis=1, keepdims=True)
    return centred


def _factored(logits: Floats, dim: int) -> tuple[Floats, Floats]:
    """Embedding and output, both V x dim; rms_norm(embedding) @ output.T is as close to `logits` as dim allows."""
    left, singular, right = np.linalg.svd(logits)
    root = np.sqrt(singular[: dim - 1])
    embedding, output = left[:, : dim - 1] * root, right[: dim - 1].T * root
    squares = (embedding**2).sum(axis=1)
    length = np.sqrt(squares.max())
    embedding = np.column_stack([embedding, np.sqrt(squares.max() - squares)])
    output = np.column_stack([output * length / np.sqrt(dim), np.zeros(len(output))])
    return embedding, output


def _write(path: Path, tokenizer: TinyTokenizer, matrices: dict[str, Floats], template: str, context: int) -> None:
    vocab, dim = matrices["token_embd"].shape
    width = matrices["blk.0.ffn_up"].shape[0]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(path.stem)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(context)
    writer.add_embedding_length(dim)
    writer.add_block_count(1)
    writer.add_feed_forward_length(width)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_rope_dimension_count(dim // _HEADS)
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


def _silent_layer(dim: int, width: int = 0) -> dict[str, Floats]:
    """A transformer block that adds zero to the residual, and the norm after it."""
    wide = width or dim
    feed_forward = {"ffn_gate": (wide, dim), "ffn_up": (wide, dim), "ffn_down": (dim, wide)}
    shapes = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (dim, dim)) | feed_forward
    return {
        **{f"blk.0.{name}": np.zeros(shape) for name, shape in shapes.items()},
        **{name: np.ones(dim) for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm")},
    }


def _attention(dim: int, seed: int) -> dict[str, Floats]:
    """Attention that adds to each position a mixture of the positions before it."""
    random = np.random.default_rng(seed)
    return {f"blk.0.attn_{part}": random.normal(size=(dim, dim)) / np.sqrt(dim) for part in ("q", "k", "v", "output")}
