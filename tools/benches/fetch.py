"""A whole file over loopback."""

import hashlib
import json
import os
import shutil

from .measure import measure
from .origin import Origin
from .programs import Failure, program_path
from .section import Contender, Goal, Section, hash_of

MIB = 1 << 20


class Fetch(Section):
    """A whole file over loopback, to a destination that does not exist."""

    name = "fetch"
    peer = "curl"
    contenders = (
        Contender("curl", "curl --silent --show-error --fail -o {out} {url}"),
        Contender("curl-null", "curl --silent --show-error --fail -o /dev/null {url}"),
        Contender("wget2", "wget2 --quiet --progress=none -O {out} {url}"),
        Contender("aria2c-x8", "aria2c --no-conf --quiet -x8 -s8 -k1M --file-allocation=none -d {run} -o out {url}"),
        # SHA-256 of every piece, which aria2c checks as they arrive: the peer that proves what it writes.
        Contender("aria2c-pieces",
                  "aria2c --no-conf --quiet -x8 -s8 -k1M --file-allocation=none -d {run} -M {metalink}"),
        Contender("rclone", "rclone copyurl {url} {out}"),
        Contender("sapwood", "sapwood fetch {url} -o {out} --json --quiet"),
        # The same bytes under a URL that has no manifest beside it: nothing is proven.
        Contender("sapwood-no-manifest", "sapwood fetch {bare_url} -o {out} --json --quiet"),
    )
    goals = (
        Goal("sapwood", "wall_s", 0.75, "curl"),
        Goal("sapwood", "wall_s", 0.9, "rclone"),
        Goal("sapwood", "cpu_s", 1.0, "aria2c-x8"),
    )

    METALINK_PIECE = MIB

    def programs(self):
        return {"nginx", *super().programs()}

    def enter(self, stack):
        self.origin = stack.enter_context(Origin(self.bench.work))
        www = self.origin.www
        os.link(self.bench.object, www / "object.bin")
        (www / "bare").mkdir()
        os.link(self.bench.object, www / "bare" / "object.bin")
        metalink = self.bench.work / "object.meta4"
        if any("{metalink}" in contender.command for contender in self.selected):
            self.write_metalink(metalink)
        if any(contender.name == "sapwood" for contender in self.selected):
            maker = self.bench.fresh_run()
            measure([program_path("sapwood"), "manifest", self.bench.object, "-o", www / "object.bin.sapwood"], maker)
            shutil.rmtree(maker)
        return {
            "url": self.origin.url("object.bin"),
            "bare_url": self.origin.url("bare/object.bin"),
            "metalink": metalink,
        }

    def write_metalink(self, path):
        with open(self.bench.object, "rb") as data, open(path, "w") as metalink:
            metalink.write(
                '<?xml version="1.0" encoding="UTF-8"?>\n'
                '<metalink xmlns="urn:ietf:params:xml:ns:metalink"><file name="out">\n'
                f"<size>{self.bench.size}</size>\n"
                f'<pieces length="{self.METALINK_PIECE}" type="sha-256">\n'
            )
            while piece := data.read(self.METALINK_PIECE):
                metalink.write(f"<hash>{hashlib.sha256(piece).hexdigest()}</hash>\n")
            metalink.write(f"</pieces>\n<url>{self.origin.url('object.bin')}</url>\n</file></metalink>\n")

    def check(self, contender, run, first):
        figures = self.origin.sent()
        if contender.program == "sapwood":
            events = [json.loads(line) for line in (run / "stdout").read_text().splitlines()]
            published = [event for event in events if event["event"] == "published"]
            if len(published) != 1:
                raise Failure(f"{contender.name} reported {len(published)} published files")
            figures["trust"] = published[0]["trust"]
            # Without this a manifest that is not found would make us look fast.
            if (figures["trust"] == "manifest") != (contender.name == "sapwood"):
                raise Failure(f"{contender.name} published with trust {figures['trust']}")
        if contender.name == "curl-null":
            return figures
        result = run / "out"
        if result.stat().st_size != self.bench.size:
            raise Failure(f"{contender.name} wrote {result.stat().st_size} of {self.bench.size} bytes")
        if first and hash_of(result) != self.bench.root:
            raise Failure(f"{contender.name} wrote other bytes than were served")
        return figures
