"""The server of rsync."""

import os
import re
import socket
import subprocess
import time
from pathlib import Path

from .measure import cpu_of
from .origin import START_TIMEOUT_S
from .programs import Failure, program_path


class RsyncDaemon:
    """An rsync that serves a folder on loopback, or behind a link."""

    CONFIGURATION = """
{user}
use chroot = no
munge symlinks = no
log file = {log}
[www]
path = {folder}
read only = yes
"""

    def __init__(self, work, folder, links=None):
        self.links, self.address = links, links.addresses[0] if links else "127.0.0.1"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.configuration = work / "rsyncd.conf"
        user = "uid = root\ngid = root" if os.geteuid() == 0 else ""
        self.configuration.write_text(self.CONFIGURATION.format(user=user, log=work / "rsyncd.log", folder=folder))
        self.url = f"rsync://{self.address}:{self.port}/www/"

    def __enter__(self):
        inside = self.links.inside(self.links.servers[0]) if self.links else []
        self.server = subprocess.Popen(
            [*inside, program_path("rsync"), "--daemon", "--no-detach", f"--config={self.configuration}", f"--port={self.port}",
             f"--address={self.address}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.answers():
            if self.server.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise Failure("rsync does not listen")
            time.sleep(0.02)
        return self

    def answers(self):
        inside = self.links.inside(self.links.client) if self.links else []
        return subprocess.run([*inside, program_path("rsync"), self.url], capture_output=True).returncode == 0

    def __exit__(self, *_):
        self.server.terminate()
        self.server.wait()

    def cpu_s(self):
        """What it took so far, when the last client was served."""
        children = Path(f"/proc/{self.server.pid}/task/{self.server.pid}/children")
        deadline = time.monotonic() + START_TIMEOUT_S
        while children.read_text():
            if time.monotonic() > deadline:
                raise Failure("rsync's daemon does not end a connection")
            time.sleep(0.01)
        return cpu_of(self.server.pid)

    def figures(self, run):
        said = (run / "stdout").read_text()
        both = [int(re.search(rf"Total bytes {way}: ([\d,]+)", said)[1].replace(",", "")) for way in ("sent", "received")]
        return {"sent_bytes": sum(both), "requests": 1, "upload_bytes": both[0]}
