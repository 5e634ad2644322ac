"""Updates with a pack beside the manifest, and the peers as well as they can be set."""

import shutil
import tempfile
from pathlib import Path

from .packed_inputs import MAKERS
from .programs import TARGET, say
from .section import Goal
from .versions import COMMANDS, RSYNC, ZSYNC_BLOCKS, Pair, Versions, contenders_of

DEFAULT = (Pair("babel", 1.0, suffix=".tar"), Pair("numpy", 1.0, suffix=".tar"), Pair("sqlite", 1.0, suffix=".tar"),
           Pair("csv", 1.0, suffix=".csv"), Pair("json", 1.0, suffix=".json"), Pair("jsonl", 1.0, suffix=".jsonl"),
           Pair("logs", 1.0, suffix=".log"), Pair("libreoffice", 1.0, suffix=".tar"), Pair("linux", 1.0, suffix=".tar"),
           Pair("ext4", 1.0, suffix=".img"), Pair("chromium", 1.0, suffix=".tar"), Pair("moov", 1.0), Pair("pages", 1.0))
# Also packed at level 19, where that takes minutes and not an hour.
LEVEL_19 = tuple(Pair(f"{pair.name}-19", pair.goal, pair.suffix) for pair in DEFAULT[:8])
RSYNC_FLAGS = {"rsync_z": "-z", "rsync_z19": "-z --zc=zstd --zl=19"}
COMPRESSED = {name: RSYNC.replace("{flags}", flags + " ") for name, flags in RSYNC_FLAGS.items()}
PEERS = (("sent_bytes", "rsync_z19"), ("sent_bytes", "zsync"), ("both_cpu_s", "rsync_z"))


class DeltaPacked(Versions):
    """Packages, sources, data, logs, an image of a file system and a video, in two versions each: the bytes of both directions,
    and the CPU of both sides. Rsync without compression, with its own, and with zstd at level 19; the best of zsync with three
    sizes of blocks, with gzip and without; casync with xz; bita with brotli at level 9 and chunks of 16 KiB."""

    name = "delta-packed"
    PAIRS = DEFAULT + LEVEL_19
    contenders = contenders_of(DEFAULT, COMMANDS | COMPRESSED) + contenders_of(LEVEL_19, {"sapwood": COMMANDS["sapwood"]})
    goals = tuple(Goal(f"sapwood-{pair.name}", figure, pair.goal, f"{peer}-{pair.name.removesuffix('-19')}")
                  for pair in PAIRS for figure, peer in PEERS)
    CASYNC = ("--compression=xz",)
    BITA = ("--compression-level", "9", "--avg-chunk-size", "16KiB", "--min-chunk-size", "4KiB")

    def begin(self):
        # Some take minutes to make, and registries will offer others; so what was made is kept.
        self.folder = TARGET / "delta-inputs" / "packed"
        self.folder.mkdir(parents=True, exist_ok=True)

    def make(self, pair):
        name = pair.name.removesuffix("-19")
        old, new = kept = [self.folder / f"{name}-{version}{pair.suffix}" for version in ("old", "new")]
        if not (old.exists() and new.exists()):
            say(f"{old} and {new.name}: {MAKERS[name].__doc__}")
            scratch = Path(tempfile.mkdtemp(prefix="unfinished-", dir=self.folder))
            try:
                for path, made in zip(kept, MAKERS[name](self, scratch)):
                    path.unlink(missing_ok=True)
                    # What another section keeps stays there.
                    path.hardlink_to(made)
            finally:
                shutil.rmtree(scratch)
        return old, new

    def zsync_controls(self, pair, served):
        yield from super().zsync_controls(pair, served)
        # zsyncmake compresses a file into the folder in which it runs.
        for block in ZSYNC_BLOCKS:
            folder = self.origin.www / f"{pair.name}-{block}-gzip"
            folder.mkdir()
            link, control = folder / served.name, folder / f"{folder.name}.zsync"
            link.symlink_to(served)
            self.describe(pair, "zsyncmake", "-z", "-b", str(block), "-u", f"{link.name}.gz", "-o", control, link.name,
                          folder=folder)
            yield control

    def manifest_flags(self, pair):
        """A fetch uses FILE.sapwood.pack by itself."""
        return ("--pack", "--level", "19") if pair in LEVEL_19 else ("--pack",)

    def traffic(self):
        lines = self.origin.lines()
        return {"requests": len(lines), "sent_bytes": sum(line.sent_bytes + line.request_bytes for line in lines)}
