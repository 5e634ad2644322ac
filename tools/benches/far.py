"""A server that is far away."""

from links import Link, Links

from .origin import Origin
from .programs import Failure, program_path
from .section import Contender, Goal, Section, hash_of, published_of, serve_object


class Far(Section):
    """From far away: 40 ms, 0.5 % loss, 500 Mbit/s. 20 MB under reno, 200 MB under BBR, whatever --size says."""

    name = "far"
    rounds_max = 3
    # The queue holds what fits on the way once more.
    LINK = Link(delay_ms=40, loss_permille=5, mbit_s=500, queue_kib=2500)
    BYTES = {"reno": 20_000_000, "bbr": 200_000_000}
    contenders = tuple(contender for control in BYTES for contender in (
        Contender(f"curl-{control}", f"curl --silent --show-error --fail -o {{out}} {{{control}}}"),
        *(Contender(f"aria2c-x{n}-{control}",
                    f"aria2c --no-conf --quiet -x{n} -s{n} -k1M --file-allocation=none -d {{run}} -o out {{{control}}}")
          for n in (4, 8, 16)),
        Contender(f"sapwood-{control}", f"sapwood fetch {{{control}}} -o {{out}} --json --quiet --no-store"),
        Contender(f"sapwood-no-manifest-{control}",
                  f"sapwood fetch {{bare_{control}}} -o {{out}} --json --quiet --no-store"),
    ))
    goals = tuple(Goal(f"{ours}-{control}", "wall_s", 1.0, f"{peer}-{control}")
                  for control in BYTES for ours in ("sapwood", "sapwood-no-manifest")
                  for peer in ("curl", "aria2c-x4", "aria2c-x8", "aria2c-x16"))

    def programs(self):
        return {"nginx", "relay", *super().programs()}

    def enter(self, stack):
        self.links = stack.enter_context(Links(program_path("relay"), [self.LINK]))
        self.inside = self.links.inside(self.links.client)
        self.origin = stack.enter_context(Origin(self.bench.work, self.links))
        places, self.roots = {}, {}
        for control, size in self.BYTES.items():
            self.roots[control] = serve_object(self.bench, [self.origin], control, size)
            places[control] = self.origin.url(control)
            places[f"bare_{control}"] = self.origin.url(f"bare/{control}")
        return places

    def prepare(self, contender, run):
        self.links.set(self.links.servers[0], "tcp_congestion_control", contender.name.rsplit("-", 1)[1])

    def check(self, contender, run, first):
        control = contender.name.rsplit("-", 1)[1]
        if hash_of(run / "out") != self.roots[control]:
            raise Failure(f"{contender.name} wrote other bytes than were served")
        figures = {"bits": self.BYTES[control] * 8}
        if contender.program == "sapwood":
            figures["wasted_bytes"] = published_of(run)["bytes_fetched"] - self.BYTES[control]
        return figures
