"""The server that everybody fetches from."""

import os
import pwd
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from .measure import cpu_of
from .programs import Failure, program_path

START_TIMEOUT_S = 10


@dataclass(frozen=True)
class Line:
    """A request in the log of nginx. Bytes are those with headers."""

    path: str
    status: int
    sent_bytes: int
    range: str
    method: str
    request_bytes: int

    @classmethod
    def of(cls, line):
        path, status, sent, range, method, received = line.split("\t")
        return cls(path, int(status), int(sent), range, method, int(received))


class Origin:
    """nginx in a folder of its own, with a log of what it sent: on loopback, or behind a link."""

    CONFIGURATION = """
{user}
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log;
events {{ worker_connections 1024; }}
http {{
    log_format sent '$request_uri\\t$status\\t$bytes_sent\\t$http_range\\t$request_method\\t$request_length';
    access_log access.log sent;
    default_type application/octet-stream;
    sendfile on;
    client_body_temp_path temporary;
    proxy_temp_path temporary;
    fastcgi_temp_path temporary;
    uwsgi_temp_path temporary;
    scgi_temp_path temporary;
    server {{
        listen {address}:{port}{tls};
        root {www};
        autoindex on;
        location = /mark {{ return 204; }}
    }}
}}
"""

    def __init__(self, folder, links=None, number=0, tls=None):
        self.folder = Path(tempfile.mkdtemp(prefix="origin-", dir=folder))
        self.links, self.number = links, number
        self.address = links.addresses[number] if links else "127.0.0.1"
        # A certificate's name is a name, not a number.
        self.base = f"https://localhost" if tls else f"http://{self.address}"
        self.www = self.folder / "www"
        self.www.mkdir(parents=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        # A master that is root would give its worker another user, who cannot enter our folder.
        user = f"user {pwd.getpwuid(0).pw_name} root;" if os.geteuid() == 0 else ""
        self.configuration = self.folder / "nginx.conf"
        certificate = f" ssl; ssl_certificate {tls}.crt; ssl_certificate_key {tls}.key" if tls else ""
        self.configuration.write_text(self.CONFIGURATION.format(
            user=user, address=self.address, port=self.port, tls=certificate, www=self.www))
        self.log_read = 0

    def __enter__(self):
        inside = self.links.inside(self.links.servers[self.number]) if self.links else []
        # A session of its own: Ctrl-C is for us, and we stop it in our order.
        self.server = subprocess.Popen(
            [*inside, program_path("nginx"), "-p", self.folder, "-c", self.configuration, "-e", "error.log"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            self.wait_until_it_listens()
        except BaseException:
            self.__exit__()
            raise
        return self

    def wait_until_it_listens(self):
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.asks_mark():
            if self.server.poll() is not None or time.monotonic() > deadline:
                log = self.folder / "error.log"
                raise Failure(f"nginx did not start\n{log.read_text() if log.exists() else ''}")
            time.sleep(0.02)

    def asks_mark(self):
        """A request of our own; whether it was answered."""
        inside = self.links.inside(self.links.client) if self.links else []
        # It knows no certificate authority of ours, and need not.
        command = [*inside, program_path("curl"), "--silent", "--fail", "--insecure", "--noproxy", "*", self.url("mark")]
        return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode == 0

    def __exit__(self, *_):
        self.server.terminate()
        self.server.wait()

    def cpu_s(self):
        """What it took so far."""
        return cpu_of(self.server.pid)

    def url(self, path):
        return f"{self.base}:{self.port}/{path}"

    def sent(self):
        """What was sent since the last call: requests, and bytes with their headers."""
        lines = self.lines()
        return {"requests": len(lines), "sent_bytes": sum(line.sent_bytes for line in lines)}

    def lines(self):
        """The requests since the last call."""
        # The only worker logs in the order in which it ends requests. So when a request of our own is in the
        # log, all that came before it are, those too whose client has hung up.
        self.asks_mark()
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            with open(self.folder / "access.log") as log:
                log.seek(self.log_read)
                lines = log.read().splitlines()
                if lines and lines[-1].startswith("/mark\t"):
                    self.log_read = log.tell()
                    break
            if time.monotonic() > deadline:
                raise Failure("nginx did not log a request")
            time.sleep(0.01)
        return [Line.of(line) for line in lines if not line.startswith("/mark\t")]
