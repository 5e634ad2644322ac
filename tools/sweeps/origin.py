"""An origin in memory: paced, counted, and dishonest when it is told to be."""

import hashlib
import http.server
import re
import socket
import threading
import time

CHUNK = 1 << 14
FLIPPED = 0.6
"""Where in an object a bit is flipped."""


class Origin:
    """Serves objects over HTTP/1.1 on loopback with ranges, strong entity tags and preconditions."""

    def __init__(self):
        self.objects = {}
        self.sent = {}
        self.rate = None
        """Bytes a second over all connections; None: as fast as it goes."""
        self.lies = set()
        """Of flip, whole and short. `flip` and `short` are told once and then forgotten."""
        self._lock = threading.Lock()
        self._next = 0.0
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.origin = self
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def url(self, name):
        return f"http://127.0.0.1:{self._server.server_address[1]}/{name}"

    def put(self, name, content, version=0):
        tag = '"%s"' % hashlib.sha256(content).hexdigest()[:16]
        changed = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(1_600_000_000 + 86_400 * version))
        self.objects["/" + name] = (content, tag, changed)

    def remove(self, name):
        self.objects.pop("/" + name, None)

    def sent_of(self, name):
        with self._lock:
            return self.sent.get("/" + name, 0)

    def forget(self):
        with self._lock:
            self.sent.clear()

    def count(self, path, count):
        with self._lock:
            self.sent[path] = self.sent.get(path, 0) + count

    def tell_lie(self, lie):
        """Whether this answer is to lie so."""
        with self._lock:
            if lie not in self.lies:
                return False
            if lie != "whole":
                self.lies.discard(lie)
            return True

    def pace(self, count):
        if self.rate is None:
            return
        with self._lock:
            now = time.monotonic()
            self._next = max(self._next, now) + count / self.rate
            wait = self._next - now
        time.sleep(max(0.0, wait))


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        """Clients that are killed in the middle of an answer are what this is for."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        # A large buffer would count bytes as sent that a killed client never saw.
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().setup()

    def log_message(self, *_):
        """Nobody reads it."""

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        origin = self.server.origin
        found = origin.objects.get(self.path)
        if found is None:
            return self.head(404, {"Content-Length": "0"})
        content, tag, changed = found
        if self.headers.get("If-Match", tag) not in (tag, "*"):
            return self.head(412, {"Content-Length": "0"})
        start, end, status = 0, len(content), 200
        headers = {"ETag": tag, "Last-Modified": changed, "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        if asked and (condition is None or condition in (tag, changed)):
            start, last = int(asked[1]), int(asked[2] or len(content) - 1)
            if start >= len(content):
                return self.head(416, {"Content-Length": "0", "Content-Range": f"bytes */{len(content)}"})
            if start > 0 and body and origin.tell_lie("whole"):
                start = 0
            else:
                end, status = min(last + 1, len(content)), 206
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        headers["Content-Length"] = str(end - start)
        self.head(status, headers)
        if body:
            self.body(content, start, end)

    def head(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def body(self, content, start, end):
        origin = self.server.origin
        # Small answers are preflights and manifests; a lie about those is another subject.
        large = end - start > 1 << 16
        short = large and origin.tell_lie("short")
        until = min((start + end) // 2, start + (1 << 20)) if short else end
        view = memoryview(content)
        for at in range(start, until, CHUNK):
            piece = view[at : min(at + CHUNK, until)]
            origin.pace(len(piece))
            # At a place that nobody asks for only to look at the headers.
            if large and at <= FLIPPED * len(content) < at + len(piece) and origin.tell_lie("flip"):
                piece = bytearray(piece)
                piece[0] ^= 0x10
            self.wfile.write(piece)
            origin.count(self.path, len(piece))
        if short:
            self.close_connection = True
