"""Single bits that flip in part and journal between a kill and the next run."""

from .scene import MIB, Scene, Wrong
from .sweep import Sweep

BLOCK = 64 * 1024
MAGIC_BITS = 64


class BitFlips(Sweep):
    name = "bit-flips"
    unit = "flips"
    full = 1000
    short = 20

    def steps(self):
        scene = Scene(self.program, self.folder, 8 * MIB)
        while True:
            manifest = self.random.random() < 0.7
            scene.with_manifest(manifest)
            try:
                saved = self.half_done(scene, manifest)
                unflipped = self.resumed_bytes(scene, saved, None)
                for _ in range(25):
                    self.one(scene, saved, unflipped, manifest)
                    yield
            except Wrong as error:
                self.wrong(f"manifest: {manifest}: {error}")
                yield

    def half_done(self, scene, manifest):
        """What a run that was killed half way left."""
        scene.reset(False)
        scene.origin.rate = (24 if manifest else 4) * MIB
        # Without a manifest only what was recorded counts. A slow machine needs several runs to get somewhere.
        while scene.killed_after(self.random.uniform(0.1, 0.25) if manifest else 1.5):
            if scene.part.exists() and scene.part.stat().st_size >= MIB:
                break
        else:
            # It got to its end at once.
            return self.half_done(scene, manifest)
        scene.origin.rate = None
        return {path: path.read_bytes() for path in (scene.part, scene.journal)}

    def resumed_bytes(self, scene, saved, flip):
        if scene.target.exists():
            # The journal knows the part by its inode.
            scene.target.replace(scene.part)
        for path, content in saved.items():
            content = bytearray(content)
            if flip and flip[0] == path:
                content[flip[1] // 8] ^= 1 << flip[1] % 8
            # Blocks of zeros go back as the holes they were.
            with open(path, "wb") as file:
                for at in range(0, len(content), BLOCK):
                    piece = content[at : at + BLOCK]
                    if any(piece):
                        file.seek(at)
                        file.write(piece)
                file.truncate(len(content))
        ended = scene.fetch().must(0, 6)
        if ended.exit == 6:
            # Without a manifest and without the first bytes of the journal nobody can tell whose part it is: it is left alone.
            if not (flip and flip[0] == scene.journal and flip[1] < MAGIC_BITS):
                raise Wrong(f"exit 6: {ended.stderr}")
            self.add("refused")
            return None
        scene.must_be("new")
        return ended.event("published")["bytes_resumed"]

    def one(self, scene, saved, unflipped, manifest):
        path = self.random.choice(list(saved))
        if not saved[path]:
            return
        in_part = path == scene.part
        while True:
            bit = self.random.randrange(len(saved[path]) * 8)
            at = bit // 8 // BLOCK * BLOCK
            if not in_part or any(saved[path][at : at + BLOCK]):
                break
        self.add("flips")
        self.add("flips_in_part" if in_part else "flips_in_journal")
        resumed = self.resumed_bytes(scene, saved, (path, bit))
        if resumed is None:
            return
        # A block without a manifest has 1 MiB.
        block = BLOCK if manifest else MIB
        lost = unflipped - resumed
        if in_part and lost > block:
            raise Wrong(f"bit {bit} of the part: {lost} bytes fetched again")
        self.add("bytes_again_part" if in_part else "bytes_again_journal", max(0, lost))

    def figure(self):
        per = lambda kind: self[f"bytes_again_{kind}"] // max(1, self[f"flips_in_{kind}"]) // 1024
        return (f"{self['flips']} single bit flips between kill and resume: {self['wrong']} wrong; fetched again per flip: "
                f"{per('part')} KiB in the part ({self['flips_in_part']} flips), {per('journal')} KiB in the journal "
                f"({self['flips_in_journal']})")
