"""A relay before an S3 server that counts, is slow, and lies about uploads.

Requests pass as they came, with their Host field and signature; what it does otherwise is a lie, armed for the next request of its
kind or for random ones.
"""

import re
import socket
import threading
import time
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

PIECE = 1 << 18
HEAD_BYTES_MAX = 1 << 16
SKEW_S = 3600

# Lies by the kind of request that they are told to.
LIES = {
    "complete": ("error-in-200", "error-in-200-but-done", "lost-before", "lost-after", "slow-down", "skewed"),
    "copy": ("error-in-200", "error-in-200-but-done", "lost-before", "lost-after", "slow-down", "skewed"),
    "part": ("lost-before", "lost-after", "slow-down", "skewed", "expired-400", "expired-403", "cut", "flip", "other-etag"),
    "parts": ("lost-before", "slow-down", "skewed", "forgotten"),
    "begin": ("lost-before", "lost-after", "slow-down", "skewed"),
    "other": ("lost-before", "lost-after", "slow-down", "skewed"),
}
REFUSALS = {
    "slow-down": (503, "SlowDown", "Please reduce your request rate."),
    # Its clock is an hour ahead, as its Date field says.
    "skewed": (403, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large."),
    # AWS answers 403 with this code, others 400.
    "expired-400": (400, "ExpiredToken", "The provided token has expired."),
    "expired-403": (403, "AccessDenied", "Request has expired"),
    "error-in-200": (200, "InternalError", "We encountered an internal error. Please try again."),
    "error-in-200-but-done": (200, "InternalError", "We encountered an internal error. Please try again."),
}


class Gone(Exception):
    """One of the two sides hung up."""


@dataclass
class Request:
    method: str
    target: str
    fields: dict
    head: bytes

    @property
    def length(self):
        return int(self.fields.get("content-length", 0))

    @property
    def kind(self):
        query = parse_qs(urlsplit(self.target).query, keep_blank_values=True)
        if "uploadId" in query:
            if "partNumber" in query and self.method == "PUT":
                return "part"
            return {"POST": "complete", "GET": "parts", "DELETE": "abort"}.get(self.method, "other")
        if self.method == "POST" and "uploads" in query:
            return "begin"
        if self.method == "PUT" and "x-amz-copy-source" in self.fields:
            return "copy"
        return "other"

    @property
    def part(self):
        """The number of the part that it sends."""
        numbers = parse_qs(urlsplit(self.target).query).get("partNumber")
        return int(numbers[0]) if numbers and self.kind == "part" else None

    @property
    def has_content(self):
        """Whether its body is some of an object, by whatever program, and no manifest or note of ours."""
        if self.kind == "part":
            return True
        path = urlsplit(self.target).path
        return self.method == "PUT" and self.kind == "other" and not path.endswith(".sapwood") and "/sapwood-staging/" not in path


class Side:
    """One end of a connection, read by heads, lengths and chunks."""

    def __init__(self, connected):
        self.socket, self.buffer = connected, b""
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def more(self):
        try:
            piece = self.socket.recv(PIECE)
        except OSError as error:
            raise Gone from error
        if not piece:
            raise Gone
        return piece

    def until(self, mark):
        """All up to this mark."""
        while mark not in self.buffer:
            if len(self.buffer) > HEAD_BYTES_MAX:
                raise Gone
            self.buffer += self.more()
        found, _, self.buffer = self.buffer.partition(mark)
        return found + mark

    def pieces(self, length):
        while length > 0:
            piece = self.buffer or self.more()
            piece, self.buffer = piece[:length], piece[length:]
            length -= len(piece)
            yield piece

    def chunks(self):
        """A chunked body as it came."""
        while True:
            line = self.until(b"\r\n")
            yield line
            size = int(line.split(b";")[0], 16)
            if size == 0:
                yield self.until(b"\r\n")
                return
            yield from self.pieces(size + 2)

    def send(self, data):
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise Gone from error

    def close(self):
        try:
            # Who waits in another thread is told at once.
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.socket.close()


def fields_of(head):
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.strip().lower(): value.strip() for name, colon, value in (line.partition(":") for line in lines) if colon}


class Relay:
    """On a port of its own, until it is closed. All figures are since `forget`."""

    def __init__(self, port, random):
        self.to, self.random = port, random
        self.lock = threading.Lock()
        # Bytes a second of all contents together; None: as fast as it goes.
        self.rate = None
        # The share of requests that get one of the lies of their kind.
        self.share = 0.0
        # The next lies for certain: (kind of request, lie), or of one part (kind, lie, number).
        self.armed = []
        # Called before a request is passed on, and before its response is: (request, number, "before" or "after").
        self.watch = None
        self.forget()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        self.sides = set()
        threading.Thread(target=self.accept, daemon=True).start()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    def forget(self):
        with self.lock:
            self.requests, self.content_bytes, self.told, self.paced, self.expired = 0, 0, {}, 0.0, set()
            self.skewed = False

    def close(self):
        self.listener.close()
        self.cut_all()

    def settle(self):
        """Waits until the server has done all that it was asked for by clients that are gone."""
        while True:
            with self.lock:
                if not self.sides:
                    return
            time.sleep(0.005)

    def cut_all(self):
        """Ends every connection."""
        with self.lock:
            sides = list(self.sides)
        for side in sides:
            side.close()

    def accept(self):
        while True:
            try:
                connected, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(Side(connected),), daemon=True).start()

    def serve(self, client):
        server = None
        with self.lock:
            self.sides.add(client)
        try:
            while True:
                head = client.until(b"\r\n\r\n")
                method, target, _ = head.split(b"\r\n")[0].decode("latin-1").split(" ", 2)
                request = Request(method, target, fields_of(head), head)
                if server is None:
                    server = Side(socket.create_connection(("127.0.0.1", self.to)))
                    with self.lock:
                        self.sides.add(server)
                if not self.one(request, client, server):
                    return
        except (Gone, OSError, ValueError):
            pass
        finally:
            for side in filter(None, (client, server)):
                side.close()
                with self.lock:
                    self.sides.discard(side)

    # -----------------------------------------------------------------------------------------------
    # One request and its response

    def one(self, request, client, server):
        """Whether the connection can go on."""
        with self.lock:
            self.requests += 1
            number, lie = self.requests, self.lie_for(request)
        if self.watch:
            self.watch(request, number, "before")
        if lie == "lost-before":
            return False
        if lie in REFUSALS and lie != "error-in-200-but-done":
            for _ in self.body_of(request, client):
                pass
            client.send(refusal(request, lie))
            return True
        response = self.passed(request, lie, client, server)
        if response is None or lie == "lost-after":
            return False
        if self.watch:
            self.watch(request, number, "after")
        if lie == "error-in-200-but-done":
            client.send(refusal(request, lie))
            return True
        for piece in response:
            client.send(piece)
        return True

    def lie_for(self, request):
        kind = request.kind if request.kind in LIES else "other"
        armed = next((lie for lie in self.armed if lie[0] == kind and lie[2:] in ((), (request.part,))), None)
        if armed:
            self.armed.remove(armed)
            lie = armed[1]
        elif self.random.random() < self.share:
            lie = self.random.choice(LIES[kind])
        else:
            return None
        if lie.startswith("expired") and not armed:
            # A fresh URL that is refused too says that nobody may, and ends a push rightly.
            if request.part in self.expired:
                return None
            self.expired.add(request.part)
        if lie == "skewed":
            # The clock is set once. A response to HEAD has no body, so it cannot say what was wrong.
            if self.skewed or request.method == "HEAD":
                return None
            self.skewed = True
        self.told[f"{kind}: {lie}"] = self.told.get(f"{kind}: {lie}", 0) + 1
        return lie

    def body_of(self, request, client):
        """The pieces of a request's body, counted and at our rate."""
        if request.fields.get("transfer-encoding"):
            yield from client.chunks()
            return
        has_content = request.has_content
        for piece in client.pieces(request.length):
            if has_content:
                self.pace(len(piece))
            yield piece

    def pace(self, count):
        with self.lock:
            self.content_bytes += count
            if not self.rate:
                return
            self.paced = max(self.paced, time.monotonic()) + count / self.rate
            wait = self.paced - time.monotonic()
        time.sleep(max(0, wait))

    def passed(self, request, lie, client, server):
        """The pieces of the response; None: the connection was cut."""
        server.send(request.head)
        cut_at = self.random.randrange(max(1, request.length)) if lie in ("cut", "flip") else None
        sent = 0
        try:
            if request.fields.get("expect", "").lower() == "100-continue":
                head = server.until(b"\r\n\r\n")
                if not re.match(rb"HTTP/1\.1 100 ", head):
                    return None
                client.send(head)
            for piece in self.body_of(request, client):
                if cut_at is not None and sent <= cut_at < sent + len(piece):
                    if lie == "cut":
                        server.send(piece[: cut_at - sent])
                        return None
                    flipped = bytearray(piece)
                    flipped[cut_at - sent] ^= 1 << self.random.randrange(8)
                    piece = bytes(flipped)
                sent += len(piece)
                try:
                    server.send(piece)
                except Gone:
                    # It may have refused before it read all.
                    break
            return self.response(request, lie, server)
        except Gone:
            return None

    def response(self, request, lie, server):
        head = server.until(b"\r\n\r\n")
        while re.match(rb"HTTP/1\.1 1\d\d ", head):
            head = server.until(b"\r\n\r\n")
        status, fields = int(head.split(b" ", 2)[1]), fields_of(head)
        if lie == "other-etag":
            head = re.sub(rb'(?i)(\r\netag: ?")[0-9a-f]{4}', rb"\g<1>dead", head)
        if request.method == "HEAD" or status in (204, 304):
            return [head]
        if "chunked" in fields.get("transfer-encoding", ""):
            body = server.chunks()
        else:
            body = server.pieces(int(fields.get("content-length", 0)))
        if lie == "forgotten":
            return forgotten(head, fields, b"".join(body), self.random)
        return joined(head, body)


def joined(head, body):
    yield head
    yield from body


def forgotten(head, fields, body, random):
    """A list without one of its parts."""
    if "transfer-encoding" in fields:
        # No list of ours comes in chunks.
        return [head, body]
    parts = re.findall(rb"<Part>.*?</Part>", body, re.DOTALL)
    if parts:
        body = body.replace(random.choice(parts), b"")
    head = re.sub(rb"(?i)\r\ncontent-length: ?\d+", b"\r\ncontent-length: %d" % len(body), head)
    return [head, body]


def refusal(request, lie):
    status, code, message = REFUSALS[lie]
    body = (f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message>'
            "<RequestId>relay</RequestId></Error>").encode()
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + (SKEW_S if lie == "skewed" else 0)))
    head = f"HTTP/1.1 {status} Told\r\nContent-Type: application/xml\r\nDate: {date}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + (b"" if request.method == "HEAD" else body)
