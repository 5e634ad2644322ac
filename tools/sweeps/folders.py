"""`sapwood manifest FOLDER` of many small files, and of one large file that is all holes but for some places."""

import time

from benches.measure import measure
from benches.programs import Failure

from .scene import MIB, Ended
from .sweep import Sweep

# Files, and bytes of the large one.
LONG, SHORT = (100_000, 200 << 30), (500, 256 << 20)
FILE_BYTES = (1_024, 65_536)
PLACES = 20
MEMORY_MAX = 200 * MIB
# Of the processors: wall time depends on what else runs.
AGAIN_S_MAX = 2


class LargeFolder(Sweep):
    name = "large-folder"

    def steps(self):
        files, length = SHORT if self.is_short else LONG
        media = self.folder / "media"
        self.paint(media, files)
        self.run("small", media, files)
        yield
        with open(media / "sparse.img", "wb") as sparse:
            sparse.truncate(length)
            for _ in range(PLACES):
                sparse.seek(self.random.randrange(length - MIB))
                sparse.write(self.random.randbytes(MIB))
        self.run("large", media, 1)
        yield
        self.run("again", media, 0)
        yield

    def paint(self, media, files):
        for number in range(files):
            path = media / f"{number % 1000:03}" / f"{number:06}.dat"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.random.randbytes(self.random.randint(*FILE_BYTES)))

    def run(self, what, media, files_read):
        if files_read:
            # What changed within a second of a run is read again by the next one.
            time.sleep(1.1)
        try:
            figures = measure([self.program, "--json", "manifest", media, "--no-hints"], self.folder)
        except Failure as error:
            return self.wrong(f"{what}: {error}")
        said = Ended(0, (self.folder / "stdout").read_text(), "").event("library")
        if said["files_read"] != files_read:
            self.wrong(f"{what}: {said['files_read']} files were read, not {files_read}")
        if figures["peak_bytes"] > MEMORY_MAX:
            self.wrong(f"{what}: {figures['peak_bytes'] // MIB} MiB of memory")
        if what == "again" and figures["cpu_s"] > AGAIN_S_MAX:
            self.wrong(f"{what}: {figures['cpu_s']:.1f} s of the processors")
        self.counts[what] = {name: round(figures[name], 2) for name in ("wall_s", "user_s", "sys_s")}
        self.counts[what]["peak_mib"] = figures["peak_bytes"] // MIB

    def figure(self):
        files, length = SHORT if self.is_short else LONG
        of = lambda what: ", ".join(f"{name} {value}" for name, value in self.counts.get(what, {}).items())
        return (f"{files} files of 1 to 64 KiB: {of('small')}; then one of {length / (1 << 30):g} GiB, sparse: {of('large')}; "
                f"again, nothing changed: {of('again')}: {self['wrong']} wrong")
