"""The messages of `council up` about its models: while they are loaded, and when their servers are away."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from schemas.models import ModelFacts, facts_in
from schemas.processes import ProcessRecord
from schemas.rules.choice import gigabytes


class ModelNews:
    """Compares the producers' reports with those before. `models` are those of this council."""

    def __init__(self, models: Collection[str]) -> None:
        self._models = models
        self._before: dict[str, ModelFacts] = {}
        self._loaded: set[str] = set()

    def sentences(self, records: Sequence[ProcessRecord]) -> list[str]:
        """A sentence for each change since the last call."""
        now = {
            facts.model: facts
            for record in records
            if record.role == "producer" and (facts := facts_in(record.detail)).model in self._models
        }
        news = [
            sentence
            for model, facts in now.items()
            for sentence in self._news(facts, self._before.get(model, ModelFacts(model)), list(now.values()))
        ]
        self._before |= now
        return news

    def _news(self, facts: ModelFacts, before: ModelFacts, all_facts: Sequence[ModelFacts]) -> list[str]:
        news = []
        size = f", {gigabytes(facts.size_bytes)}" if facts.size_bytes else ""
        if facts.residency != before.residency:
            if facts.residency == "loading":
                news.append(f"Loading {facts.model}{size}.")
            elif facts.residency == "loaded":
                managed = sum(one.residency != "unmanaged" for one in all_facts)
                self._loaded.add(facts.model)
                news.append(f"{facts.model} is loaded ({len(self._loaded)} of {managed}{size}).")
            elif before.residency == "loaded":
                self._loaded.discard(facts.model)
                news.append(f"{facts.model} is no longer in memory; its next request loads it.")
        if facts.trouble and facts.trouble != before.trouble:
            news.append(facts.trouble if facts.trouble.endswith((".", "?")) else f"{facts.trouble}.")
        return news
