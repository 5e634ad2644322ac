"""Ten thousand connections to an origin, and to a gateway, on which nothing happens: a new client is served at once, and a download
that is under way goes on."""

import http.client
import resource
import socket
import subprocess
import threading
import time
import urllib.parse

from .scene import environment
from .sweep import Sweep

CONNECTIONS, CONNECTIONS_SHORT = 10_000, 2_000
LARGE_BYTES = 64 << 20
# Of the download beside them: it lasts for as long as the connections come.
READ_BYTES, READ_PAUSE_S = 1 << 16, 0.002
GOAL_MS = 1_000


class IdleConnections(Sweep):
    name = "idle-connections"
    unit = "rounds"
    full = 5
    short = 1

    def steps(self):
        served = self.folder / "served"
        served.mkdir()
        (served / "small").write_bytes(b"small")
        (served / "large").write_bytes(self.random.randbytes(1 << 20) * (LARGE_BYTES >> 20))
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.running = []
        (origin,) = self.start(1, "serve", served, "--listen", "127.0.0.1:0")
        urls = [origin + "small", origin + "large"]
        servers = {"serve": urls, "gateway": self.start(2, "gateway", "--no-store", *urls)}
        while True:
            for name, urls in servers.items():
                self.round(name, *map(Resource, urls))
            self.add("rounds")
            yield

    def start(self, urls, *words):
        """Starts a server that prints so many URLs, and returns them. It raises its own soft limit, which is low by default."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        child = subprocess.Popen(["prlimit", f"--nofile=1024:{hard}", self.program, *words], stdout=subprocess.PIPE,
                                 stdin=subprocess.DEVNULL, env=environment(self.folder), text=True)
        self.running.append(child)
        return [child.stdout.readline().strip() for _ in range(urls)]

    def round(self, server, small, large):
        arrived = []
        download = threading.Thread(target=lambda: arrived.append(download_slowly(large)), daemon=True)
        download.start()
        idle = []
        try:
            for _ in range(CONNECTIONS_SHORT if self.is_short else CONNECTIONS):
                idle.append(socket.create_connection(small.address, timeout=30))
            for _ in range(20):
                self.request(server, small)
        except OSError as error:
            self.wrong(f"{server}, after {len(idle)} idle connections: {error!r}")
        finally:
            for connection in idle:
                connection.close()
        download.join()
        if arrived != [LARGE_BYTES]:
            self.wrong(f"{server}: a download beside them had {arrived} of {LARGE_BYTES} bytes")
        self.add("connections", len(idle))

    def request(self, server, small):
        began = time.monotonic()
        connection, response = small.get()
        body = response.read()
        connection.close()
        took = round(1000 * (time.monotonic() - began))
        most = f"{server}_most_ms"
        self.counts[most] = max(took, self[most])
        if body != b"small":
            self.wrong(f"{server}: a new client read {body!r}")
        if took > GOAL_MS:
            self.wrong(f"{server}: a new client waited {took} ms")

    def close(self):
        for child in getattr(self, "running", []):
            child.kill()
            child.wait()

    def figure(self):
        return (f"{self['connections']} idle connections in {self['rounds']} rounds: {self['wrong']} wrong; a new client was served after "
                f"at most {self['serve_most_ms']} ms by serve, {self['gateway_most_ms']} ms by the gateway")


class Resource:
    """Of a server on this machine."""

    def __init__(self, url):
        parts = urllib.parse.urlsplit(url)
        self.address, self.path = (parts.hostname, parts.port), parts.path

    def get(self):
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        connection.request("GET", self.path)
        return connection, connection.getresponse()


def download_slowly(large):
    _, response = large.get()
    total = 0
    while piece := response.read(READ_BYTES):
        total += len(piece)
        time.sleep(READ_PAUSE_S)
    return total
