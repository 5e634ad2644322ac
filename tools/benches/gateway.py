"""`sapwood gateway` beside the origin itself, to curl."""

import json
import os
import random
import subprocess
import threading
from pathlib import Path

from links import Link, Links

from .measure import clean_environment
from .origin import Origin
from .programs import Failure, program_path
from .section import Contender, Goal, Section, hash_of, serve_object

ROUND_TRIP_MS = 40
# The gateway sends the header section before it has a byte of the body: so few bytes of it show when the first ones came.
SEEK_BYTES = 1 << 10
NEAR_BYTES = 1 << 20
FAR_BYTES = 200_000_000
CURL = "curl --silent --show-error --fail --noproxy * -o {out}"


def start_gateway(stack, bench, words, inside=()):
    """A gateway that ends with the section; the URL of its object."""
    home = bench.fresh_run()
    command = [*inside, program_path("sapwood"), "--json", "gateway", *words]
    process = subprocess.Popen(command, cwd=home, env=clean_environment(home), stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    line = process.stdout.readline()
    if not line or json.loads(line)["event"] != "listening":
        raise Failure(f"the gateway did not start: {line}")
    # Its events are read, as a player's script would: a full pipe is not what is measured.
    threading.Thread(target=process.stdout.read, daemon=True).start()
    return json.loads(line)["url"]


class Gateway(Section):
    """A whole object to curl on one machine: from nginx, through a gateway that fetches it from there each time, and through one
    that has it in its store."""

    name = "gateway"
    peer = "nginx"
    contenders = (Contender("nginx", CURL + " {origin}"), Contender("sapwood-fetching", CURL + " {fetching}"),
                  Contender("sapwood-stored", CURL + " {stored}"))
    goals = tuple(Goal(name, "wall_s", 1 / 0.7, "nginx") for name in ("sapwood-fetching", "sapwood-stored"))

    def programs(self):
        return {"nginx", "sapwood", *super().programs()}

    def enter(self, stack):
        origin = stack.enter_context(Origin(self.bench.work))
        self.root = serve_object(self.bench, [origin], "object", self.bench.size)
        url = origin.url("object")
        store = self.bench.fresh_run()
        stored = start_gateway(stack, self.bench, ["--store", str(store), url])
        # By default the store takes a tenth of the disk; of a larger object it keeps the end.
        subprocess.run([program_path("curl"), "--silent", "--fail", "--noproxy", "*", "-o", os.devnull, stored], check=True)
        return {"origin": url, "fetching": start_gateway(stack, self.bench, ["--no-store", url]), "stored": stored}

    def check(self, contender, run, first):
        if hash_of(run / "out") != self.root:
            raise Failure(f"{contender.name}: other bytes than were served")
        return {"bits": self.bench.size * 8}


class GatewayFar(Section):
    """The time to the first byte of a seek from 40 ms away: of nginx itself, through a gateway, and through it where a reader was
    nearby. The object has 200 MB, whatever --size says."""

    name = "gateway-far"
    peer = "nginx"
    SEEK = CURL + " --config {run}/seek --write-out %{{time_total}} "
    contenders = (Contender("nginx", SEEK + "{origin}"), Contender("sapwood-cold", SEEK + "{gateway}"),
                  Contender("sapwood-near", SEEK + "{gateway}"))
    # nginx: a round trip to connect, one for the request. The gateway may take two more.
    goals = (Goal("sapwood-cold", "first_byte_s", 2.0, "nginx"), Goal("sapwood-near", "first_byte_s", 0.25, "nginx"))

    def programs(self):
        return {"nginx", "relay", "sapwood", *super().programs()}

    def enter(self, stack):
        link = Link(delay_ms=ROUND_TRIP_MS, loss_permille=0, mbit_s=500, queue_kib=2500)
        links = stack.enter_context(Links(program_path("relay"), [link]))
        self.inside = links.inside(links.client)
        origin = stack.enter_context(Origin(self.bench.work, links))
        serve_object(self.bench, [origin], "object", FAR_BYTES)
        self.object = Path(origin.www) / "object"
        self.random = random.Random(1)
        self.gateway = start_gateway(stack, self.bench, ["--no-store", origin.url("object")], self.inside)
        # The length is proven at the first request, once.
        self.read(0, 1)
        return {"origin": origin.url("object"), "gateway": self.gateway}

    def read(self, start, count):
        subprocess.run([*self.inside, program_path("curl"), "--silent", "--fail", "--noproxy", "*", "-o", os.devnull,
                        "--range", f"{start}-{start + count - 1}", self.gateway], check=True)

    def prepare(self, contender, run):
        self.start = self.random.randrange(NEAR_BYTES, FAR_BYTES - NEAR_BYTES)
        if contender.name == "sapwood-near":
            self.read(self.start - (64 << 10), NEAR_BYTES)
        (run / "seek").write_text(f'range = "{self.start}-{self.start + SEEK_BYTES - 1}"\n')

    def check(self, contender, run, first):
        with open(self.object, "rb") as data:
            data.seek(self.start)
            if (run / "out").read_bytes() != data.read(SEEK_BYTES):
                raise Failure(f"{contender.name}: other bytes than were served")
        return {"first_byte_s": float((run / "stdout").read_text())}

    def show(self, report):
        super().show(report)
        for name, entry in report["contenders"].items():
            figures = entry["summary"]["first_byte_s"]
            print(f"{name}: first byte after {1000 * figures['median']:.0f} ms ({1000 * figures['min']:.0f} to "
                  f"{1000 * figures['max']:.0f}), {1000 * figures['median'] / ROUND_TRIP_MS:.1f} round trips")
