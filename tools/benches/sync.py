"""A folder kept in step with a server: `sapwood sync` beside rsync's daemon, and rclone from nginx's listings."""

import json
import os
import random
import re
import shutil
import subprocess
from dataclasses import dataclass

from links import Link, Links

from .measure import measure
from .origin import Origin
from .programs import Failure, program_path, say
from .rsync import RsyncDaemon
from .section import Contender, Goal, Section

SMALL, SMALL_BYTES = 20_000, (1_024, 68_000)
LARGE, LARGE_BYTES = 50, (8_200_000, 21_470_000)
FOLDERS = 200
# Of the files of the first version, and of what differs in one that changed.
CHANGED, CHANGED_BYTES = 0.01, {"small": 1_024, "large": 65_536}
RENAMED = 0.3
# 2026-01-01; HTTP knows whole seconds only.
TIME_S = 1_767_225_600
SCENES = ("first", "unchanged", "changed", "renamed")
OWN = "library.sapwood"


def contenders_of(scenes):
    return tuple(contender for scene in scenes for contender in (
        Contender(f"rsync-{scene}", f"rsync --archive --delete --stats --exclude=/{OWN}* {{rsync}}media/ {{out}}/"),
        Contender(f"rclone-{scene}",
                  f"rclone sync --transfers 16 --checkers 16 --exclude=/{OWN}** --http-url {{url}} :http: {{out}}"),
        Contender(f"sapwood-{scene}", "sapwood sync {url} {out} --delete --json --quiet"),
    ))


@dataclass(frozen=True)
class Most:
    """A goal that needs no peer."""

    contender: str
    figure: str
    limit: float


class Sync(Section):
    """20,000 files of 1 to 68 kB and 50 of 8 to 21 MB, 1.43 GB in all, random bytes: the first time; again, nothing changed; 1 % of
    the files changed (in one place, 1 KiB of a small one, 64 KiB of a large one); 30 % renamed. Bytes are those of both directions
    with their headers: nginx's log, rsync's --stats."""

    name = "sync"
    rounds_max = 3
    contenders = contenders_of(SCENES)
    goals = (Goal("sapwood-first", "wall_s", 1.0, "rsync-first"), Goal("sapwood-changed", "sent_bytes", 1.0, "rsync-changed"))
    most = (Most("sapwood-unchanged", "sent_bytes", 3_000), Most("sapwood-unchanged", "wall_s", 0.1),
            Most("sapwood-renamed", "file_bytes", 0))
    links = None

    def programs(self):
        return {"nginx", "rsync", "sapwood", *super().programs()}

    def enter(self, stack):
        self.make_versions()
        self.near = self.origin = stack.enter_context(Origin(self.bench.work))
        if self.links:
            self.origin = stack.enter_context(Origin(self.bench.work, self.links))
        # What all serve. The version itself: rsync follows no links out of what it serves.
        (self.bench.work / "served").mkdir()
        self.served, self.version = self.bench.work / "served" / "media", None
        for origin in {self.near, self.origin}:
            (origin.www / "media").symlink_to(self.served)
        self.daemon = stack.enter_context(RsyncDaemon(self.bench.work, self.served.parent, self.links))
        return {"url": self.origin.url("media/"), "rsync": self.daemon.url}

    def make_versions(self):
        self.versions = self.bench.work / "versions"
        old = self.versions / "old"
        chance = random.Random(13)
        sizes = {f"films/{number:02}.mov": chance.randint(*LARGE_BYTES) for number in range(LARGE)}
        sizes |= {f"{number % FOLDERS:03}/{number:05}.dat": chance.randint(*SMALL_BYTES) for number in range(SMALL)}
        say(f"{old}: {len(sizes)} files, {sum(sizes.values())} bytes")
        for at, (path, size) in enumerate(sizes.items()):
            write(old / path, chance.randbytes(size), TIME_S + at)
        for version in ("changed", "renamed"):
            subprocess.run(["cp", "--archive", "--link", old, self.versions / version], check=True)
        every = round(1 / CHANGED)
        for path in [path for number, path in enumerate(sizes) if number % every == 0]:
            changed = self.versions / "changed" / path
            data, count = bytearray(changed.read_bytes()), CHANGED_BYTES["large" if path.startswith("films") else "small"]
            place = chance.randrange(max(1, len(data) - count))
            data[place:place + count] = chance.randbytes(len(data[place:place + count]))
            # Not through the link that the old version shares.
            changed.unlink()
            write(changed, data, TIME_S + 86_400)
        for path in chance.sample(list(sizes), round(RENAMED * len(sizes))):
            renamed = self.versions / "renamed" / path
            # Half of them into other folders.
            to = renamed.with_name("new-" + renamed.name) if chance.random() < 0.5 else self.versions / "renamed" / "moved" / path
            to.parent.mkdir(parents=True, exist_ok=True)
            renamed.rename(to)
        for version in ("old", "changed", "renamed"):
            run = self.bench.fresh_run()
            measure([program_path("sapwood"), "manifest", self.versions / version, "--name", "media"], run)
            shutil.rmtree(run)

    def serve(self, version):
        if self.version:
            self.served.rename(self.versions / self.version)
        (self.versions / version).rename(self.served)
        self.version = version

    def prepare(self, contender, run):
        self.serve("old")
        scene, out = contender.name.rsplit("-", 1)[1], run / "out"
        if scene != "first" and contender.program == "sapwood":
            # What it notes of its files, it notes while it places them.
            measure([program_path("sapwood"), "sync", self.near.url("media/"), out, "--quiet"], run)
        elif scene != "first":
            subprocess.run(["cp", "--archive", self.served, out], check=True)
            remove_own(out)
        self.serve(scene if scene in ("changed", "renamed") else "old")
        self.near.sent()
        self.origin.sent()

    def check(self, contender, run, first):
        compare(self.served, run / "out", contender)
        if contender.program == "rsync":
            figures = self.daemon.figures(run)
            literal = re.search(r"Literal data: ([\d,]+)", (run / "stdout").read_text())[1]
            return figures | {"file_bytes": int(literal.replace(",", ""))}
        lines = self.origin.lines()
        files = [line for line in lines if not line.path.startswith(f"/media/{OWN}") and not line.path.endswith("/")]
        figures = {"requests": len(lines), "sent_bytes": sum(line.sent_bytes + line.request_bytes for line in lines),
                   "file_bytes": sum(line.sent_bytes for line in files if line.method == "GET")}
        if contender.program == "sapwood":
            events = [json.loads(line) for line in (run / "stdout").read_text().splitlines()]
            [synced] = [event for event in events if event["event"] == "synced"]
            figures |= {name: synced[name] for name in ("fetched", "moved", "copied", "deleted", "unchanged", "failed")}
        return figures

    def show(self, report):
        super().show(report)
        contenders = report["contenders"]
        for name, entry in contenders.items():
            print(f"  {name}: {entry['summary']['file_bytes']['median'] / 1e6:.3f} MB of files")
        for most in self.most:
            if most.contender in contenders:
                found = contenders[most.contender]["summary"][most.figure]["median"]
                met = "met" if found <= most.limit else "MISSED"
                print(f"  goal: {most.contender} {most.figure} at most {most.limit:g}: {found:g}, {met}")


class SyncFar(Sync):
    """The same from 40 ms away, at 500 Mbit/s."""

    name = "sync-far"
    rounds_max = 1
    LINK = Link(delay_ms=40, loss_permille=0, mbit_s=500, queue_kib=2500)
    goals = (Goal("sapwood-first", "wall_s", 1.0, "rsync-first"), Goal("sapwood-unchanged", "wall_s", 1.0, "rsync-unchanged"),
             Goal("sapwood-changed", "wall_s", 1.0, "rsync-changed"), Goal("sapwood-changed", "sent_bytes", 1.0, "rsync-changed"))
    most = (Most("sapwood-unchanged", "sent_bytes", 3_000), Most("sapwood-renamed", "file_bytes", 0))

    def programs(self):
        return {"relay", *super().programs()}

    def enter(self, stack):
        self.links = stack.enter_context(Links(program_path("relay"), [self.LINK]))
        self.inside = self.links.inside(self.links.client)
        return super().enter(stack)


def write(path, data, time_s):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (time_s, time_s))


def remove_own(folder):
    for path in folder.glob(f"{OWN}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def compare(wanted, found, contender):
    """Refuses a copy that is not the folder: names, bytes, times."""
    done = subprocess.run(["diff", "--recursive", "--brief", f"--exclude={OWN}*", wanted, found], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"{contender.name}: another folder than was served:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    for path in wanted.rglob("*"):
        inside = path.relative_to(wanted)
        if path.is_file() and not inside.parts[0].startswith(OWN):
            if int(path.stat().st_mtime) != int((found / inside).stat().st_mtime):
                raise Failure(f"{contender.name}: {inside} has another time than on the server")
