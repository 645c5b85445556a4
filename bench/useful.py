"""`python -m bench.useful [--minutes 8] [--file GGUF] [--answers FILE]`: whether a consensus answers better.

    question --+--> three members, each by itself -----> three answers --> each member; majority vote; best-of
               `--> the same members, in consensus -----> one answer                    (largest mean logprob)

The council is real: its processes, its Redis, and SmolLM2-135M. With one model the members are three ways to ask it:
each has a system text with other examples. `--file` names the file of a second model, for the third member. All members
write greedily, from the beginning "The answer is", so that answers are short. Nothing is asserted.

The answers are kept in a file, one question a line. A later run with the same file goes on after them.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from bench.report import table_of
from bench.scoring import (
    Interval,
    LabelledQuestion,
    difference,
    first_sentence,
    is_right,
    likeliest,
    majority,
    read_questions,
    wilson,
)
from council import TurboEnsemble
from council.models.store import MODELS, models_folder
from council.settings.schema import load_settings
from schemas.frames import Frame
from schemas.rules.partings import Partings
from schemas.sessions import MemberSpec, SessionRequest, Sync

_KINDS = ("arithmetic", "facts", "spelling")
_BEGINNING = "The answer is"
_MAX_TOKENS = 12
_WIDTH = 112
# No example is one of the questions.
WAYS = {
    "sentence": (
        "Answer in one short sentence, as in these examples.",
        ("What is the capital of Belgium?", "Brussels"),
        ("What is 3 + 6?", "9"),
        ("What is the plural of dog?", "dogs"),
    ),
    "teacher": (
        "You are a careful teacher. Give the answer and nothing else.",
        ("What is 40 - 10?", "30"),
        ("Which spelling is correct, truely or truly?", "truly"),
        ("What is the capital of Denmark?", "Copenhagen"),
    ),
    "quiz": (
        "You take part in a quiz. The jury expects a word or a number.",
        ("What is the first letter of the word lamp?", "l"),
        ("Who wrote the play Hamlet?", "Shakespeare"),
        ("What is 4 * 5?", "20"),
    ),
}


class CouncilAnswers(msgspec.Struct, frozen=True):
    """What a council answered to one question. `alone` and `mean_logprobs` are of the members, each by itself;
    the means are over the first sentences. `discarded` of the `written` tokens are in no frame of the consensus."""

    question: str
    alone: tuple[str, ...]
    mean_logprobs: tuple[float | None, ...]
    agreed: str
    agreed_bytes: int
    partings: int
    lost: tuple[int, ...]
    written: int
    discarded: int


def main() -> int:
    """The exit code: 0 where tables were printed."""
    parser = argparse.ArgumentParser(prog="python -m bench.useful", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="how long it asks at most (default: %(default)g)")
    parser.add_argument("--file", type=Path, help="the GGUF file of a second model")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="ask every Nth question (default: all)")
    parser.add_argument(
        "--answers",
        type=Path,
        default=Path("artifacts/useful.jsonl"),
        help="where they are kept (default: %(default)s)",
    )
    arguments = parser.parse_args()
    file = (models_folder() or Path.home()) / MODELS["smollm2"].file
    if not file.is_file():
        print(f"there is no file {file}: get the model with `council models get smollm2`", file=sys.stderr)
        return 2
    members = _members(file, arguments.file)
    questions = read_questions()[:: arguments.every]
    arguments.answers.parent.mkdir(parents=True, exist_ok=True)
    asyncio.run(_ask(questions, members, arguments.answers, arguments.minutes * 60.0))
    kept = {answers.question: answers for answers in _kept(arguments.answers)}
    answered = [(question, kept[question.text]) for question in questions if question.text in kept]
    if not answered:
        print("no question was answered in this time", file=sys.stderr)
        return 1
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    names = [member.display_name for member in members]
    for table in (_accuracy(answered, names), _differences(answered, names), _cost(answered, names)):
        console.print(table)
    return 0


def _members(file: Path, second: Path | None) -> tuple[MemberSpec, ...]:
    """Three ways to ask; where there is a second model, it is the last of them."""
    specs = [
        MemberSpec(
            f"gguf:{file}", name, system="\n".join([head, *(f"Q: {q}\nA: {_BEGINNING} {a}." for q, a in examples)])
        )
        for name, (head, *examples) in WAYS.items()
    ]
    if second:
        specs[-1] = msgspec.structs.replace(specs[-1], model=f"gguf:{second.absolute()}", name="second-model")
    return tuple(specs)


def _kept(path: Path) -> list[CouncilAnswers]:
    lines = path.read_bytes().splitlines() if path.is_file() else []
    return [msgspec.json.decode(line, type=CouncilAnswers) for line in lines]


async def _ask(
    questions: Sequence[LabelledQuestion], members: tuple[MemberSpec, ...], path: Path, seconds: float
) -> None:
    """Asks the questions that the file lacks, until the time is over."""
    until = time.monotonic() + seconds
    known = {answers.question for answers in _kept(path)}
    left = [question.text for question in questions if question.text not in known]
    if not left:
        return
    async with TurboEnsemble(tier="mid", settings=load_settings(None, {})) as ensemble:
        with path.open("ab") as file:
            for text in left:
                if time.monotonic() > until:
                    return
                alone = await _frames(ensemble, text, members, "free")
                together = await _frames(ensemble, text, members, "consensus")
                file.write(msgspec.json.encode(_answers(text, alone, together)) + b"\n")
                file.flush()


async def _frames(ensemble: TurboEnsemble, text: str, members: tuple[MemberSpec, ...], sync: Sync) -> list[Frame]:
    request = SessionRequest(text, members, max_tokens=_MAX_TOKENS, temperature=0.0, sync=sync, prefix=_BEGINNING)
    session = await ensemble.open(request)
    frames = [frame async for frame in session.frames()]
    if ended := [f"{m.display_name}: {m.reason}" for m in frames[-1].members if m.state != "finished" or m.warning]:
        raise RuntimeError(f"a member did not answer {text!r}: {'; '.join(ended)}")
    return frames


def _answers(text: str, alone: Sequence[Frame], together: Sequence[Frame]) -> CouncilAnswers:
    count = len(alone[-1].members)
    said = ["".join(frame.members[member].text for frame in alone).removeprefix(_BEGINNING) for member in range(count)]
    ends = [len((_BEGINNING + first_sentence(answer)).encode()) for answer in said]
    logprobs: list[list[float]] = [[] for _ in range(count)]
    for token in (token for frame in alone for token in frame.tokens):
        # Only of the part that counts.
        if token.logprob is not None and token.start < ends[token.member]:
            logprobs[token.member].append(token.logprob)
    partings = Partings()
    for frame in together:
        partings.add(frame.consensus.decisions or ())
    agreed = "".join(frame.consensus.agreed or "" for frame in together).removeprefix(_BEGINNING)
    discarded = sum(frame.counts.superseded for frame in together)
    return CouncilAnswers(
        text,
        tuple(said),
        tuple(sum(own) / len(own) if own else None for own in logprobs),
        agreed,
        len(agreed.encode()),
        partings.count,
        tuple(partings.lost.get(member, 0) for member in range(count)),
        discarded + sum(len(frame.tokens) for frame in together),
        discarded,
    )


def _rights(answered: Sequence[tuple[LabelledQuestion, CouncilAnswers]], names: Sequence[str]) -> dict[str, list[bool]]:
    """Of each way to get one answer, which of the questions it answers right; the consensus is the last one."""
    rights = {
        f"{name} alone": [is_right(question, answers.alone[index]) for question, answers in answered]
        for index, name in enumerate(names)
    }
    rights["majority vote"] = [is_right(question, majority(answers.alone)) for question, answers in answered]
    rights["best-of"] = [is_right(q, likeliest(answers.alone, answers.mean_logprobs)) for q, answers in answered]
    rights["consensus"] = [is_right(question, answers.agreed) for question, answers in answered]
    return rights


def _shown(interval: Interval) -> str:
    value, low, high = (100 * share for share in (interval.value, interval.low, interval.high))
    return f"{value:.1f}  ({low:.1f} to {high:.1f})"


def _accuracy(answered: Sequence[tuple[LabelledQuestion, CouncilAnswers]], names: Sequence[str]) -> Table:
    counts = {kind: sum(question.kind == kind for question, _ in answered) for kind in _KINDS}
    table = table_of(
        f"Right answers to {len(answered)} questions, in percent",
        "In brackets the 95 % interval by Wilson. The other columns: right answers of the questions of a kind.",
        ("", "all", *(f"{kind} ({count})" for kind, count in counts.items())),
    )
    for name, right in _rights(answered, names).items():
        by_kind = [sum(r for r, (q, _) in zip(right, answered, strict=True) if q.kind == kind) for kind in _KINDS]
        table.add_row(name, _shown(wilson(sum(right), len(right))), *map(str, by_kind))
    return table


def _differences(answered: Sequence[tuple[LabelledQuestion, CouncilAnswers]], names: Sequence[str]) -> Table:
    table = table_of(
        "The consensus minus the others, in points",
        "In brackets the 95 % interval of the paired bootstrap. Won: questions that only the consensus answers right; "
        "lost: those that only the other one does.",
        ("the consensus minus", "points", "won", "lost"),
    )
    rights = _rights(answered, names)
    consensus = rights.pop("consensus")
    for name, right in rights.items():
        won = sum(a and not b for a, b in zip(consensus, right, strict=True))
        lost = sum(b and not a for a, b in zip(consensus, right, strict=True))
        table.add_row(name, _shown(difference(consensus, right)), str(won), str(lost))
    return table


def _cost(answered: Sequence[tuple[LabelledQuestion, CouncilAnswers]], names: Sequence[str]) -> Table:
    answers = [one for _, one in answered]
    agreed, partings = sum(one.agreed_bytes for one in answers), sum(one.partings for one in answers)
    written, discarded = sum(one.written for one in answers), sum(one.discarded for one in answers)
    table = table_of("What the consensus cost", "Without the text that every answer begins with.", ("", "measured"))
    table.add_row("agreed text", f"{agreed} bytes")
    table.add_row("partings", f"{partings}, {100 * partings / max(agreed, 1):.1f} in 100 bytes")
    table.add_row("answers without a parting", f"{sum(not one.partings for one in answers)} of {len(answers)}")
    table.add_row("tokens that were discarded", f"{discarded} of {written}, {100 * discarded / max(written, 1):.1f} %")
    for index, name in enumerate(names):
        table.add_row(f"partings that {name} lost", str(sum(one.lost[index] for one in answers)))
    return table


if __name__ == "__main__":
    sys.exit(main())
