"""A relay between a client and a server that counts what passes, slows it, and stops it at a chosen byte."""

import contextlib
import socket
import threading
import time
from dataclasses import dataclass, field

CHUNK = 1 << 16
# What a killed client did not take must not hide in buffers.
BUFFER = 1 << 17
CONNECT_TIMEOUT_S = 10


@dataclass
class Request:
    path: str
    range: str = ""
    status: int = 0

    def __str__(self):
        return f"{self.path} {self.range or '-'} -> {self.status or 'no response'}"


@dataclass
class Tally:
    """What passed since `Wire.begin`."""

    rate: int = 0
    """Bytes a second to the client, 0: no limit."""
    stop_at: int = 0
    """After so many bytes nothing passes any more, 0: never."""
    sent: int = 0
    requests: list = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    free_at: float = 0.0

    def passes(self, count):
        """Waits for the turn of these bytes; whether they pass at all."""
        with self.lock:
            if self.stop_at and self.sent >= self.stop_at:
                self.stopped.set()
                return False
            self.sent += count
            wait = 0.0
            if self.rate:
                now = time.monotonic()
                self.free_at = max(self.free_at, now) + count / self.rate
                wait = self.free_at - now
        time.sleep(wait)
        return True


class Wire:
    """Listens on loopback in front of a server there. HTTP/1.1 without pipelining, as sapwood and curl speak it."""

    def __init__(self, port):
        self.server_port = port
        self.tally = Tally()
        self.open = set()

    def __enter__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        # A shutdown also wakes the thread that waits for connections.
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.close_connections()

    def begin(self, rate=0, stop_at=0):
        """Ends all connections and counts from here."""
        self.close_connections()
        self.tally = Tally(rate, stop_at)
        return self.tally

    def close_connections(self):
        for side in list(self.open):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.connect, args=(client, self.tally), daemon=True).start()

    def connect(self, client, tally):
        with client:
            try:
                server = socket.create_connection(("127.0.0.1", self.server_port), CONNECT_TIMEOUT_S)
            except OSError:
                return
            server.settimeout(None)
            with server:
                self.open |= {client, server}
                unanswered = []
                up = threading.Thread(target=self.up, args=(client, server, tally, unanswered), daemon=True)
                up.start()
                self.down(server, client, tally, unanswered)
                up.join()
                self.open -= {client, server}

    def up(self, client, server, tally, unanswered):
        head = b""
        with contextlib.suppress(OSError):
            while data := client.recv(CHUNK):
                head += data
                while b"\r\n\r\n" in head:
                    one, head = head.split(b"\r\n\r\n", 1)
                    request = parse(one.decode("latin-1"))
                    tally.requests.append(request)
                    unanswered.append(request)
                server.sendall(data)
        # The client has gone; so has whoever waits for the server.
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)

    def down(self, server, client, tally, unanswered):
        with contextlib.suppress(OSError):
            while data := server.recv(CHUNK):
                if unanswered and data.startswith(b"HTTP/1."):
                    unanswered.pop(0).status = int(data[9:12])
                if not tally.passes(len(data)):
                    # Until the client ends, or all connections are ended.
                    return
                client.sendall(data)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_WR)


def parse(head):
    first, *fields = head.split("\r\n")
    ranges = [value.strip() for name, _, value in (line.partition(":") for line in fields) if name.lower() == "range"]
    return Request(first.split(" ")[1] if " " in first else first, ", ".join(ranges))
