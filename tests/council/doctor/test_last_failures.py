"""The last failure of each server, as `council doctor` shows it."""

from __future__ import annotations

from council.doctor.last_failures import failure_findings, findings_of
from council.settings.schema import Server, load_settings
from schemas.models import ModelFacts
from schemas.rules.served import Failure
from tests.support.redis_servers import RedisServer
from transport.redis.connection import AsyncPipe
from transport.register import ProcessRegistration

REASON = "m at http://gpu:8000 answered HTTP 500: boom"


def test_the_newest_failure_of_each_server_has_its_name_of_the_settings() -> None:
    servers = {"gpu": Server.model_validate({"url": "http://gpu:8000/v1/chat/completions"})}
    failures = [
        Failure("new", "http://gpu:8000", 100_000, REASON),
        Failure("old", "http://gpu:8000", 50_000, "older"),
        Failure("far", "http://far", 1_000, "far at http://far cannot be reached"),
    ]
    far, gpu = findings_of(failures, servers, 220_000)
    assert (gpu.name, gpu.status) == ("Server gpu", "warning")
    assert gpu.said == f"Its last failure, 2 min ago: {REASON}."
    assert gpu.advice.startswith("`council check gpu`")
    assert (far.name, far.advice.split("` ")[0]) == ("far", "`council check http://far")


async def test_they_are_read_from_the_council_that_runs(redis: RedisServer) -> None:
    facts = ModelFacts("m", "http://gpu:8000").as_detail()
    registration = ProcessRegistration("producer", **facts, failure=REASON, failed_ms=1)
    pipe = AsyncPipe(redis.url)
    await pipe.run(registration.renew())
    await pipe.close()
    (finding,) = await failure_findings(load_settings(None, {"redis_url": redis.url}))
    assert REASON in finding.said
