"""Servers for the tests: the program's own, and one that counts what it sends and lies on request."""

from __future__ import annotations

import os
import random
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

PROGRAM = os.environ.get("SAPWOOD_PROGRAM", str(Path(__file__).parents[3] / "target/debug/sapwood"))
BLOCK = 1 << 16


def painted(length: int, seed: int = 1) -> bytes:
    """Bytes that differ from place to place."""
    return random.Random(seed).randbytes(length)


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the store of the user nor a proxy changes a test."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("SAPWOOD_") and name != "SAPWOOD_PROGRAM":
            monkeypatch.delenv(name)


def program(*words: object) -> str:
    """What the program prints."""
    done = subprocess.run([PROGRAM, *map(str, words)], stdout=subprocess.PIPE, check=True, text=True)
    return done.stdout


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """The folder that servers serve."""
    folder = tmp_path / "served"
    folder.mkdir()
    return folder


@pytest.fixture
def put(served: Path) -> Callable[..., Path]:
    """Puts a file with its manifest into the folder."""

    def put(name: str, content: bytes, *options: str) -> Path:
        path = served / name
        path.write_bytes(content)
        program("--quiet", "manifest", path, *options)
        return path

    return put


@pytest.fixture
def server(served: Path) -> Iterator[str]:
    """`sapwood serve`; its URL."""
    with subprocess.Popen(
        [PROGRAM, "serve", str(served), "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as serving:
        assert serving.stdout
        yield serving.stdout.readline().strip()
        serving.terminate()


class Origin(ThreadingHTTPServer):
    """A server that counts the bytes of bodies, and flips a bit at some places."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Responder)
        self.folder = folder
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"
        self.flipped: dict[str, int] = {}
        self.bytes_sent = 0
        self.requests: list[str] = []
        self.lock = threading.Lock()


class Responder(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Origin

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        name = self.path.removeprefix("/").partition("?")[0]
        try:
            whole = bytearray((self.server.folder / name).read_bytes())
        except OSError:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if name in self.server.flipped:
            whole[self.server.flipped[name]] ^= 1
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        start, end = 0, len(whole)
        if wanted:
            first, last = wanted.groups()
            start = int(first) if first else max(len(whole) - int(last), 0)
            end = min(int(last) + 1, len(whole)) if first and last else len(whole)
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(whole)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        with self.server.lock:
            self.server.requests.append(f"{self.command} {name} {self.headers.get('Range')}")
            # Counted first: whoever has the last byte looks at the count.
            self.server.bytes_sent += end - start if self.command == "GET" else 0
        if self.command == "GET":
            self.wfile.write(whole[start:end])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def origin(served: Path) -> Iterator[Origin]:
    with Origin(served) as origin:
        threading.Thread(target=origin.serve_forever, daemon=True).start()
        yield origin
        origin.shutdown()
