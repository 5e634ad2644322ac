"""Many small files from a list."""

import filecmp
import os
import random

from links import Link, Links

from .measure import measure
from .origin import Origin
from .programs import Failure, program_path
from .section import Contender, Goal, Section

FETCH = "sapwood fetch -i {{{list}}} -o {{out}}/ --json --quiet"
OURS = {
    "sapwood": FETCH.format(list="bare"),
    "sapwood-manifests": FETCH.format(list="proven"),
    "sapwood-no-store": FETCH.format(list="bare") + " --no-store",
    "sapwood-no-manifest": FETCH.format(list="bare") + " --no-manifest",
}
PEERS = {
    "curl": "curl --silent --show-error --fail --parallel --config {curl}",
    "wget2": "wget2 --quiet -P {out} -i {bare}",
    "aria2c-j16": "aria2c --no-conf --quiet -j16 --file-allocation=none -d {out} -i {bare}",
    "rclone": "rclone copy --quiet --transfers 16 --no-traverse --files-from {names} --http-url {folder} :http: {out}",
}
# Again over what the first run left.
AGAIN = {
    "sapwood": OURS["sapwood"],
    "sapwood-manifests": OURS["sapwood-manifests"],
    "wget2": PEERS["wget2"] + " -N",
    "rclone": PEERS["rclone"],
}
UNCHANGED = "-unchanged"


class Many(Section):
    """2,000 files of 1 to 64 KiB on loopback."""

    name = "many"
    peer = "curl"
    FILES = 2000
    LEAST, MOST = 1 << 10, 64 << 10
    LINK = None
    contenders = (
        *(Contender(name, command) for name, command in (PEERS | OURS).items()),
        *(Contender(name + UNCHANGED, command) for name, command in AGAIN.items()),
    )
    goals = (
        *(Goal(ours, figure, 1.0, peer) for ours in ("sapwood", "sapwood-manifests")
          for figure in ("wall_s", "cpu_s") for peer in PEERS),
        *(Goal(ours + UNCHANGED, figure, 0.3, peer) for ours in ("sapwood", "sapwood-manifests")
          for figure in ("wall_s", "cpu_s") for peer in PEERS),
    )

    def programs(self):
        return {"nginx", *(["relay"] if self.LINK else []), *super().programs()}

    def enter(self, stack):
        links = None
        if self.LINK:
            links = stack.enter_context(Links(program_path("relay"), [self.LINK]))
            self.inside = links.inside(links.client)
        self.origin = stack.enter_context(Origin(self.bench.work, links))
        self.www = {name: self.origin.www / name for name in ("bare", "proven")}
        numbers = random.Random(1)
        self.files = [f"{number:05}.bin" for number in range(self.FILES)]
        for folder in self.www.values():
            folder.mkdir()
        for file in self.files:
            (self.www["bare"] / file).write_bytes(numbers.randbytes(numbers.randint(self.LEAST, self.MOST)))
            os.link(self.www["bare"] / file, self.www["proven"] / file)
        run = self.bench.fresh_run()
        paths = [self.www["proven"] / file for file in self.files]
        measure([program_path("sapwood"), "manifest", "--quiet", *paths], run)
        places = {"folder": self.origin.url("bare/"), "names": self.listed("names", "{file}")}
        for folder in self.www:
            places[folder] = self.listed(folder, self.origin.url(f"{folder}/{{file}}"))
        places["curl"] = self.listed("curl", f'url = "{self.origin.url("bare/{file}")}"\noutput = "out/{{file}}"')
        self.places = places
        return places

    def listed(self, name, line):
        path = self.bench.work / f"{self.name}-{name}"
        path.write_text("".join(line.format(file=file) + "\n" for file in self.files))
        return path

    def prepare(self, contender, run):
        (run / "out").mkdir()
        if contender.name.endswith(UNCHANGED):
            words = contender.words({**self.places, "run": run, "out": run / "out"})
            measure([*self.inside, *words], run)
        self.origin.sent()

    def check(self, contender, run, first):
        figures = self.origin.sent()
        _, wrong, missing = filecmp.cmpfiles(self.www["bare"], run / "out", self.files, shallow=False)
        if wrong or missing:
            raise Failure(f"{contender.name}: {len(wrong)} files are wrong, {len(missing)} are missing")
        return figures


class ManyFar(Many):
    """200 files of 20 kB from far away: 40 ms."""

    name = "many-far"
    FILES = 200
    LEAST = MOST = 20_000
    LINK = Link(delay_ms=40, loss_permille=0, mbit_s=500, queue_kib=2500)
