"""What the sections share that bring an old version to a new one, as pairs of files."""

import json
import shutil
import subprocess
from dataclasses import dataclass

from .measure import measure
from .origin import Origin
from .programs import Failure, program_path, say
from .rsync import RsyncDaemon
from .section import Contender, Goal, Section, hash_of, published_of

# zsyncmake takes 2048 for files below 100 MB and 4096 above; for small changes 1024 moves less.
ZSYNC_BLOCKS = (1024, 2048, 4096)
BITA_TRIES = 9


@dataclass(frozen=True)
class Pair:
    """A new version, what it may cost beside a peer, and how it is made: by ffmpeg's words, or by a function of the old one's
    bytes, or as the section knows."""

    name: str
    goal: float
    suffix: str = ".mp4"
    words: str = ""
    edit: object = None


RSYNC = "rsync --no-whole-file --ignore-times --stats {flags}{{rsync}}{{file_{pair}}} {{out}}"
COMMANDS = {
    "zsync": "zsync -q -i {{old_{pair}}} -o {{out}} {{zsync_{pair}}}",
    "bita": "bita clone --seed {{old_{pair}}} {{bita_{pair}}} {{out}}",
    "casync": "casync extract --store={{store}} --seed={{old_{pair}}} {{casync_{pair}}} {{out}}",
    # Both bring the copy of the old version that lies at {out} to the new one.
    "rsync": RSYNC,
    "sapwood": "sapwood fetch {{url}}{{new_{pair}}} -o {{out}} --no-store --json --quiet",
}
COUNT = {"count": "delta_count {{old_{pair}}} {{path_{pair}}}"}


def contenders_of(pairs, commands=COMMANDS | COUNT):
    return tuple(Contender(f"{name}-{pair.name}", command.format(pair=pair.name, flags=""))
                 for pair in pairs for name, command in commands.items())


def goals_of(pairs):
    return tuple(Goal(f"sapwood-{pair.name}", "sent_bytes", pair.goal, f"zsync-{pair.name}") for pair in pairs)


class Versions(Section):
    """Contenders of all pairs of an old and a new version. A subclass says which pairs there are, and makes them below `folder`.

    Bytes are those of nginx's log with their headers, or both directions of rsync's --stats; those of count-* are what
    delta_count says that a manifest's hints would make of it."""

    # Which zsync a row is compared with depends on the pair; the goals say it.
    peer = ""
    rounds_max = 3
    PAIRS = ()
    # Flags with which a version is published. Bita's default level takes minutes for a video, in which there is nothing to find.
    BITA = ("--compression-level", "1")
    CASYNC = ()

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
        self.old, self.roots, self.publish_cpu_s = {}, {}, {}
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
            for describe in (self.zsync, self.bita, self.casync, self.sapwood):
                if self.is_wanted(describe.__name__, pair):
                    places[f"{describe.__name__}_{pair.name}"] = describe(pair, old, served)
        return places

    def is_wanted(self, program, pair=None):
        wanted = (contender for contender in self.selected if contender.program == program)
        return any(not pair or self.pair_of(contender) == pair.name for contender in wanted)

    def describe(self, pair, *command, folder=None):
        """Publishes a version, in a folder of its own unless there is one; what was made is kept with the CPU that it took."""
        run = folder or self.bench.fresh_run()
        self.publish_cpu_s[pair.name, command[0]] = measure([program_path(command[0]), *command[1:]], run)["cpu_s"]
        if not folder:
            shutil.rmtree(run)

    def zsync(self, pair, old, served):
        """The URL of the control file with which zsync moves least."""
        found = []
        for control in self.zsync_controls(pair, served):
            run, url = self.bench.fresh_run(), self.origin.url(control.relative_to(self.origin.www))
            self.origin.sent()
            measure([program_path("zsync"), "-q", "-i", old, "-o", run / "out", url], run)
            found.append((self.origin.sent()["sent_bytes"], url, self.publish_cpu_s[pair.name, "zsyncmake"]))
            say(f"zsync, {control.name}: {found[-1][0]} bytes")
            shutil.rmtree(run)
        _, url, self.publish_cpu_s[pair.name, "zsync"] = min(found)
        return url

    def zsync_controls(self, pair, served):
        for block in ZSYNC_BLOCKS:
            control = self.origin.www / f"{pair.name}-{block}.zsync"
            self.describe(pair, "zsyncmake", "-b", str(block), "-u", served.name, "-o", control, served)
            yield control

    def bita(self, pair, _, served):
        archive = self.origin.www / f"{pair.name}.cba"
        copy = archive.with_suffix(".copy")
        # Bita 0.15.0 may end before its last write: two archives of twelve were short.
        for _ in range(BITA_TRIES):
            self.describe(pair, "bita", "compress", "--force-create", *self.BITA, "--input", served, archive)
            cloned = subprocess.run([program_path("bita"), "clone", "--force-create", archive, copy], capture_output=True)
            copy.unlink()
            if cloned.returncode == 0:
                return self.origin.url(archive.name)
        raise Failure(f"bita compress left {BITA_TRIES} archives that are short")

    def casync(self, pair, _, served):
        index = self.origin.www / f"{pair.name}.caibx"
        store = self.origin.www / "store.castr"
        self.describe(pair, "casync", "make", *self.CASYNC, f"--store={store}", index, served.resolve())
        return self.origin.url(index.name)

    def sapwood(self, pair, _, served):
        self.describe(pair, "sapwood", "manifest", *self.manifest_flags(pair), served, "-o", f"{served}.sapwood")
        return self.origin.url(served.name)

    def manifest_flags(self, pair):
        return ()

    def server_of(self, contender):
        return self.daemon if contender.program == "rsync" else self.origin

    def prepare(self, contender, run):
        if contender.program in ("rsync", "sapwood"):
            shutil.copyfile(self.old[self.pair_of(contender)], run / "out")
        self.origin.sent()
        self.server_cpu_s = self.server_of(contender).cpu_s()

    def pair_of(self, contender):
        return contender.name.split("-", 1)[1]

    def check(self, contender, run, first):
        if contender.program == "delta_count":
            # It judges every block itself. Its wall time includes describing both files; the search alone is in descent_ms.
            counted = json.loads((run / "stdout").read_text())
            return {"sent_bytes": counted.pop("with_headers"), **counted}
        cpu = {"server_cpu_s": self.server_of(contender).cpu_s() - self.server_cpu_s}
        pair = self.pair_of(contender)
        if hash_of(run / "out") != self.roots[pair]:
            raise Failure(f"{contender.name} wrote other bytes than were served")
        if contender.program == "rsync":
            return self.daemon.figures(run) | cpu
        figures = self.traffic() | cpu | {"publish_cpu_s": self.publish_cpu_s[pair, contender.program]}
        if contender.program == "sapwood":
            published = published_of(run)
            figures |= {name: published[name] for name in ("bytes_fetched", "bytes_manifest", "bytes_reused")}
        return figures

    def traffic(self):
        return self.origin.sent()
