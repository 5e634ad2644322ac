"""Several servers, of which some are slow or lie."""

import json
import threading

from links import Link, Links

from .origin import Origin
from .programs import Failure, program_path
from .section import Contender, Goal, Section, hash_of, published_of, serve_object


class Mirrors(Section):
    """100 MB from two mirrors 20 ms away, 200 and 40 Mbit/s, whatever --size says; at last the fast one is away for a while."""

    name = "mirrors"
    peer = "sapwood-fast"
    rounds_max = 3
    BYTES = 100_000_000
    LINKS = [Link(delay_ms=20, loss_permille=0, mbit_s=200, queue_kib=500),
             Link(delay_ms=20, loss_permille=0, mbit_s=40, queue_kib=100)]
    # Seconds after which the fast mirror dies, and is back.
    AWAY_S = (1.5, 3.5)
    contenders = tuple(Contender(f"sapwood-{name}", f"sapwood fetch {urls} -o {{out}} --json --quiet --no-store")
                       for name, urls in (("fast", "{url0}"), ("slow", "{url1}"), ("both", "{url0} --mirror {url1}"),
                                          ("dies", "{url0} --mirror {url1}")))
    # Nine tenths of the sum of both rates, the slow one being a fifth of the fast.
    goals = (Goal("sapwood-both", "wall_s", 1 / (1.2 * 0.9), "sapwood-fast"),)

    def programs(self):
        return {"nginx", "relay", "curl", *super().programs()}

    def enter(self, stack):
        links = stack.enter_context(Links(program_path("relay"), self.LINKS))
        self.inside = links.inside(links.client)
        self.origins = [stack.enter_context(Origin(self.bench.work, links, number)) for number in range(2)]
        self.root = serve_object(self.bench, self.origins, "object", self.BYTES)
        self.timers = []
        stack.callback(self.stop_timers)
        return {f"url{number}": origin.url("object") for number, origin in enumerate(self.origins)}

    def stop_timers(self):
        for timer in self.timers:
            timer.cancel()
            if timer.is_alive():
                timer.join()
        self.timers = []

    def prepare(self, contender, run):
        if contender.name == "sapwood-dies":
            fast = self.origins[0]
            self.timers = [threading.Timer(self.AWAY_S[0], fast.__exit__), threading.Timer(self.AWAY_S[1], fast.__enter__)]
            for timer in self.timers:
                timer.start()

    def check(self, contender, run, first):
        for timer in self.timers:
            timer.join()
        self.timers = []
        if hash_of(run / "out") != self.root:
            raise Failure(f"{contender.name} wrote other bytes than were served")
        done = [event["bytes_done"] for event in map(json.loads, (run / "stdout").read_text().splitlines())
                if event["event"] == "progress"]
        if done != sorted(done):
            raise Failure(f"{contender.name}: progress steps back: {done}")
        return {"bits": self.BYTES * 8, "wasted_bytes": published_of(run)["bytes_fetched"] - self.BYTES}
