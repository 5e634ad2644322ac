"""From an old version to a new one: bytes, requests and time."""

import hashlib
import json
import random
import shlex
import shutil
from pathlib import Path

from .programs import TARGET, Failure, program_path, run, say, version_of
from .versions import Pair, Versions, contenders_of, goals_of

PAGE = 4096
# Noise at a rate that leaves about 470 MB; every frame differs, so nothing in it is there twice.
VIDEO = ("-f lavfi -i testsrc2=size=1280x720:rate=30,noise=alls=40:allf=t:all_seed={seed} "
         "-f lavfi -i anoisesrc=color=pink:sample_rate=48000:seed={seed} -t {seconds} "
         "-c:v libx264 -preset ultrafast -b:v 36M -minrate 36M -maxrate 36M -bufsize 36M -g 60 -pix_fmt yuv420p "
         "-c:a aac -b:a 160k -ac 2 -fflags +bitexact -flags:v +bitexact -flags:a +bitexact")


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


def film(words, path):
    """Makes a file with ffmpeg unless it is there. Prints how."""
    unfinished = path.with_name("unfinished" + path.suffix)
    command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-y", *words.split(), str(unfinished)]
    say(shlex.join([*command[:-1], str(path)]))
    if not path.exists():
        run(*command)
        unfinished.rename(path)


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

    def programs(self):
        return {"ffmpeg", *super().programs()}

    def begin(self):
        # Encoding takes minutes, so what was made is kept; the bytes depend on ffmpeg's version.
        version = hashlib.sha256(version_of("ffmpeg", program_path("ffmpeg")).encode()).hexdigest()[:8]
        self.folder = TARGET / "delta-inputs" / version
        self.folder.mkdir(parents=True, exist_ok=True)
        self.video, more = self.folder / "old.mp4", self.folder / "more.mp4"
        film(VIDEO.format(seed=1, seconds=self.OLD_S), self.video)
        film(VIDEO.format(seed=2, seconds=self.MORE_S), more)
        self.parts = self.folder / "parts.txt"
        self.parts.write_text("".join(f"file '{part}'\n" for part in (self.video, more)))

    def make(self, pair):
        if pair.edit:
            return self.video, edited(pair, self.video, self.folder)
        new = self.folder / (pair.name + pair.suffix)
        film(pair.words.format(old=self.video, list=self.parts), new)
        return self.video, new


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
        new, old = (self.tar(f"{pair.name}={version}") for version in self.versions_of(pair.name)[:2])
        return old, new

    def versions_of(self, package):
        """The versions that apt offers, two at least, newest first."""
        offered = run("apt-cache", "madison", package).splitlines()
        versions = list(dict.fromkeys(line.split("|")[1].strip() for line in offered if "Packages" in line))
        if len(versions) < 2:
            raise Failure(f"apt offers {len(versions)} version(s) of {package}: two are needed")
        return versions

    def tar(self, package):
        path = self.folder / f"{package.replace(':', '%3a')}.tar"
        say(f"apt-get download {package}, dpkg-deb --fsys-tarfile: {path}")
        if path.exists():
            return path
        with_package = Path(self.bench.fresh_run())
        run("apt-get", "-qq", "download", package, cwd=with_package)
        (downloaded,) = with_package.glob("*.deb")
        unfinished = self.folder / "unfinished"
        with open(unfinished, "wb") as tar:
            run("dpkg-deb", "--fsys-tarfile", downloaded, stdout=tar)
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
        run("pip", "--quiet", "download", *self.WHEEL.split(), "--dest", folder, which)
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
