"""The HTTP API: opening, listing and cancelling sessions."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from consumers.web.bodies import session_body
from consumers.web.errors import json_response
from schemas.admission import admit
from schemas.errors import Refused
from schemas.keys import entry_ms
from schemas.sessions import Limits, Opening
from schemas.tiers import TierPolicy, tier_named
from transport.connection import AsyncPipe
from transport.process import list_processes, served_models
from transport.sessions import (
    SessionState,
    cancel_session,
    find_session,
    list_sessions,
    new_session_id,
    open_session,
    read_openings,
)


class Api:
    """The handlers. `tier`, one of `tiers`, and `limits` are for sessions that do not say otherwise."""

    def __init__(self, pipe: AsyncPipe, tier: TierPolicy, tiers: Mapping[str, TierPolicy], limits: Limits) -> None:
        self._pipe, self._tier, self._tiers, self._limits = pipe, tier, tiers, limits

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/api/sessions", self._open),
            web.get("/api/sessions", self._list),
            web.delete("/api/sessions/{session}", self._cancel),
            web.get("/healthz", self._health),
        ]

    async def _open(self, request: web.Request) -> web.Response:
        if request.content_type != "application/json":
            raise Refused("unsupported_media_type", "Send the body as application/json.", status=415)
        body = session_body(await request.read())
        tier = self._tier if body.tier is None else tier_named(body.tier, self._tiers)
        models = served_models(await list_processes(self._pipe))
        admission = admit(body.request(), new_session_id(), models, tier, self._limits, tiers=self._tiers)
        await open_session(self._pipe, admission.opening)
        opened = {
            "session": admission.opening.session,
            "models": [member.model for member in admission.opening.members],
            "warnings": admission.warnings,
            "tier": tier.name,
        }
        return json_response(opened, status=201)

    async def _list(self, _request: web.Request) -> web.Response:
        states = await list_sessions(self._pipe)
        openings = await read_openings(self._pipe, states)
        shown = [_shown(state, openings[state.session]) for state in states if state.session in openings]
        return json_response({"sessions": shown})

    async def _cancel(self, request: web.Request) -> web.Response:
        session = request.match_info["session"]
        await cancel_session(self._pipe, session)
        state = await find_session(self._pipe, session)
        return json_response({"session": session, "status": state.status}, status=202)

    async def _health(self, _request: web.Request) -> web.Response:
        return json_response({"ok": True})


def _shown(state: SessionState, opening: Opening) -> dict[str, object]:
    """A session in the listing: what it is asked stays out."""
    return {
        "session": state.session,
        "status": state.status,
        "window_index": state.window,
        "models": [member.model for member in opening.members],
        "reason": state.reason or None,
        "opened_ms": entry_ms(state.opened),
    }
