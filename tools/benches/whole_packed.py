"""All of an object that compresses: with its pack, beside what people publish for that, FILE.zst."""

import shutil
import subprocess

from links import Link, Links

from .delta_packed import DeltaPacked
from .origin import Origin
from .programs import Failure, program_path
from .section import Contender, Goal, Section, hash_of

FETCH = "sapwood fetch {%s} -o {out} --json --quiet --no-store"


class WholePacked(Section):
    """A tar of 346 MB of source over 40 ms and 80 Mbit/s: with the pack, without, and by curl as it is and as a .zst of levels 9 and
    19, decompressed while it arrives."""

    name = "whole-packed"
    peer = "curl-zst19"
    rounds_max = 3
    LINK = Link(delay_ms=40, loss_permille=0, mbit_s=80, queue_kib=800)
    LEVELS = (9, 19)
    contenders = (
        Contender("sapwood", FETCH % "packed"), Contender("sapwood-no-pack", FETCH % "plain"),
        Contender("curl", "curl --silent --show-error --fail -o {out} {plain}"),
        *(Contender(f"curl-zst{level}", f"bash {{unzst}} {{zst{level}}} {{out}}") for level in LEVELS))
    goals = (Goal("sapwood", "wall_s", 1.0, "curl-zst9"), Goal("sapwood", "sent_bytes", 1.0, "curl-zst9"))

    def programs(self):
        return {"nginx", "relay", "curl", "zstd", *super().programs()}

    def enter(self, stack):
        links = stack.enter_context(Links(program_path("relay"), [self.LINK]))
        self.inside = links.inside(links.client)
        self.origin = stack.enter_context(Origin(self.bench.work, links))
        inputs = DeltaPacked(self.bench)
        inputs.begin()
        _, tar = inputs.make(next(pair for pair in inputs.PAIRS if pair.name == "linux"))
        self.root = hash_of(tar)
        for name, flags in (("packed", ["--pack"]), ("plain", [])):
            shutil.copyfile(tar, self.origin.www / name)
            subprocess.run([program_path("sapwood"), "manifest", self.origin.www / name, *flags], capture_output=True, check=True)
        places = {name: self.origin.url(name) for name in ("packed", "plain")}
        for level in self.LEVELS:
            path = self.origin.www / f"{level}.zst"
            subprocess.run([program_path("zstd"), "-q", "-T0", f"-{level}", tar, "-o", path], check=True)
            places[f"zst{level}"] = self.origin.url(path.name)
        script = self.bench.work / "unzst"
        script.write_text("set -o pipefail\n"
                          f'{program_path("curl")} --silent --show-error --fail "$1" | {program_path("zstd")} -q -d -o "$2"\n')
        places["unzst"] = script
        return places

    def prepare(self, contender, run):
        self.origin.lines()

    def check(self, contender, run, first):
        if hash_of(run / "out") != self.root:
            raise Failure(f"{contender.name} wrote other bytes than were published")
        lines = self.origin.lines()
        return {"requests": len(lines), "sent_bytes": sum(line.sent_bytes + line.request_bytes for line in lines)}


class WholePackedGigabit(WholePacked):
    """The same over 1 ms and 1 Gbit/s."""

    name = "whole-packed-gigabit"
    LINK = Link(delay_ms=1, loss_permille=0, mbit_s=1000, queue_kib=2000)
