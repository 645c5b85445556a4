"""The output of `council check`."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from council.doctor.server_trial import Capabilities, ServerTrial
from producers.servers.prefix_try import Outcome

# How a server takes an answer that the request begins.
_CONTINUES: dict[Outcome, str] = {
    "continued": "yes: an answer that the request begins is continued",
    "repeated": "yes: an answer that the request begins is repeated, which is left out, and continued",
    "accepted": "yes, as far as the answer shows: an answer that the request begins is accepted",
    "begun anew": "no: an answer that the request begins is begun anew",
    "refused": "no: an answer that the request begins is refused",
    "not tried": "not known: the try failed",
}


def print_trial(console: Console, trial: ServerTrial) -> None:
    """Prints what was sent to the server, what came back, and what follows from it."""
    model = f", model {trial.model}" if trial.model else ""
    console.print(Text(f"{trial.server}: {trial.address} ({trial.api}){model}"))
    table = Table.grid(padding=(0, 2))
    for exchange in trial.exchanges:
        if not exchange.sent:
            continue  # lists and descriptions
        table.add_row("sent", Text(f"{exchange.request} {exchange.sent}"))
        came = f"HTTP {exchange.status} {exchange.received}" if exchange.status else "no answer"
        table.add_row("received", Text(came))
    if trial.thinking:
        table.add_row("thinking", Text(trial.thinking))
    if trial.capabilities:
        table.add_row("answer", Text(f"{trial.answer!r} (ended: {trial.ending})"))
        for name, words in _rows(trial.capabilities):
            table.add_row(name, words)
    table.add_row("left out", Text("; ".join(trial.left_out) or "nothing"))
    console.print(table)
    console.print(Text(trial.failure, "red") if trial.failure else Text("The server answers.", "green"))


def _rows(found: Capabilities) -> list[tuple[str, str]]:
    own_bytes = "with" if found.bytes else "without"
    logprobs = f"yes, {found.top_logprobs} alternatives a token, {own_bytes} bytes"
    return [
        ("logprobs", logprobs if found.logprobs else "no: certainty and diversity cannot be measured"),
        ("thinks", "yes" if found.thinking else "not in this answer"),
        ("seed", "accepted" if found.seed else "refused"),
        ("continues", _CONTINUES[found.prefix]),
    ]
