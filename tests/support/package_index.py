"""A package index on this machine with one package, and with the faults of real indexes."""

from __future__ import annotations

import base64
import hashlib
import io
import random
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from council.models.store import StoredModel
from tests.support.waiting import TIMEOUT_S

_PIECE_BYTES = 8192
PASSWORD = "open-sesame"
WHEEL = "tiny_model-1.0-py3-none-any.whl"


def tiny_model(size: int = 4_000_000) -> tuple[StoredModel, bytes]:
    """A model that does not compress, and its wheel, which requires a package that does not exist."""
    content = random.Random(7).randbytes(size)
    info = "tiny_model-1.0.dist-info"
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny_model/Tiny.gguf", content)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: not-there\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"{info}/RECORD,,\n")
    wheel = written.getvalue()
    return StoredModel(
        "tiny", "Tiny", "Somebody", "Apache-2.0", "tiny-model", "1.0", "tiny_model/Tiny.gguf",
        len(wheel), hashlib.sha256(wheel).hexdigest(), len(content), hashlib.sha256(content).hexdigest(),
    ), wheel  # fmt: skip


class PackageIndex:
    """The server: its content, its faults, and the requests so far. Attributes may be set while it runs."""

    def __init__(self, wheel: bytes) -> None:
        self.wheel = wheel
        self.has_ranges = True
        self.has_length = True
        self.breaks_after: int | None = None  # each response for the file ends after this number of bytes
        self.breaks = 1_000_000  # how many times it does so
        self.stalls_at: int | None = None  # it sends no byte from this one on until `resumes`
        self.resumes = threading.Event()
        self.needs_password = False
        self.serves_pip_alone = False
        self.pages: list[str] = []
        self.begun: list[int] = []  # the first byte of each response for the file
        self.sent_bytes = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def url(self, user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self._server.server_address[1]}/index/"

    def close(self) -> None:
        self.resumes.set()
        self._server.shutdown()
        self._server.server_close()


def _handler(index: PackageIndex) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.send_error(405)

        def do_GET(self) -> None:
            if self.path.endswith(".whl"):
                self._send_wheel()
                return
            index.pages.append(self.path)
            if self.path != "/index/tiny-model/":
                self.send_error(404)
            elif self._is_allowed():
                page = f'<!DOCTYPE html><a href="../../files/{WHEEL}">{WHEEL}</a>'.encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(page)))
                self.end_headers()
                self.wfile.write(page)

        def _is_allowed(self) -> bool:
            given = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
            if not index.needs_password or self.headers.get("Authorization") == f"Basic {given}":
                return True
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="index"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return False

        def _send_wheel(self) -> None:
            if not self._is_allowed():
                return
            if index.serves_pip_alone and not self.headers["User-Agent"].startswith("pip/"):
                self.send_error(403)
                return
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            first = int(asked[1]) if asked and index.has_ranges else 0
            index.begun.append(first)
            self.send_response(206 if asked and index.has_ranges else 200)
            if asked and index.has_ranges:
                self.send_header("Content-Range", f"bytes {first}-{len(index.wheel) - 1}/{len(index.wheel)}")
            if index.has_length:
                self.send_header("Content-Length", str(len(index.wheel) - first))
            self.end_headers()
            self._send_pieces(first)

        def _send_pieces(self, first: int) -> None:
            end = len(index.wheel)
            if index.breaks_after is not None and index.breaks:
                index.breaks -= 1
                end = min(end, first + index.breaks_after)
            while first < end:
                if index.stalls_at is not None and first >= index.stalls_at:
                    index.resumes.wait(TIMEOUT_S)
                piece = index.wheel[first : min(first + _PIECE_BYTES, end)]
                try:
                    self.wfile.write(piece)
                except OSError:  # the client has closed the connection
                    break
                first += len(piece)
                index.sent_bytes += len(piece)
            self.close_connection = True

    return Handler


@contextmanager
def package_index(wheel: bytes) -> Iterator[PackageIndex]:
    index = PackageIndex(wheel)
    try:
        yield index
    finally:
        index.close()
