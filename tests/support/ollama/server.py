"""A test server with Ollama's scheduler and its exact format, and with faults that a real one cannot be made to have.

    async with ollama_server(StoredModel("small:latest"), ...) as server: ... server.url ... server.books.loads ...
    python -m tests.support.ollama.server --model small=1.3 --model large=9 --memory-gb 8    until its input ends

books.py is the scheduler, lines.py the format, voice.py the models. Two tables, SAID and SPECIAL, define the faults of
models with `behaves`. Over HTTP, GET /books returns the requests and loads, and POST /books sets limits.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.support.ollama.books import GB, Books, Limits, NoRunner, Runner, StoredModel, keep_alive_seconds
from tests.support.ollama.lines import HTML, Said, go_json, go_time, line, lines_of, now, token_entry
from tests.support.ollama.voice import spoken

MOST_TOKENS = 2_000


@dataclass(frozen=True)
class Asked:
    """A request as it was received."""

    method: str
    path: str
    head: str
    body: dict[str, Any]


@dataclass
class OllamaServer:
    """Its URL, its scheduler, and what it received. A `version` before 0.12.11 has no logprobs."""

    books: Books
    version: str = "0.12.11"
    url: str = ""
    requests: list[Asked] = field(default_factory=list)
    # For each model: how many answers have begun, and how many have ended by themselves.
    begun: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    # The connections that are open now, and all connections.
    connections: int = 0
    accepted: int = 0
    # How many of the next requests for a model find the queue full.
    busy: int = 0
    # Newer versions of Ollama do not list the models in memory while they load one.
    tells_while_loading: bool = False
    # The server ends with the first of this event and its context.
    stop: Callable[[], Awaitable[None]] = field(init=False, repr=False)

    @property
    def limits(self) -> Limits:
        return self.books.limits

    @property
    def paths(self) -> list[str]:
        return [asked.path for asked in self.requests]

    @property
    def questions(self) -> list[dict[str, Any]]:
        """The bodies of the requests for an answer."""
        return [asked.body for asked in self.requests if asked.body.get("prompt") or asked.body.get("messages")]

    @property
    def loaded(self) -> set[str]:
        return {runner.model.name for runner in self.books.loaded.values() if not runner.loading}


class Reader(asyncio.StreamReader):
    """A reader that notices that the client has closed the connection, also between reads."""

    def __init__(self) -> None:
        super().__init__()
        self.left = asyncio.Event()

    def feed_eof(self) -> None:
        super().feed_eof()
        self.left.set()


@dataclass
class Answer:
    """One response on a connection that stays open."""

    reader: Reader
    writer: asyncio.StreamWriter
    streams: bool = False
    # The number of this request for its model, from 1.
    number: int = 0

    async def whole(self, status: str, body: bytes, kind: str = "application/json; charset=utf-8") -> None:
        await self._raw(f"{_head(status, kind)}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    async def json(self, value: object, status: str = "200 OK") -> None:
        await self.whole(status, go_json(value))

    async def error(self, status: str, message: str) -> None:
        await self.json({"error": message}, status)

    async def part(self, data: bytes) -> None:
        """Sends one part of a stream; the head goes with the first, as gin writes it."""
        head = (
            b""
            if self.streams
            else f"{_head('200 OK', 'application/x-ndjson')}Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        self.streams = True
        await self._raw(b"%s%x\r\n%s\r\n" % (head, len(data), data))

    async def close(self) -> None:
        if self.streams:
            await self._raw(b"0\r\n\r\n")
            self.streams = False

    def cut(self) -> None:
        self.streams = False
        self.writer.transport.abort()

    async def _raw(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()


def _head(status: str, kind: str) -> str:
    date = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nDate: {date}\r\n"


Special = Callable[[Answer, tuple[bytes, ...]], Awaitable[None]]


async def silent(answer: Answer, begun: tuple[bytes, ...]) -> None:
    for part in begun:
        await answer.part(part)
    await asyncio.Event().wait()


async def never(answer: Answer, begun: tuple[bytes, ...]) -> None:
    await asyncio.Event().wait()


async def cut(answer: Answer, begun: tuple[bytes, ...]) -> None:
    for part in begun:
        await answer.part(part)
    answer.cut()


async def endless_line(answer: Answer, begun: tuple[bytes, ...]) -> None:
    while True:
        await answer.part(b"x" * 65_536)


async def finishes_and_stays(answer: Answer, begun: tuple[bytes, ...]) -> None:
    for part in (*begun, lines_of("good")[-1]):
        await answer.part(part)
    await asyncio.Event().wait()


async def hangs_up_once(answer: Answer, begun: tuple[bytes, ...]) -> None:
    """Closes the connection as a kept one that closes while a request arrives."""
    if answer.number == 1:
        answer.cut()
        return
    for part in (*begun, lines_of("good")[-1]):
        await answer.part(part)


async def html_503(answer: Answer, begun: tuple[bytes, ...]) -> None:
    await answer.whole("503 Service Unavailable", HTML, "text/html")


async def stopped_runner(answer: Answer, begun: tuple[bytes, ...]) -> None:
    await answer.error("500 Internal Server Error", "llama runner process has terminated: signal: killed")


async def quotes_the_prompt(answer: Answer, begun: tuple[bytes, ...]) -> None:
    await answer.error("400 Bad Request", "cannot render: My darkest secret is that I count, out of memory")


SPECIAL: dict[str, Special] = {
    special.__name__: special
    for special in (
        silent,
        never,
        cut,
        endless_line,
        finishes_and_stays,
        hangs_up_once,
        html_503,
        stopped_runner,
        quotes_the_prompt,
    )
}


class _Site:
    """Answers the requests of a connection, one after another."""

    def __init__(self, server: OllamaServer) -> None:
        self._server, self._books = server, server.books
        self._routes: dict[tuple[str, str], Callable[[Answer, dict[str, Any]], Awaitable[None]]] = {
            ("GET", "/api/version"): self._version,
            ("GET", "/api/tags"): self._tags,
            ("GET", "/api/ps"): self._ps,
            ("POST", "/api/show"): self._show,
            ("POST", "/api/generate"): lambda answer, body: self._inference(answer, "/api/generate", body),
            ("POST", "/api/chat"): lambda answer, body: self._inference(answer, "/api/chat", body),
            ("GET", "/books"): self._tell_books,
            ("POST", "/books"): self._change_books,
        }

    async def serve(self, reader: Reader, writer: asyncio.StreamWriter) -> None:
        self._server.connections += 1
        self._server.accepted += 1
        try:
            while head := await _next_head(reader):
                method, path, _ = head.partition("\r\n")[0].split(" ")
                lengths = [row for row in head.lower().split("\r\n") if row.startswith("content-length:")]
                raw = await reader.readexactly(int(lengths[0].partition(":")[2])) if lengths else b""
                answer = Answer(reader, writer)
                if not await self._answered(answer, method, path, head, raw):
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has closed the connection
        finally:
            self._server.connections -= 1
            writer.close()

    async def _answered(self, answer: Answer, method: str, path: str, head: str, raw: bytes) -> bool:
        """False where the client left before the end: its request is then ended, as Ollama does."""
        working = asyncio.create_task(self._route(answer, method, path, head, raw))
        leaving = asyncio.create_task(answer.reader.left.wait())
        try:
            await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                return False
            await working
            return not answer.writer.transport.is_closing()
        finally:
            for task in (working, leaving):
                task.cancel()
            await asyncio.gather(working, leaving, return_exceptions=True)

    async def _route(self, answer: Answer, method: str, path: str, head: str, raw: bytes) -> None:
        try:
            body = json.loads(raw) if raw else {}
        except ValueError:
            await answer.error("400 Bad Request", "invalid character 'o' looking for beginning of object key string")
            return
        if path != "/books":
            self._server.requests.append(Asked(method, path, head, body))
        if path == "/":
            await answer.whole("200 OK", b"Ollama is running", "text/plain; charset=utf-8")
        elif route := self._routes.get((method, path)):
            await route(answer, body)
            await answer.close()
        else:
            await answer.whole("404 Not Found", b"404 page not found", "text/plain")

    async def _version(self, answer: Answer, body: dict[str, Any]) -> None:
        await answer.json({"version": self._server.version})

    async def _tags(self, answer: Answer, body: dict[str, Any]) -> None:
        models = sorted(self._books.models.values(), key=lambda model: model.modified_at, reverse=True)
        await answer.json({"models": [_listed(model) for model in models]})

    async def _ps(self, answer: Answer, body: dict[str, Any]) -> None:
        if not self._server.tells_while_loading:
            await self._books.nothing_loads.wait()
        running = [_running(runner) for runner in self._books.loaded.values()]
        await answer.json({"models": sorted(running, key=lambda model: str(model["expires_at"]), reverse=True)})

    async def _show(self, answer: Answer, body: dict[str, Any]) -> None:
        name = body.get("model") or body.get("name")
        if not name:
            await answer.error("400 Bad Request", "model is required")
        elif model := self._books.stored(name):
            await answer.json(_shown(model))
        else:
            await answer.error("404 Not Found", f"model '{name}' not found")

    async def _inference(self, answer: Answer, path: str, body: dict[str, Any]) -> None:
        """/api/generate and /api/chat: loads, unloads or asks a model."""
        name = str(body.get("model", ""))
        has_logprobs = _numbers(self._server.version) >= (0, 12, 11)
        if has_logprobs and not 0 <= body.get("top_logprobs", 0) <= 20:
            await answer.error("400 Bad Request", "top_logprobs must be between 0 and 20")
            return
        try:
            keep_alive_s = None if body.get("keep_alive") is None else keep_alive_seconds(body["keep_alive"])
        except ValueError as error:
            await answer.error("400 Bad Request", str(error))
            return
        model = self._books.stored(name)
        if model is None:
            await answer.error("404 Not Found", f"model '{name}' not found")
            return
        has_question = bool(body.get("prompt") or body.get("messages"))
        if not has_question and keep_alive_s == 0:
            self._books.expire(model)
            await answer.json(_empty(path, name, "unload"))
            return
        verb = path.rpartition("/")[2]
        if "completion" not in model.capabilities:
            await answer.error("400 Bad Request", f'"{name}" does not support {verb}')
            return
        if body.get("think") and "thinking" not in model.capabilities:
            await answer.error("400 Bad Request", f'"{name}" does not support thinking')
            return
        if self._server.busy > 0:
            self._server.busy -= 1
            await answer.error(
                "503 Service Unavailable", "server busy, please try again.  maximum pending requests exceeded"
            )
            return
        if model.remote_host:
            await self._say(answer, path, body, model, has_logprobs)
            return
        try:
            runner = await self._books.acquire(model, body.get("options") or {}, keep_alive_s)
        except NoRunner as refusal:
            statuses = {500: "500 Internal Server Error", 503: "503 Service Unavailable"}
            await answer.error(statuses[refusal.status], refusal.message)
            return
        try:
            if has_question:
                async with runner.slots:
                    await self._say(answer, path, body, model, has_logprobs)
            else:
                await answer.json(_empty(path, name, "load"))
        finally:
            self._books.release(runner)

    async def _say(
        self, answer: Answer, path: str, body: dict[str, Any], model: StoredModel, has_logprobs: bool
    ) -> None:
        name = body["model"]
        self._server.begun[model.name] += 1
        answer.number = self._server.begun[model.name]
        if special := SPECIAL.get(model.behaves):
            await special(answer, lines_of("no_done", path, name))
        elif model.behaves:
            for part in lines_of(model.behaves, path, name):
                await answer.part(part)
            if not answer.streams:  # nothing was written: Go ends the response before it has a body
                await answer.whole("200 OK", b"", "application/x-ndjson")
        else:
            parts = list(_voice(model, body, has_logprobs, self._server.begun.total()))
            if body.get("stream", True):
                for one in parts:
                    await answer.part(go_json(line(path, name, one)) + b"\n")
                    if not one.reason:
                        await asyncio.sleep(1 / self._server.limits.tokens_per_s)
            else:
                entries = tuple(entry for one in parts for entry in one.entries)
                text, thinking = "".join(one.text for one in parts), "".join(one.thinking for one in parts)
                await answer.json(line(path, name, Said(text, entries, thinking, parts[-1].reason)))
        self._server.ended[model.name] += 1

    async def _tell_books(self, answer: Answer, body: dict[str, Any]) -> None:
        server = self._server
        counts = {"loads": self._books.loads, "unloads": self._books.unloads, "loaded": sorted(server.loaded)}
        asked = [{"path": asked.path, "body": asked.body} for asked in server.requests]
        await answer.json({**counts, "begun": server.begun, "ended": server.ended, "requests": asked})

    async def _change_books(self, answer: Answer, body: dict[str, Any]) -> None:
        for name, value in body.items():
            setattr(
                self._server if name in ("busy", "version", "tells_while_loading") else self._server.limits, name, value
            )
        await answer.json(dataclasses.asdict(self._server.limits))


async def _next_head(reader: asyncio.StreamReader) -> str:
    try:
        return (await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.partition("-")[0].split("."))


def _voice(model: StoredModel, body: dict[str, Any], has_logprobs: bool, number: int) -> Iterator[Said]:
    """Streams the model's answer to a request; without a seed, another one each time."""
    options = body.get("options") or {}
    seed = options.get("seed", -1)
    prompt = body.get("prompt") or json.dumps(body.get("messages"))
    most = options.get("num_predict", -1)
    most = MOST_TOKENS if most < 0 else min(most, MOST_TOKENS)
    key = f"{model.blob} {prompt} {seed if seed >= 0 else random.Random(number).random()}"
    count = 0
    *_, last = body.get("messages") or [{}]
    begun = last["content"] if last.get("role") == "assistant" else ""
    for one in spoken(key, options.get("temperature", 0.8), most, begun):
        count += 1
        entry = token_entry(one.text, one.logprob)
        if body.get("top_logprobs"):
            entry["top_logprobs"] = [token_entry(*other) for other in one.top[: body["top_logprobs"]]]
        entries = (entry,) if has_logprobs and body.get("logprobs") else ()
        thinks = "thinking" in model.capabilities and body.get("think", True) and count <= 5
        yield Said("" if thinks else one.text, entries, one.text if thinks else "")
    yield Said(reason="length" if count >= most else "stop")


def _empty(path: str, model: str, reason: str) -> dict[str, Any]:
    content = {"message": {"role": "assistant", "content": ""}} if path == "/api/chat" else {"response": ""}
    return {"model": model, "created_at": now(), **content, "done": True, "done_reason": reason}


def _details(model: StoredModel) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": model.family,
        "families": [model.family],
        "parameter_size": model.parameter_size,
        "quantization_level": model.quantization,
    }


def _remote(model: StoredModel) -> dict[str, Any]:
    return {"remote_model": model.name, "remote_host": model.remote_host} if model.remote_host else {}


def _listed(model: StoredModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "model": model.name,
        **_remote(model),
        "modified_at": go_time(model.modified_at),
        "size": 382 if model.remote_host else model.size_bytes,
        "digest": model.digest,
        "details": _details(model),
    }


def _running(runner: Runner) -> dict[str, Any]:
    model = runner.model
    patience = timedelta(seconds=min(runner.keep_alive_s, 9e9))
    return {
        "name": model.name,
        "model": model.name,
        "size": model.memory_bytes,
        "digest": model.digest,
        "details": _details(model),
        "expires_at": go_time(runner.expires_at or datetime.now(UTC) + patience),
        "size_vram": int(model.memory_bytes * model.on_gpu),
        "context_length": runner.loaded_with["num_ctx"],
    }


def _shown(model: StoredModel) -> dict[str, Any]:
    rendered = f"RENDERER {model.renderer}\nPARSER {model.renderer}\n" if model.renderer else ""
    modelfile = (
        '# Modelfile generated by "ollama show"\n# To build a new Modelfile based on this, replace FROM with:\n'
        f"# FROM {model.name}\n\nFROM /usr/share/ollama/.ollama/models/blobs/sha256-{model.blob}\n"
        f'TEMPLATE """{model.template}"""\n{rendered}PARAMETER stop <|end|>\n'
    )
    return {
        "license": "MIT",
        "modelfile": modelfile,
        "parameters": f'{"stop":30} "<|end|>"',
        "template": model.template,
        "details": _details(model),
        **_remote(model),
        "model_info": {"general.architecture": model.family, "general.parameter_count": 1_235_814_432},
        "tensors": [{"name": "token_embd.weight", "type": "Q6_K", "shape": [2048, 128256]}],
        "capabilities": list(model.capabilities),
        "modified_at": go_time(model.modified_at),
    }


@asynccontextmanager
async def ollama_server(
    *models: StoredModel, limits: Limits | None = None, port: int = 0
) -> AsyncIterator[OllamaServer]:
    """Runs the server on a loopback port until the context ends."""
    server = OllamaServer(Books(models, limits or Limits()))
    site, running = _Site(server), set[asyncio.Task[None]]()

    def connected() -> asyncio.StreamReaderProtocol:
        reader = Reader()

        def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(site.serve(reader, writer))
            running.add(task)
            task.add_done_callback(running.discard)

        return asyncio.StreamReaderProtocol(reader, serve)

    listening = await asyncio.get_running_loop().create_server(connected, "127.0.0.1", port)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    scheduling = asyncio.create_task(server.books.schedule())

    async def stop() -> None:
        listening.close()
        for task in (*running, scheduling):
            task.cancel()
        await asyncio.gather(*running, scheduling, return_exceptions=True)
        server.books.forget()

    server.stop = stop
    try:
        yield server
    finally:
        await stop()


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", default=[], help="NAME=GB, and :BEHAVIOUR after it")
    parser.add_argument("--memory-gb", type=float, default=64.0)
    parser.add_argument("--max-loaded", type=int, default=3)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--max-queue", type=int, default=512)
    parser.add_argument("--load-s", type=float, default=0.2)
    parser.add_argument("--tokens-per-s", type=float, default=50.0)
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    models = []
    for text in given.model or ["small=1.3", "middle=4.7"]:
        name, _, rest = text.partition("=")
        size, _, behaves = rest.partition(":")
        name = name if ":" in name else f"{name}:latest"
        models.append(StoredModel(name, int(float(size or 1) * GB), behaves=behaves))
    limits = Limits(
        int(given.memory_gb * GB), given.max_loaded, given.parallel, given.max_queue, given.load_s, given.tokens_per_s
    )
    async with ollama_server(*models, limits=limits, port=given.port) as server:
        print(server.url, flush=True)
        # It ends with the process that started it.
        with contextlib.suppress(KeyboardInterrupt):
            await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main())
