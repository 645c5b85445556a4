"""The messages of `council up` about pages and requests that its web process has refused, which do not learn why."""

from __future__ import annotations

from collections.abc import Iterable

from consumers.web.door.origins import MOST_REFUSED, host_refusal_sentence, refusal_sentence
from schemas.processes import ProcessRecord

# By the fact of the process record that contains them.
_SENTENCES = {"refused_origins": refusal_sentence, "refused_hosts": host_refusal_sentence}


class OriginNews:
    """Remembers the origins and hosts that were reported, also when the web process is started again."""

    def __init__(self) -> None:
        self._reported: dict[str, set[str]] = {fact: set() for fact in _SENTENCES}

    def sentences(self, records: Iterable[ProcessRecord]) -> list[str]:
        """A sentence for each origin and host in these records that was not reported before, MOST_REFUSED in all of
        each kind."""
        details = [record.detail for record in records if record.role == "web"]
        sentences: list[str] = []
        for fact, sentence_of in _SENTENCES.items():
            reported = self._reported[fact]
            refused = [origin for detail in details for origin in str(detail.get(fact, "")).split()]
            news = [origin for origin in dict.fromkeys(refused) if origin not in reported]
            news = news[: MOST_REFUSED - len(reported)]
            reported.update(news)
            sentences += map(sentence_of, news)
        return sentences
