"""From an old version to a new one: bytes, requests and time."""

import hashlib
import json
import os
import random
import re
import shlex
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from .measure import measure
from .origin import START_TIMEOUT_S, Origin
from .programs import TARGET, Failure, program_path, say, version_of
from .section import Contender, Goal, Section, hash_of, published_of

# zsyncmake takes 2048 for files below 100 MB and 4096 above; for small changes 1024 moves less.
ZSYNC_BLOCKS = (1024, 2048, 4096)
PAGE = 4096


@dataclass(frozen=True)
class Pair:
    """A new version, what it may cost beside zsync, and how it is made: by ffmpeg's words, or by a function of the old one's bytes."""

    name: str
    goal: float
    suffix: str = ".mp4"
    words: str = ""
    edit: object = None


def contenders_of(pairs):
    return tuple(contender for pair in pairs for contender in (
        Contender(f"zsync-{pair.name}", f"zsync -q -i {{old_{pair.name}}} -o {{out}} {{zsync_{pair.name}}}"),
        Contender(f"bita-{pair.name}", f"bita clone --seed {{old_{pair.name}}} {{bita_{pair.name}}} {{out}}"),
        Contender(f"casync-{pair.name}",
                  f"casync extract --store={{store}} --seed={{old_{pair.name}}} {{casync_{pair.name}}} {{out}}"),
        # Both bring the copy of the old version that lies at {out} to the new one.
        Contender(f"rsync-{pair.name}", f"rsync --no-whole-file --ignore-times --stats {{rsync}}{{file_{pair.name}}} {{out}}"),
        Contender(f"sapwood-{pair.name}", f"sapwood fetch {{url}}{{new_{pair.name}}} -o {{out}} --no-store --json --quiet"),
        Contender(f"count-{pair.name}", f"delta_count {{old_{pair.name}}} {{path_{pair.name}}}"),
    ))


def goals_of(pairs):
    return tuple(Goal(f"sapwood-{pair.name}", "sent_bytes", pair.goal, f"zsync-{pair.name}") for pair in pairs)


class Versions(Section):
    """Contenders of all pairs of an old and a new version. A subclass says which pairs there are, and makes them below `folder`.

    Bytes are those of nginx's log with their headers, or both directions of rsync's --stats; those of count-* are what delta_count
    says that a manifest's hints would make of it."""

    # Which zsync a row is compared with depends on the pair; the goals say it.
    peer = ""
    rounds_max = 3
    PAIRS = ()

    def programs(self):
        more = {"zsync": {"zsyncmake"}, "sapwood": {"sapwood"}}
        return {"nginx", *super().programs(), *(name for c in self.selected for name in more.get(c.program, ()))}

    def make(self, pair):
        """The files with the old and with the new version."""
        raise NotImplementedError

    def begin(self):
        """Makes `folder`, and what all pairs need."""

    def enter(self, stack):
        self.begin()
        self.origin = stack.enter_context(Origin(self.bench.work))
        self.daemon = None
        if self.is_wanted("rsync"):
            self.daemon = stack.enter_context(RsyncDaemon(self.bench.work, self.folder))
        places = {"url": self.origin.url(""), "store": self.origin.url("store.castr"), "rsync": self.daemon and self.daemon.url}
        self.old, self.roots = {}, {}
        for pair in self.PAIRS:
            if not any(contender.name.endswith(f"-{pair.name}") for contender in self.selected):
                continue
            old, new = self.make(pair)
            served = self.origin.www / f"{pair.name}{new.suffix}"
            served.symlink_to(new)
            self.old[pair.name], self.roots[pair.name] = old, hash_of(new)
            places |= {f"old_{pair.name}": old, f"new_{pair.name}": served.name, f"path_{pair.name}": new,
                       # rsync follows no links out of what it serves.
                       f"file_{pair.name}": new.name}
            for program, describe in (("zsync", self.zsync), ("bita", self.bita), ("casync", self.casync), ("sapwood", self.sapwood)):
                if self.is_wanted(program, pair):
                    places[f"{program}_{pair.name}"] = describe(pair, old, served)
        return places

    def is_wanted(self, program, pair=None):
        names = [f"{program}-{pair.name}"] if pair else [f"{program}-{one.name}" for one in self.PAIRS]
        return any(contender.name in names for contender in self.selected)

    def describe(self, *command):
        run = self.bench.fresh_run()
        measure([program_path(command[0]), *command[1:]], run)
        shutil.rmtree(run)

    def zsync(self, pair, old, served):
        """The URL of the control file with which zsync moves least."""
        best = None
        for block in ZSYNC_BLOCKS:
            control = self.origin.www / f"{pair.name}-{block}.zsync"
            self.describe("zsyncmake", "-b", str(block), "-u", served.name, "-o", control, served)
            run = self.bench.fresh_run()
            self.origin.sent()
            measure([program_path("zsync"), "-q", "-i", old, "-o", run / "out", self.origin.url(control.name)], run)
            sent = self.origin.sent()["sent_bytes"]
            say(f"zsync -b {block}, {pair.name}: {sent} bytes")
            best = min(best or (sent, control), (sent, control))
            shutil.rmtree(run)
        return self.origin.url(best[1].name)

    def bita(self, pair, _, served):
        archive = self.origin.www / f"{pair.name}.cba"
        # Its default level takes minutes for a video, in which there is nothing to find.
        self.describe("bita", "compress", "--compression-level", "1", "--input", served, archive)
        return self.origin.url(archive.name)

    def casync(self, pair, _, served):
        index = self.origin.www / f"{pair.name}.caibx"
        self.describe("casync", "make", f"--store={self.origin.www / 'store.castr'}", index, served.resolve())
        return self.origin.url(index.name)

    def sapwood(self, _, __, served):
        self.describe("sapwood", "manifest", served, "-o", f"{served}.sapwood")
        return self.origin.url(served.name)

    def prepare(self, contender, run):
        if contender.program in ("rsync", "sapwood"):
            shutil.copyfile(self.old[self.pair_of(contender)], run / "out")
        self.origin.sent()

    def pair_of(self, contender):
        return contender.name.split("-", 1)[1]

    def check(self, contender, run, first):
        if contender.program == "delta_count":
            # It judges every block itself. Its wall time includes describing both files; the search alone is in descent_ms.
            counted = json.loads((run / "stdout").read_text())
            return {"sent_bytes": counted.pop("with_headers"), **counted}
        if hash_of(run / "out") != self.roots[self.pair_of(contender)]:
            raise Failure(f"{contender.name} wrote other bytes than were served")
        if contender.program == "rsync":
            return self.daemon.figures(run)
        figures = self.origin.sent()
        if contender.program == "sapwood":
            published = published_of(run)
            figures |= {name: published[name] for name in ("bytes_fetched", "bytes_manifest", "bytes_reused")}
        return figures


class RsyncDaemon:
    """An rsync that serves a folder on loopback, or behind a link."""

    CONFIGURATION = """
{user}
use chroot = no
munge symlinks = no
log file = {log}
[www]
path = {folder}
read only = yes
"""

    def __init__(self, work, folder, links=None):
        self.links, self.address = links, links.addresses[0] if links else "127.0.0.1"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.configuration = work / "rsyncd.conf"
        user = "uid = root\ngid = root" if os.geteuid() == 0 else ""
        self.configuration.write_text(self.CONFIGURATION.format(user=user, log=work / "rsyncd.log", folder=folder))
        self.url = f"rsync://{self.address}:{self.port}/www/"

    def __enter__(self):
        inside = self.links.inside(self.links.servers[0]) if self.links else []
        self.server = subprocess.Popen(
            [*inside, program_path("rsync"), "--daemon", "--no-detach", f"--config={self.configuration}", f"--port={self.port}",
             f"--address={self.address}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.answers():
            if self.server.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise Failure("rsync does not listen")
            time.sleep(0.02)
        return self

    def answers(self):
        inside = self.links.inside(self.links.client) if self.links else []
        return subprocess.run([*inside, program_path("rsync"), self.url], capture_output=True).returncode == 0

    def __exit__(self, *_):
        self.server.terminate()
        self.server.wait()

    def figures(self, run):
        said = (run / "stdout").read_text()
        both = [int(re.search(rf"Total bytes {way}: ([\d,]+)", said)[1].replace(",", "")) for way in ("sent", "received")]
        return {"sent_bytes": sum(both), "requests": 1, "upload_bytes": both[0]}


def put_in_front(data):
    return random.Random(65).randbytes(65) + data


def change_pages(data):
    chance, changed = random.Random(1), bytearray(data)
    pages = len(data) // PAGE
    for number in chance.sample(range(pages), pages // 100):
        changed[number * PAGE:(number + 1) * PAGE] = chance.randbytes(PAGE)
    return changed


def change_page(data):
    changed = bytearray(data)
    at = len(data) // 2 // PAGE * PAGE
    changed[at:at + PAGE] = random.Random(1).randbytes(PAGE)
    return changed


def edited(pair, old, folder):
    """The new version that a pair's function makes, kept in this folder."""
    new = folder / (pair.name + old.suffix)
    say(f"{new}: {pair.edit.__name__}")
    if not new.exists():
        written = folder / "unfinished"
        written.write_bytes(pair.edit(old.read_bytes()))
        written.rename(new)
    return new


class Delta(Versions):
    """A video of 470 MB that somebody edited. See Versions for what is counted."""

    name = "delta"
    PAIRS = (
        Pair("moov", 0.25, words="-i {old} -c copy -fflags +bitexact -movflags +faststart"),
        Pair("tag", 0.25, words="-i {old} -c copy -fflags +bitexact -metadata comment=edited"),
        Pair("shift", 0.25, edit=put_in_front),
        Pair("trim", 0.25, words="-ss 10 -i {old} -c copy -fflags +bitexact"),
        Pair("pages", 0.9, edit=change_pages),
        Pair("appended", 0.95, words="-f concat -safe 0 -i {list} -c copy -fflags +bitexact"),
        Pair("mkv", 0.5, suffix=".mkv", words="-i {old} -c copy -fflags +bitexact"),
    )
    contenders = contenders_of(PAIRS)
    goals = goals_of(PAIRS)

    # Seconds of the old video, and of what is appended to it: 5 %.
    OLD_S, MORE_S = 105, 5.25
    # Noise at a rate that leaves about 470 MB; every frame differs, so nothing in it is there twice.
    VIDEO = ("-f lavfi -i testsrc2=size=1280x720:rate=30,noise=alls=40:allf=t:all_seed={seed} "
             "-f lavfi -i anoisesrc=color=pink:sample_rate=48000:seed={seed} -t {seconds} "
             "-c:v libx264 -preset ultrafast -b:v 36M -minrate 36M -maxrate 36M -bufsize 36M -g 60 -pix_fmt yuv420p "
             "-c:a aac -b:a 160k -ac 2 -fflags +bitexact -flags:v +bitexact -flags:a +bitexact")

    def programs(self):
        return {"ffmpeg", *super().programs()}

    def begin(self):
        # Encoding takes minutes, so what was made is kept; the bytes depend on ffmpeg's version.
        version = hashlib.sha256(version_of("ffmpeg", program_path("ffmpeg")).encode()).hexdigest()[:8]
        self.folder = TARGET / "delta-inputs" / version
        self.folder.mkdir(parents=True, exist_ok=True)
        self.video, more = self.folder / "old.mp4", self.folder / "more.mp4"
        self.film(self.VIDEO.format(seed=1, seconds=self.OLD_S), self.video)
        self.film(self.VIDEO.format(seed=2, seconds=self.MORE_S), more)
        self.parts = self.folder / "parts.txt"
        self.parts.write_text("".join(f"file '{part}'\n" for part in (self.video, more)))

    def make(self, pair):
        if pair.edit:
            return self.video, edited(pair, self.video, self.folder)
        new = self.folder / (pair.name + pair.suffix)
        self.film(pair.words.format(old=self.video, list=self.parts), new)
        return self.video, new

    def film(self, words, path):
        """Makes a file with ffmpeg unless it is there. Prints how."""
        unfinished = path.with_name("unfinished" + path.suffix)
        command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-y", *words.split(), str(unfinished)]
        say(shlex.join([*command[:-1], str(path)]))
        if path.exists():
            return
        run = subprocess.run([program_path("ffmpeg"), *command[1:]], capture_output=True, text=True)
        if run.returncode != 0:
            raise Failure(f"ffmpeg failed: {shlex.join(command)}\n{run.stderr[-2000:]}")
        unfinished.rename(path)


class DeltaPackages(Versions):
    """The files of a Debian package, as a tar, in the two newest versions that apt offers. See Versions for what is counted."""

    name = "delta-packages"
    PAIRS = (Pair("libreoffice-core", 0.95), Pair("chromium", 0.95))
    contenders = contenders_of(PAIRS)
    goals = goals_of(PAIRS)

    def programs(self):
        return {"apt-cache", "apt-get", "dpkg-deb", *super().programs()}

    def begin(self):
        self.folder = TARGET / "delta-inputs" / "packages"
        self.folder.mkdir(parents=True, exist_ok=True)

    def make(self, pair):
        listed = subprocess.run([program_path("apt-cache"), "madison", pair.name], capture_output=True, text=True, check=True)
        versions = list(dict.fromkeys(line.split("|")[1].strip() for line in listed.stdout.splitlines() if "Packages" in line))
        if len(versions) < 2:
            raise Failure(f"apt offers {len(versions)} version(s) of {pair.name}: two are needed")
        new, old = (self.tar(f"{pair.name}={version}") for version in versions[:2])
        return old, new

    def tar(self, package):
        path = self.folder / f"{package.replace(':', '%3a')}.tar"
        say(f"apt-get download {package}, dpkg-deb --fsys-tarfile: {path}")
        if path.exists():
            return path
        with_package = Path(self.bench.fresh_run())
        run = subprocess.run([program_path("apt-get"), "-qq", "download", package], cwd=with_package, capture_output=True, text=True)
        if run.returncode != 0:
            raise Failure(f"apt-get download {package} failed\n{run.stderr[-2000:]}")
        (downloaded,) = with_package.glob("*.deb")
        unfinished = self.folder / "unfinished"
        with open(unfinished, "wb") as tar:
            subprocess.run([program_path("dpkg-deb"), "--fsys-tarfile", downloaded], stdout=tar, check=True)
        unfinished.rename(path)
        shutil.rmtree(with_package)
        return path


class DeltaData(Versions):
    """Two versions of a numpy wheel, and JSON with 1 % of its values changed, on one line and on many. See Versions for what is counted."""

    name = "delta-data"
    PAIRS = (Pair("wheel", 0.999, suffix=".whl"), Pair("json", 0.95, suffix=".json"), Pair("lines", 0.95, suffix=".jsonl"))
    contenders = contenders_of(PAIRS)
    goals = goals_of(PAIRS)

    WHEELS = ("numpy==2.1.0", "numpy==2.1.1")
    WHEEL = "--no-deps --only-binary=:all: --python-version 3.11 --platform manylinux2014_x86_64"
    RECORDS = 150_000
    CHANGED = 0.01

    def programs(self):
        return {"pip", *super().programs()}

    def begin(self):
        self.folder = TARGET / "delta-inputs" / "data"
        self.folder.mkdir(parents=True, exist_ok=True)

    def make(self, pair):
        if pair.name == "wheel":
            return tuple(self.wheel(which, f"{number}.whl") for number, which in enumerate(self.WHEELS))
        old, new = (self.folder / f"{pair.name}-{version}{pair.suffix}" for version in ("old", "new"))
        if not new.exists():
            records = self.records()
            self.write(records, old)
            self.change(records)
            self.write(records, new)
        return old, new

    def wheel(self, which, name):
        path = self.folder / name
        say(f"pip download {self.WHEEL} {which}: {path}")
        if path.exists():
            return path
        folder = Path(self.bench.fresh_run())
        run = subprocess.run([program_path("pip"), "--quiet", "download", *self.WHEEL.split(), "--dest", folder, which],
                             capture_output=True, text=True)
        if run.returncode != 0:
            raise Failure(f"pip download {which} failed\n{run.stderr[-2000:]}")
        (downloaded,) = folder.glob("*.whl")
        shutil.move(downloaded, path)
        shutil.rmtree(folder)
        return path

    def records(self):
        chance = random.Random(1)
        names = ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliet", "kilo", "lima")
        return [{
            "id": number,
            "name": f"{chance.choice(names)}-{chance.randrange(10**6)}",
            "email": f"{chance.choice(names)}{chance.randrange(10**5)}@example.org",
            "balance": round(chance.uniform(-1e4, 1e4), 2),
            "active": chance.random() < 0.5,
            "score": chance.randrange(10 ** chance.randrange(1, 8)),
            "created": f"20{chance.randrange(10, 25)}-{chance.randrange(1, 13):02}-{chance.randrange(1, 29):02}",
            "tags": [chance.choice(names) for _ in range(chance.randrange(5))],
        } for number in range(self.RECORDS)]

    def change(self, records):
        chance = random.Random(2)
        for record in records:
            for key in ("name", "email", "balance", "score", "created"):
                if chance.random() >= self.CHANGED:
                    continue
                record[key] = {
                    "balance": lambda: round(chance.uniform(-1e4, 1e4), 2),
                    "score": lambda: chance.randrange(10 ** chance.randrange(1, 8)),
                    "created": lambda: f"20{chance.randrange(10, 25)}{record['created'][4:]}",
                }.get(key, lambda: record[key] + str(chance.randrange(1000)))()

    def write(self, records, path):
        say(f"{path}: {len(records)} records")
        unfinished = self.folder / "unfinished"
        with open(unfinished, "w") as text:
            if path.suffix == ".json":
                json.dump(records, text)
            else:
                text.writelines(json.dumps(record) + "\n" for record in records)
        unfinished.rename(path)


class DeltaLarge(Versions):
    """A file of --size, of which nothing, one page, or the place of everything changed. See Versions for what is counted."""

    name = "delta-large"
    PAIRS = (Pair("unchanged", 0.95, edit=bytes), Pair("page", 0.95, edit=change_page), Pair("front", 0.25, edit=put_in_front))
    contenders = contenders_of(PAIRS)
    goals = goals_of(PAIRS)

    def begin(self):
        self.folder = TARGET / "delta-inputs" / f"large-{self.bench.size}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def make(self, pair):
        return self.bench.object, edited(pair, self.bench.object, self.folder)
