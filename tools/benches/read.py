"""Blocks that the store holds: read into buffers, and from mapped memory."""

import json
import os
import shutil

from .measure import measure
from .origin import Origin
from .programs import Failure, program_path
from .section import Contender, Goal, Section

# The manifest, and room.
FETCHED_MAX = 0.01


class Read(Section):
    """Blocks that the store holds: read into buffers, and from mapped memory; in order, and in random ranges."""

    name = "read"
    peer = "plain"
    contenders = (
        Contender("plain", "cached_read {store} {url} plain in-order"),
        Contender("mapped", "cached_read {store} {url} mapped in-order"),
        Contender("plain-random", "cached_read {store} {url} plain random"),
        Contender("mapped-random", "cached_read {store} {url} mapped random"),
    )
    goals = (
        Goal("mapped", "wall_s", 1.0, "plain"),
        Goal("mapped", "cpu_s", 1.0, "plain"),
        Goal("mapped-random", "wall_s", 1.0, "plain-random"),
        Goal("mapped-random", "cpu_s", 1.0, "plain-random"),
    )

    def programs(self):
        return {"nginx", "sapwood", *super().programs()}

    def enter(self, stack):
        origin = stack.enter_context(Origin(self.bench.work))
        os.link(self.bench.object, origin.www / "object.bin")
        places = {"url": origin.url("object.bin"), "store": self.bench.work / "store"}
        run = self.bench.fresh_run()
        measure([program_path("sapwood"), "manifest", self.bench.object, "-o", origin.www / "object.bin.sapwood"], run)
        measure(self.contenders[0].words(places), run)
        shutil.rmtree(run)
        stack.callback(shutil.rmtree, places["store"])
        return places

    def check(self, contender, run, first):
        found = json.loads((run / "stdout").read_text())
        if found["fetched"] > self.bench.size * FETCHED_MAX + (1 << 20):
            raise Failure(f"{contender.name} fetched {found['fetched']} bytes: the store, which takes a tenth of a disk, has no room "
                          "for the object; choose a smaller --size or another --dir")
        return found
