"""A recording as OTLP/JSON: tokens as log records, frames as gauges. Each line is one request, as the OpenTelemetry
Collector's receiver otlpjsonfile reads them.

    {"resourceLogs": [{"resource", "scopeLogs": [{"scope", "logRecords": [...]}]}]}
    {"resourceMetrics": [{"resource", "scopeMetrics": [{"scope", "metrics": [{"name", "gauge": {"dataPoints"}}]}]}]}

The encoding is that of https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding: names in camel case, integers
of 64 bits as strings. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from recordings.contents import About
from schemas.frame_json import shown_values
from schemas.frames import Frame

_UNITS = {
    "frontier_bytes": "By", "span_bytes": "By", "diverged_at_bytes": "By", "sync_lag_ms": "ms", "arrival_skew_ms": "ms",
    "tokens_per_s": "{token}/s", "position_bytes": "By", "buffered_tokens": "{token}",
}  # fmt: skip
_FRAME_GAUGES = (
    "energy", "wave", "diversity_index", "di_low", "di_covered", "coverage", "di_span", "span_bytes", "jsd",
    "entropy_total", "entropy_within", "coverage_mass", "agreement", "frontier_bytes", "diverged_at_bytes",
    "sync_lag_ms", "arrival_skew_ms", "late", "duplicates", "dead_letters", "superseded",
)  # fmt: skip
_MEMBER_GAUGES = ("energy", "tokens_per_s", "certainty", "position_bytes", "buffered_tokens")
_INFO = 9


def _value(value: object) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": str(value)}


def _attributes(values: Mapping[str, object]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in values.items() if value is not None]


def _resource(about: About) -> dict[str, Any]:
    named = {
        "service.name": "turbo-ensemble",
        "service.version": about.council_version,
        "council.session": about.session,
        "council.tier": about.tier,
    }
    return {"attributes": _attributes(named)}


def logs_line(rows: Sequence[Sequence[Any]], about: About) -> bytes:
    """One ExportLogsServiceRequest with these rows of tokens."""
    records = [_record(row) for row in rows]
    scope = {"scope": {"name": "council.tokens"}, "logRecords": records}
    return msgspec.json.encode({"resourceLogs": [{"resource": _resource(about), "scopeLogs": [scope]}]})


def _record(row: Sequence[Any]) -> dict[str, Any]:
    entry_id, at_ns, member, name, seq, lane, text, logprob, quality, arrival_ms, branch = row
    attributes = {
        "council.entry_id": entry_id, "council.member": member, "council.member_name": name, "council.seq": seq,
        "council.lane": lane, "council.logprob": logprob, "council.quality": quality,
        "council.arrival_ms": arrival_ms, "council.branch": branch,
    }  # fmt: skip
    body = {} if text is None else {"body": {"stringValue": text}}
    time = {"timeUnixNano": str(at_ns), "observedTimeUnixNano": str(at_ns)}
    return {**time, "severityNumber": _INFO, "severityText": "INFO", **body, "attributes": _attributes(attributes)}


def metrics_line(frames: Sequence[tuple[int, Frame]], about: About) -> bytes:
    """One ExportMetricsServiceRequest with the gauges of these frames, each with its time in nanoseconds."""
    metrics, shown = [], [(at_ns, shown_values(frame)) for at_ns, frame in frames]
    for field in _FRAME_GAUGES:
        points = [_point(at_ns, value) for at_ns, values in shown if (value := values[field]) is not None]
        metrics += _gauge(f"council.{field}", field, points)
    for field in _MEMBER_GAUGES:
        points = [
            _point(at_ns, value, {"council.member": index, "council.member_name": member.display_name})
            for at_ns, frame in frames
            for index, member in enumerate(frame.members)
            if (value := getattr(member, field)) is not None
        ]
        metrics += _gauge(f"council.member.{field}", field, points)
    scope = {"scope": {"name": "council.frames"}, "metrics": metrics}
    return msgspec.json.encode({"resourceMetrics": [{"resource": _resource(about), "scopeMetrics": [scope]}]})


def _gauge(name: str, field: str, points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The metric; empty where nothing was measured."""
    if not points:
        return []
    return [{"name": name, "unit": _UNITS.get(field, "1"), "gauge": {"dataPoints": points}}]


def _point(at_ns: int, value: float, attributes: Mapping[str, object] | None = None) -> dict[str, Any]:
    number = {"asInt": str(value)} if isinstance(value, int) else {"asDouble": value}
    more = {"attributes": _attributes(attributes)} if attributes else {}
    return {"timeUnixNano": str(at_ns), **number, **more}
