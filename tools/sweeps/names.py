"""Names that lead from a public address to private ones. All of it in a network namespace of its own, where the public address is
one of ours."""

import os
import subprocess
import sys

from . import machine
from .destinations import wait_until
from .scene import Ended, Wrong, environment
from .sweep import Sweep

PUBLIC = "93.184.215.14"
PRIVATE = {
    "inner.test": "10.98.8.1",
    "shared.test": "100.64.8.1",
    "cloud.test": "169.254.169.254",
    "loop.test": "127.0.0.1",
    "loop6.test": "::1",
}
HOSTS = "/etc/hosts"

# Serves /object on all addresses, leads from /to/NAME/object to http://NAME/object, and says who asked for what where.
SERVER = """
import http.server, socket, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        place = self.connection.getsockname()[0].removeprefix("::ffff:")
        # In one piece: there may be several requests at a time.
        sys.stdout.write(f"{self.headers['Host']} {place} {self.path}\\n")
        sys.stdout.flush()
        words = self.path.split("/")
        if words[1] == "to" and words[3] == "object":
            self.answer(302, b"", ("Location", f"http://{words[2]}/object"))
        elif self.path == "/object":
            self.answer(200, b"an object")
        else:
            self.answer(404, b"")

    def answer(self, status, body, *headers):
        self.send_response(status)
        for name, value in [*headers, ("Content-Length", str(len(body)))]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6

server = Server(("::", 80), Handler)
print("ready", flush=True)
server.serve_forever()
"""


class Names(Sweep):
    name = "names"
    programs = ("ip",)

    def steps(self):
        self.space = f"swnames{os.getpid()}"
        machine.run("ip", "netns", "add", self.space)
        machine.run("ip", "-n", self.space, "link", "set", "lo", "up")
        for address in (PUBLIC, *PRIVATE.values()):
            if not address.startswith("127.") and address != "::1":
                machine.run("ip", "-n", self.space, "addr", "add", f"{address}/32", "dev", "lo")
        names = {"public.test": [PUBLIC], **{name: [address] for name, address in PRIVATE.items()}}
        # One that is public and private at a time.
        names["mixed.test"] = [PUBLIC, *(address for address in PRIVATE.values() if "." in address)]
        hosts = self.folder / "hosts"
        hosts.write_text("".join(f"{address} {name}\n" for name, addresses in names.items() for address in addresses))
        # Seen by nobody else: the sweeps have their own mounts.
        machine.run("mount", "--bind", hosts, HOSTS)
        self.log = self.folder / "log"
        with open(self.log, "wb") as log:
            self.server = subprocess.Popen(self.inside(sys.executable, "-c", SERVER), stdin=subprocess.DEVNULL, stdout=log)
        wait_until(lambda: self.log.stat().st_size > 0)
        checks = [(check, name) for check in (self.typed, self.led, self.allowed) for name in PRIVATE]
        for check, name in [*checks, (self.mixed, "mixed.test")]:
            try:
                check(name)
            except Wrong as error:
                self.wrong(f"{check.__name__}, {name}: {error}")
            self.add("names")
            yield

    def typed(self, name):
        """What the user typed may lead anywhere."""
        self.fetch(f"http://{name}/object", 0, [PRIVATE[name]])

    def led(self, name):
        """A server may not lead there, whatever the name, and nobody is asked there."""
        self.fetch(f"http://public.test/to/{name}/object", 6, [PUBLIC])

    def allowed(self, name):
        self.fetch(f"http://public.test/to/{name}/object", 0, [PUBLIC, PRIVATE[name]], "--allow-private")

    def mixed(self, name):
        """Of several addresses only the public one is used."""
        self.fetch(f"http://public.test/to/{name}/object", 0, [PUBLIC])

    def fetch(self, url, exit_code, places, *more):
        target = self.folder / "out"
        target.unlink(missing_ok=True)
        before = self.log.stat().st_size
        done = subprocess.run(self.inside(self.program, "fetch", url, "-o", target, "--no-store", *more), env=environment(self.folder),
                              stdin=subprocess.DEVNULL, capture_output=True, text=True)
        Ended(done.returncode, done.stdout, done.stderr).must(exit_code)
        asked = {line.split()[1] for line in self.log.read_text()[before:].splitlines()}
        if asked != set(places):
            raise Wrong(f"asked at {asked}, not at {places}")
        if target.exists() != (exit_code == 0):
            raise Wrong("a file where none should be, or none")

    def inside(self, *command):
        return [machine.path_of("ip"), "netns", "exec", self.space, *map(str, command)]

    def close(self):
        if hasattr(self, "server"):
            self.server.kill()
            self.server.wait()
        if os.path.ismount(HOSTS):
            machine.run("umount", HOSTS)
        if hasattr(self, "space"):
            subprocess.run([machine.path_of("ip"), "netns", "del", self.space], stdin=subprocess.DEVNULL, check=False)

    def figure(self):
        return f"{self['names']} fetches of names that lead to private addresses, typed, led to and mixed: {self['wrong']} wrong"
