"""A folder that is served with uploads, who pushes into it, and what must hold of both."""

import filecmp
import http.client
import json
import os
import re
import signal
import subprocess
import time

from .relay import Relay
from .scene import LONG_ENOUGH_S, Runs, Wrong, environment

STAGING = "sapwood-staging"
# Of the server itself; sessions have folders of their own.
OWN = {"lock", "storage.id", "url.key", "audit.jsonl", "sessions.sqlite", "sessions.sqlite-journal", "sessions.sqlite-wal", "sessions.sqlite-shm"}
PARTS_AT_ONCE = 6


class Site:
    """The server listens at one port for ever, and so does the relay before it."""

    def __init__(self, program, folder, *flags):
        self.program, self.folder, self.flags = program, folder, flags
        self.at = folder / "served"
        self.at.mkdir()
        self.home = folder / "home-of-server"
        self.home.mkdir()
        self.relay = Relay()
        self.port, self.server = 0, None
        self.clients = []

    def serve(self, *, before=(), preexec=None, with_relay=True):
        """Starts the server. Returns whether it lives: it may be killed while it starts."""
        printed = self.home / "url"
        with open(printed, "wb") as stdout, open(self.home / "stderr", "ab") as stderr:
            self.server = subprocess.Popen(
                [*before, self.program, "serve", self.at, "--ingest", "--listen", f"127.0.0.1:{self.port}", *self.flags],
                env=environment(self.home), stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, preexec_fn=preexec,
                start_new_session=True)
        until = time.monotonic() + LONG_ENOUGH_S
        while not (url := printed.read_text()).endswith("\n"):
            if self.server.poll() is not None:
                return False
            if time.monotonic() > until:
                raise Wrong("the server does not start")
            time.sleep(0.01)
        self.port = int(re.search(r":(\d+)/", url)[1])
        self.relay.upstream = ("127.0.0.1", self.port)
        if with_relay:
            self.relay.up()
        return True

    def must_serve(self, with_relay=True):
        until = time.monotonic() + 90
        while not self.serve(with_relay=with_relay):
            said = self.stderr()[-1000:]
            # The system may have given the port to a connection meanwhile.
            if "in use" not in said or time.monotonic() > until:
                raise Wrong(f"the server does not start: {said}")
            (self.home / "stderr").unlink()
            time.sleep(0.5)

    def kill(self):
        """With all that it started: under strace the server is a child of the child."""
        if self.server is None:
            return
        try:
            os.killpg(self.server.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.server.wait()
        self.server = None
        self.relay.down()
        self.check_no_panic()

    def stderr(self):
        try:
            return (self.home / "stderr").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def check_no_panic(self):
        said = self.stderr()
        if "panicked" in said:
            (self.home / "stderr").unlink()
            raise Wrong(f"the server panicked: {said[-2000:]}")

    def url(self, name=""):
        return f"http://127.0.0.1:{self.relay.port}/{name}"

    def request(self, method, path, body=None, token=None):
        """Status and body, from the server itself."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if isinstance(body, (dict, list)):
            body, headers["Content-Type"] = json.dumps(body), "application/json"
        try:
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def api(self, method, below, body=None, token=None):
        """Status and document of the upload API."""
        status, answered = self.request(method, f"/.sapwood/uploads{below}", body, token)
        return status, json.loads(answered) if answered else None

    def sessions(self, name=None, token=None):
        """With their parts, newest first."""
        status, listed = self.api("GET", f"?name={name}" if name else "", token=token)
        if status != 200:
            raise Wrong(f"the list of sessions: {status} {listed}")
        return [self.api("GET", "/" + session["id"], token=token)[1] for session in listed["sessions"]]

    def give_up_all(self, token=None):
        """So that what went wrong once is not told again."""
        for session in self.sessions(token=token):
            if session["state"] == "open":
                self.api("DELETE", f"/{session['id']}", token=token)

    def metrics(self):
        _, text = self.request("GET", "/metrics")
        numbers = re.findall(r"^(sapwood_upload\w+) (\S+)$", text.decode(), re.MULTILINE)
        return {name: float(value) for name, value in numbers}

    def staged(self):
        """What is staged, without the server's own files."""
        try:
            return sorted(set(os.listdir(self.at / STAGING)) - OWN)
        except FileNotFoundError:
            return []

    def check_nothing_is_staged(self):
        """What was staged goes soon after the session is done, and the metrics know of no orphan."""
        until = time.monotonic() + 30
        while left := self.staged():
            if time.monotonic() > until:
                raise Wrong(f"left in the staging folder: {' '.join(left)}")
            time.sleep(0.02)

    def check_no_orphans(self):
        """By the count of a server that starts now, which it makes at once."""
        self.kill()
        self.must_serve()
        time.sleep(0.3)
        found = self.metrics()
        for name in ("sapwood_upload_orphans", "sapwood_upload_orphan_bytes", "sapwood_upload_staged_bytes", "sapwood_uploads_unfinished"):
            if found.get(name) != 0:
                raise Wrong(f"{name} is {found.get(name)}")

    def check_published(self, name, source):
        """The object is that of the source, and its manifest says so."""
        at = self.at / name
        if not at.is_file():
            raise Wrong(f"{name} is not published")
        if not filecmp.cmp(at, source, shallow=False):
            raise Wrong(f"{name} is another content")
        if not at.with_name(at.name + ".sapwood").is_file():
            raise Wrong(f"{name} has no manifest")
        done = subprocess.run([self.program, "verify", at], env=environment(self.home), capture_output=True, text=True)
        if done.returncode != 0:
            raise Wrong(f"the manifest of {name}: exit {done.returncode}: {done.stderr}")

    def check_b3sum(self, name, root):
        done = subprocess.run(["b3sum", "--no-names", self.at / name], capture_output=True, text=True)
        if done.stdout.strip() != root:
            raise Wrong(f"{name} has the root {done.stdout.strip()}, and was told to have {root}")

    def close(self):
        # A client whose server is gone goes on for minutes.
        for client in self.clients:
            client.close()
        self.kill()


class Client(Runs):
    """Pushes one file, with a state folder of its own."""

    def __init__(self, program, folder, site, source, name, *flags):
        self.program, self.folder, self.site = program, folder, site
        folder.mkdir(exist_ok=True)
        self.source, self.name, self.flags = source, name, flags
        self.last = None
        site.clients.append(self)

    def start(self, *more, before=(), preexec=None):
        self.last = super().start(*more, before=before, preexec=preexec)
        return self.last

    def close(self):
        """Ends the last run, if it is still there."""
        if self.last is not None and self.last.poll() is None:
            self.kill(self.last)

    def command(self, *more):
        return [self.program, "--json", "push", self.source, self.site.url(), "--name", self.name, *self.flags, *more]

    def push(self, *more, before=()):
        return self.ended(self.start(*more, before=before))

    def sent_so_far(self):
        """Whether a part was acknowledged by the client's own word."""
        try:
            return (self.folder / "stdout").read_text(errors="replace").count('"checkpoint"')
        except FileNotFoundError:
            return 0


def write_random(path, length):
    """A content that does not compress, and is no other one."""
    with open(path, "wb") as file:
        for at in range(0, length, 1 << 22):
            file.write(os.urandom(min(1 << 22, length - at)))
