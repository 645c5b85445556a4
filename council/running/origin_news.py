"""The messages of `council up` about pages that its web process has refused, and that do not learn why."""

from __future__ import annotations

from collections.abc import Iterable

from consumers.web.door.origins import MOST_REFUSED, refusal_sentence
from schemas.processes import ProcessRecord


class OriginNews:
    """Remembers the origins that were reported, also when the web process is started again."""

    def __init__(self) -> None:
        self._reported: set[str] = set()

    def sentences(self, records: Iterable[ProcessRecord]) -> list[str]:
        """A sentence for each origin in these records that was not reported before, MOST_REFUSED in all."""
        refused = [
            origin
            for record in records
            if record.role == "web"
            for origin in str(record.detail.get("refused_origins", "")).split()
        ]
        news = [origin for origin in dict.fromkeys(refused) if origin not in self._reported]
        news = news[: MOST_REFUSED - len(self._reported)]
        self._reported.update(news)
        return [refusal_sentence(origin) for origin in news]
