"""What one answer that is written together costs, beside its members alone: time, discarded tokens, the aggregator.

alone        each member by itself, one after the other, the same questions      --> ms a byte
together     the same members write one answer                                   --> ms a byte, partings, discarded
decisions    a council whose models answer at once                               --> ms from a decision to new tokens
aggregator   the same members in sessions in step, and in sessions of consensus  --> CPU of a session
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence

import msgspec
from rich.table import Table

from bench.decisions import Delay, decision_delays
from bench.private_roles import PrivateRoles
from bench.report import Aim, BenchReport, quantile, table_of
from bench.usage import UsageMeter
from bench.waiting import wait_until
from council.models.store import stored_path
from schemas import keys
from schemas.frames import decode_frame
from schemas.grid import FRAME_RATE_HZ, NS_PER_S, window_start_ns
from schemas.rules.partings import Partings
from schemas.sessions import MemberSpec, SessionRequest, Sync

_BYTES_A_TOKEN = 4
_TOKENS = 40
# Of each model, the tokens of an answer of some 160 bytes.
_NGRAMS = {"ngram:word-3": _TOKENS, "ngram:char-6": _TOKENS * _BYTES_A_TOKEN, "ngram:bpe-3": _TOKENS}
_QUESTIONS = ("What is a list?", "What is a function?", "How does a class work?", "What does a module contain?")
_REAL_QUESTIONS = ("Name an animal of the sea.", "Why is the sky blue?", "What is a poem?", "How is bread made?")
_SYSTEMS = ("Answer in one short sentence.", "You are a friendly teacher. Answer in one sentence.")
_BEGINNING = "There are"
_LONGEST_S = 60.0
_ENDS_S = 90.0
# The slots of an n-gram producer: more sessions would wait.
_SESSIONS = 8
_LONG_TOKENS = 400
_WARM_UP_S = 2.0
_AT_ONCE = "2000"
_AIMED_DELAY_MS = 1000 / FRAME_RATE_HZ + 3.0
_AIMED_CPU = 1.2
_CAPTION = (
    "Greedy answers to {questions} questions, of {tokens} tokens at most. ms a byte: from the session's opening until "
    "its last text is released, by the bytes of the answer; the mean of the questions. Slowest, sum: of the members "
    "alone, in the same run. Partings: decisions between drafts that differ, a hundred bytes. Discarded: tokens that "
    "were written, and that the council replaced by another text. All processes share these cores."
)
_DELAY_CAPTION = (
    "{count} steers of {sessions} answers, by models that write a token as soon as they are asked. From the entry with "
    "which a decision, or its leader's word, is complete to the steered member's first entry in its new branch: the "
    "rest of the window, the commit, the read of the state, the request, and the first token."
)
_CPU_CAPTION = (
    f"{_SESSIONS} sessions at once of the three n-gram models at their own pace, each sync for {{seconds:.0f}} s, one "
    "after the other. CPU of the aggregator from /proc/<pid>/stat, in % of one core."
)


class _MeasuredAnswer(msgspec.Struct, frozen=True):
    """One answer: its bytes without the given beginning, the seconds until it was released, and how it was written."""

    length: int
    seconds: float
    partings: int = 0
    written: int = 0
    discarded: int = 0

    @property
    def ms_a_byte(self) -> float:
        return 1_000 * self.seconds / max(1, self.length)


class _AskedCouncil(msgspec.Struct, frozen=True):
    """Members that answer the questions, and the arguments of the producer of each model."""

    name: str
    members: tuple[MemberSpec, ...]
    producers: dict[str, tuple[str, ...]]
    questions: tuple[str, ...]
    beginning: str = ""


class _MeasuredAnswers(msgspec.Struct):
    """For each question: the answers of the members alone, and that of all."""

    alone: list[list[_MeasuredAnswer]] = []
    together: list[_MeasuredAnswer] = []


def measure(seconds: float) -> BenchReport:
    """Measures for some min(seconds, 60), and at least one question a council. Raises RuntimeError where a process dies
    meanwhile."""
    part_s = min(seconds, _LONGEST_S) / 4
    table = _cost_table(_councils()[0])
    for council in _councils():
        with PrivateRoles() as roles:
            _start(roles, council)
            _add_rows(table, council, _asked(roles, council, part_s))
            roles.check()
    delays, delay_aim = _delays(part_s)
    cpu, cpu_aim = _cpu(part_s)
    return BenchReport((table, delays, cpu), (delay_aim, cpu_aim))


def _councils() -> list[_AskedCouncil]:
    ngrams = tuple(MemberSpec(model, max_tokens=tokens) for model, tokens in _NGRAMS.items())
    found = [_AskedCouncil("n-gram", ngrams, dict.fromkeys(_NGRAMS, ()), _QUESTIONS, _BEGINNING)]
    if path := stored_path("smollm2"):
        members = tuple(MemberSpec(f"box-{n}", system=system) for n, system in enumerate(_SYSTEMS))
        arguments = ("--path", str(path), "--warm")
        found.append(_AskedCouncil("SmolLM2", members, {one.model: arguments for one in members}, _REAL_QUESTIONS))
    return found


def _start(roles: PrivateRoles, council: _AskedCouncil) -> None:
    roles.start("aggregator", "aggregator")
    for model, arguments in council.producers.items():
        roles.start(model, "producers", model, *arguments)
    roles.wait_until_ready()


def _asked(roles: PrivateRoles, council: _AskedCouncil, seconds: float) -> _MeasuredAnswers:
    """Asks one question after the other, until the time is over. The first answer is not counted: models are slow while
    they are loaded into memory."""
    _answer(roles, council, council.questions[0], council.members, "consensus")
    answers, until = _MeasuredAnswers(), time.monotonic() + seconds
    for question in council.questions:
        alone = [_answer(roles, council, question, (member,), "free") for member in council.members]
        answers.alone.append(alone)
        answers.together.append(_answer(roles, council, question, council.members, "consensus"))
        if time.monotonic() > until:
            break
    return answers


def _request(
    council: _AskedCouncil, question: str, members: tuple[MemberSpec, ...], sync: Sync, tokens: int = _TOKENS
) -> SessionRequest:
    if sync == "consensus":
        # The agreed text has so many bytes for each token. A model of characters would leave the others before that.
        members = tuple(msgspec.structs.replace(member, max_tokens=tokens * _BYTES_A_TOKEN) for member in members)
    return SessionRequest(
        question, members, max_tokens=tokens, temperature=0.0, seed=1, sync=sync, prefix=council.beginning
    )


def _answer(
    roles: PrivateRoles, council: _AskedCouncil, question: str, members: tuple[MemberSpec, ...], sync: Sync
) -> _MeasuredAnswer:
    opening, _ = roles.open_requested(_request(council, question, members, sync))
    _wait_for_end(roles, opening.session)
    (entries,) = roles.pipe.run([("XRANGE", keys.frames(opening.session), "-", "+")])
    frames = [decode_frame(fields[1]) for _, fields in entries]
    partings = Partings()
    for frame in frames:
        partings.add(frame.consensus.decisions or ())
    last = max((frame.window_index for frame in frames if any(member.text for member in frame.members)), default=0)
    discarded = sum(frame.counts.superseded for frame in frames)
    return _MeasuredAnswer(
        max(member.position_bytes for member in frames[-1].members) - len(council.beginning.encode()),
        window_start_ns(last + 1) / NS_PER_S,
        partings.count,
        discarded + sum(len(frame.tokens) for frame in frames),
        discarded,
    )


def _wait_for_end(roles: PrivateRoles, session: str) -> None:
    def has_ended() -> bool:
        (status,) = roles.pipe.run([("HGET", keys.state(session), "status")])
        return bool(status == b"ended")

    wait_until(has_ended, "an answer is complete", _ENDS_S)


def _cost_table(council: _AskedCouncil) -> Table:
    return table_of(
        "An answer that is written together",
        _CAPTION.format(questions=len(council.questions), tokens=_TOKENS),
        ("", "bytes", "ms a byte", "/ slowest", "/ sum", "partings", "discarded %"),
    )


def _add_rows(table: Table, council: _AskedCouncil, answers: _MeasuredAnswers) -> None:
    """A row for each member alone, and one for all together."""
    alone = [statistics.fmean(one.ms_a_byte for one in of_member) for of_member in zip(*answers.alone, strict=True)]
    for number, ms in enumerate(alone):
        length = statistics.fmean(answers_of[number].length for answers_of in answers.alone)
        name = f"{council.name}: {council.members[number].model} alone"
        table.add_row(name, f"{length:.0f}", f"{ms:.1f}", f"{ms / max(alone):.2f}", f"{ms / sum(alone):.2f}", "", "")
    together = answers.together
    ms = statistics.fmean(one.ms_a_byte for one in together)
    length, written = sum(one.length for one in together), sum(one.written for one in together)
    table.add_row(
        f"{council.name}: together ({len(together)} answers)",
        f"{length / len(together):.0f}",
        f"{ms:.1f}",
        f"{ms / max(alone):.2f}",
        f"{ms / sum(alone):.2f}",
        f"{100 * sum(one.partings for one in together) / length:.1f}",
        f"{100 * sum(one.discarded for one in together) / written:.0f}",
    )
    table.add_section()


def _delays(seconds: float) -> tuple[Table, Aim]:
    ngrams = _councils()[0]
    council = msgspec.structs.replace(ngrams, producers=dict.fromkeys(_NGRAMS, ("--tokens-per-s", _AT_ONCE)))
    delays: list[Delay] = []
    until, sessions = time.monotonic() + seconds, 0
    with PrivateRoles() as roles:
        _start(roles, council)
        for question in itertools.cycle(council.questions):
            opening, _ = roles.open_requested(_request(council, question, council.members, "consensus"))
            _wait_for_end(roles, opening.session)
            (entries,) = roles.pipe.run([("XRANGE", keys.tokens(opening.session), "-", "+")])
            delays += decision_delays([(entry_id.decode(), fields[1]) for entry_id, fields in entries])
            sessions += 1
            if time.monotonic() > until:
                break
        roles.check()
    table = table_of(
        "From a decision to the tokens after it",
        _DELAY_CAPTION.format(count=len(delays), sessions=sessions),
        ("", "p10 ms", "p50 ms", "p90 ms", "p99 ms"),
    )
    parts = {
        "the rest of the window": [one.rest for one in delays],
        "the commit": [one.commit for one in delays],
        "state, request, a token": [one.member for one in delays],
        "in all": [one.total for one in delays],
    }
    for name, values in parts.items():
        table.add_row(name, *(f"{quantile(values, share):.1f}" for share in (0.1, 0.5, 0.9, 0.99)))
    median = quantile(parts["in all"], 0.5)
    wanted = f"a decision delays a steered member by at most a window and 3 ms ({_AIMED_DELAY_MS:.1f} ms, p50)"
    return table, Aim(wanted, f"{median:.1f} ms", median <= _AIMED_DELAY_MS)


def _cpu(seconds: float) -> tuple[Table, Aim]:
    council, measured_s = _councils()[0], seconds / 2
    table = table_of(
        "The aggregator's cost of a consensus",
        _CPU_CAPTION.format(seconds=measured_s),
        ("sync", "entries/s", "CPU %", "CPU % of a session", "/ step"),
    )
    cpu: dict[Sync, float] = {}
    syncs: Sequence[Sync] = ("step", "consensus")
    for sync in syncs:
        entries_a_s, cpu[sync] = _sessions_cpu(council, sync, measured_s)
        shown = (f"{entries_a_s:.0f}", f"{100 * cpu[sync]:.1f}", f"{100 * cpu[sync] / _SESSIONS:.2f}")
        table.add_row(sync, *shown, f"{cpu[sync] / cpu['step']:.2f}")
    ratio = cpu["consensus"] / cpu["step"]
    wanted = f"a session of consensus costs the aggregator at most {_AIMED_CPU:g} times one in step"
    return table, Aim(wanted, f"{ratio:.2f} times", ratio <= _AIMED_CPU)


def _sessions_cpu(council: _AskedCouncil, sync: Sync, seconds: float) -> tuple[float, float]:
    """(entries a second, the aggregator's CPU as a share of a core) of some sessions at once."""
    long = tuple(
        msgspec.structs.replace(member, max_tokens=_LONG_TOKENS * _BYTES_A_TOKEN) for member in council.members
    )
    with PrivateRoles() as roles:
        _start(roles, council)
        opened = [
            roles.open_requested(_request(council, question, long, sync, _LONG_TOKENS))[0].session
            for question in itertools.islice(itertools.cycle(council.questions), _SESSIONS)
        ]
        time.sleep(_WARM_UP_S)
        before, began_s = _entries(roles, opened), time.monotonic()
        meter = UsageMeter({"aggregator": roles.pids["aggregator"]})
        time.sleep(seconds)
        usage, measured_s = meter.read(), time.monotonic() - began_s
        entries = _entries(roles, opened) - before
        roles.check()
        return entries / measured_s, usage["aggregator"].cpu


def _entries(roles: PrivateRoles, sessions: Sequence[str]) -> int:
    return sum(roles.count_entries(session) for session in sessions)
