"""Ten thousand connections on which nothing happens: a new client is served at once, and a download that is under way goes on."""

import http.client
import resource
import socket
import subprocess
import threading
import time

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
        # The server raises its own soft limit, which is low by default.
        self.serving = subprocess.Popen(
            ["prlimit", f"--nofile=1024:{hard}", self.program, "serve", served, "--listen", "127.0.0.1:0"],
            stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        url = self.serving.stdout.readline().strip()
        self.address = ("127.0.0.1", int(url.rstrip("/").rsplit(":", 1)[1]))
        while True:
            self.round()
            yield

    def round(self):
        arrived = []
        download = threading.Thread(target=lambda: arrived.append(self.download()), daemon=True)
        download.start()
        idle = []
        try:
            for _ in range(CONNECTIONS_SHORT if self.is_short else CONNECTIONS):
                idle.append(socket.create_connection(self.address, timeout=30))
            for _ in range(20):
                self.request()
        except OSError as error:
            self.wrong(f"after {len(idle)} idle connections: {error!r}")
        finally:
            for connection in idle:
                connection.close()
        download.join()
        if arrived != [LARGE_BYTES]:
            self.wrong(f"a download beside them had {arrived} of {LARGE_BYTES} bytes")
        self.add("rounds")
        self.add("connections", len(idle))

    def request(self):
        began = time.monotonic()
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        connection.request("GET", "/small")
        body = connection.getresponse().read()
        connection.close()
        took = round(1000 * (time.monotonic() - began))
        self.counts["most_ms"] = max(took, self["most_ms"])
        if body != b"small":
            self.wrong(f"a new client read {body!r}")
        if took > GOAL_MS:
            self.wrong(f"a new client waited {took} ms")

    def download(self):
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        connection.request("GET", "/large")
        response = connection.getresponse()
        total = 0
        while piece := response.read(READ_BYTES):
            total += len(piece)
            time.sleep(READ_PAUSE_S)
        return total

    def close(self):
        if hasattr(self, "serving"):
            self.serving.kill()
            self.serving.wait()

    def figure(self):
        return (f"{self['connections']} idle connections in {self['rounds']} rounds: {self['wrong']} wrong; a new client was served after "
                f"at most {self['most_ms']} ms")
