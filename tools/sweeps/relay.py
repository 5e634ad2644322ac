"""Between a client that uploads and its server: counted, paced, and a liar when it is told to be."""

import collections
import re
import select
import socket
import struct
import threading
import time

CHUNK = 1 << 16
HEAD_MAX = 1 << 16
RESET = struct.pack("ii", 1, 0)
PROBLEM = b'{"type":"about:blank","title":"Content Too Large","status":413,"detail":"a relay takes no more","code":"too_large"}'
OPERATIONS = (
    ("part", "PUT", r"/\.sapwood/uploads/[^/]+/parts/\d+/bytes\?.*"),
    ("checkpoint", "PUT", r"/\.sapwood/uploads/[^/]+/parts/\d+"),
    ("targets", "POST", r"/\.sapwood/uploads/[^/]+/targets"),
    ("finalize", "POST", r"/\.sapwood/uploads/[^/]+/finalize"),
    ("open", "PUT", r"/\.sapwood/uploads/[^/]+"),
    ("status", "GET", r"/\.sapwood/uploads/[^/]+"),
    ("list", "GET", r"/\.sapwood/uploads(\?.*)?"),
)


class Lie:
    """Told at requests of one operation: `kind` is one of

    stall     reads `after` bytes of the body, and no more; the connection stays
    413       answers 413 after so many bytes of the body
    cut       ends the connection after so many bytes of the body
    flip      flips a bit so far in the body
    swallow   reads the whole body, answers 204, and hands nothing on
    lose      hands the request on, and ends the connection instead of answering
    half      the same after half of the answer
    delay     answers `seconds` late
    twice     hands the request on once more after its answer, as a proxy may that lost its connection
    """

    def __init__(self, operation, kind, after=0, seconds=0.0, times=1, skip=0):
        self.operation, self.kind, self.after, self.seconds = operation, kind, after, seconds
        self.times, self.skip = times, skip
        self.told = 0

    def __str__(self):
        often = "always" if self.times > 1000 else f"{self.times} times"
        return f"{self.kind} at {self.operation} number {self.skip + 1}, {often}, after {self.after} bytes"


class Answer:
    """That of the server, as it was read."""

    def __init__(self, operation, path, status):
        self.operation, self.path, self.status = operation, path, status


class Relay:
    def __init__(self):
        self.upstream = None
        self.rate = None
        """Bytes of bodies a second over all connections; None: as fast as it goes."""
        self.lies = []
        self.sent = 0
        """Bytes of parts that came from clients."""
        self.finished, self.sent_in_vain = set(), 0
        """Indices of parts whose checkpoint was acknowledged, and bytes of requests for such parts that began later: of one upload."""
        self.answers = []
        """Of the server, each before the client can have it."""
        self.requests = collections.Counter()
        self._lock = threading.Lock()
        self._next = 0.0
        self._connections = set()
        self._listener = None
        self.port = 0
        self.up()

    def up(self):
        """Listens, always at the same port."""
        if self._listener is not None:
            return
        until = time.monotonic() + 90
        while self._listener is None:
            try:
                self._listener = socket.create_server(("127.0.0.1", self.port), backlog=256)
            except OSError:
                # The system may have given the port to a connection meanwhile.
                if time.monotonic() > until:
                    raise
                time.sleep(0.5)
        # What is in buffers was read by the client, and does not count as sent. Connections inherit it.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CHUNK)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def down(self):
        """As a server that is gone: connections end, and new ones are refused."""
        listener, self._listener = self._listener, None
        if listener is not None:
            # A thread that accepts keeps the socket open without this.
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            shut(connection)

    def forget(self):
        with self._lock:
            self.sent, self.sent_in_vain, self.answers = 0, 0, []
            self.finished.clear()
            self.requests.clear()

    def acknowledged(self, operation):
        with self._lock:
            return [answer for answer in self.answers if answer.operation == operation and 200 <= answer.status < 300]

    def _accept(self, listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, client):
        exchange = _Connection(self, client)
        with self._lock:
            self._connections.add(client)
        try:
            while exchange.one():
                pass
        except (OSError, ValueError, EOFError):
            pass
        finally:
            with self._lock:
                self._connections.discard(client)
            exchange.close()

    def lie_for(self, operation):
        with self._lock:
            for lie in self.lies:
                if lie.operation in (operation, "any"):
                    lie.skip -= 1
                    if lie.skip < 0 and lie.told < lie.times:
                        lie.told += 1
                        return lie
        return None

    def note_request(self, operation):
        with self._lock:
            self.requests[operation] += 1

    def note_answer(self, operation, path, status):
        with self._lock:
            self.answers.append(Answer(operation, path, status))
            if operation == "checkpoint" and status == 200:
                self.finished.add(path.rsplit("/", 1)[1])

    def count(self, count, in_vain):
        with self._lock:
            self.sent += count
            self.sent_in_vain += count if in_vain else 0

    def pace(self, count):
        if self.rate is None:
            return
        with self._lock:
            now = time.monotonic()
            self._next = max(self._next, now) + count / self.rate
            wait = self._next - now
        time.sleep(max(0.0, wait))


class _Connection:
    """One of a client, and one to the server."""

    def __init__(self, relay, client):
        self.relay, self.client = relay, client
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.server, self.left, self.server_left = None, b"", b""

    def close(self):
        for connection in (self.client, self.server):
            if connection is not None:
                connection.close()

    def reset(self):
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        raise EOFError

    def one(self):
        """A request and its answer. Returns whether more may come."""
        head, self.left = read_head(self.client, self.left)
        if head is None:
            return False
        method, path = head.split(b" ", 2)[:2]
        method, path = method.decode(), path.decode()
        operation = next((name for name, of, pattern in OPERATIONS if of == method and re.fullmatch(pattern, path)), "other")
        self.relay.note_request(operation)
        lie = self.relay.lie_for(operation)
        self.in_vain = operation == "part" and path.partition("?")[0].split("/")[-2] in self.relay.finished
        length = int(field(head, b"content-length") or 0)
        if lie and lie.kind == "swallow":
            self.take(length, operation, lambda _: None)
            self.client.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
            return True
        if self.server is None:
            self.server = socket.create_connection(self.relay.upstream, timeout=600)
            self.server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.server.sendall(head)
        kept = [head]
        early = self.body(length, operation, lie, kept)
        status, answer = self.answer(method)
        self.relay.note_answer(operation, path, status)
        if lie and lie.kind == "delay":
            time.sleep(lie.seconds)
        if lie and lie.kind == "lose":
            self.reset()
        if lie and lie.kind == "half":
            self.client.sendall(answer[: len(answer) // 2])
            return False
        self.client.sendall(answer)
        if lie and lie.kind == "twice":
            self.again(b"".join(kept))
        closes = (field(answer[: answer.index(b"\r\n\r\n") + 4], b"connection") or b"").lower() == b"close"
        return not early and not closes

    def body(self, length, operation, lie, kept):
        """Hands the body on; returns whether the answer came before its end."""
        at = 0
        keeps = lie is not None and lie.kind == "twice"

        def hand_on(piece):
            nonlocal at
            kind = lie.kind if lie else None
            if kind in ("stall", "413", "cut") and at + len(piece) >= lie.after:
                self.stop(kind)
            if kind == "flip" and at <= lie.after < at + len(piece):
                piece = bytearray(piece)
                piece[lie.after - at] ^= 0x10
            at += len(piece)
            if keeps:
                kept.append(bytes(piece))
            try:
                self.server.sendall(piece)
            except OSError:
                # It may have answered already.
                return True
            return bool(select.select([self.server], [], [], 0)[0])

        if length == 0 and lie and lie.kind in ("stall", "413", "cut"):
            self.stop(lie.kind)
        return self.take(length, operation, hand_on)

    def stop(self, kind):
        if kind == "cut":
            self.reset()
        if kind == "413":
            head = f"HTTP/1.1 413 Content Too Large\r\nContent-Type: application/problem+json\r\nContent-Length: {len(PROBLEM)}\r\n\r\n"
            self.client.sendall(head.encode() + PROBLEM)
            # The client is to have it before the connection ends.
            self.client.shutdown(socket.SHUT_WR)
        gone = select.poll()
        gone.register(self.client, select.POLLRDHUP)
        gone.poll(120_000)
        raise EOFError

    def take(self, length, operation, hand_on):
        """Reads a body; ends early when `hand_on` says so."""
        while length > 0:
            piece = self.left[:length] or self.client.recv(min(CHUNK, length))
            if not piece:
                raise EOFError
            self.left = self.left[len(piece) :]
            length -= len(piece)
            if operation == "part":
                self.relay.count(len(piece), self.in_vain)
                self.relay.pace(len(piece))
            if hand_on(piece):
                return length > 0
        return False

    def answer(self, method):
        """That of the server, whole. Answers of the upload API are short, and have a length."""
        while True:
            head, self.server_left = read_head(self.server, self.server_left)
            if head is None:
                raise EOFError
            status = int(head.split(b" ", 2)[1])
            if status >= 200:
                break
            self.client.sendall(head)
        length = int(field(head, b"content-length") or 0)
        if method == "HEAD" or status in (204, 304):
            length = 0
        elif field(head, b"content-length") is None:
            raise ValueError("an answer without a length")
        body = self.server_left
        while len(body) < length:
            piece = self.server.recv(CHUNK)
            if not piece:
                raise EOFError
            body += piece
        self.server_left = body[length:]
        return status, head + body[:length]

    def again(self, request):
        """What comes of it is told to nobody."""
        with socket.create_connection(self.relay.upstream, timeout=600) as server:
            server.sendall(request)
            read_head(server, b"")


def read_head(connection, read):
    """A head with its empty line, and what came behind it; None at the end."""
    while b"\r\n\r\n" not in read:
        piece = connection.recv(CHUNK)
        if not piece or len(read) > HEAD_MAX:
            return None, b""
        read += piece
    end = read.index(b"\r\n\r\n") + 4
    return read[:end], read[end:]


def field(head, name):
    found = re.search(rb"\r\n" + name + rb":[ \t]*([^\r]*)", head, re.IGNORECASE)
    return found and found[1]


def shut(connection):
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
