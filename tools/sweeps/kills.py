"""SIGKILL, at every call that changes something and at random moments."""

from .scene import MIB, NAME, Scene, Wrong
from .sweep import Sweep

# Every call by which a fetch changes a disk. Each is counted by thread, so the sweep over all of them together and those over
# each kind alone stop at different moments.
CALLS = ("pwritev", "pwrite64", "write", "openat", "ftruncate", "fchmod", "fsync", "fdatasync",
         "renameat,renameat2", "unlinkat", "flock")
ALL_CALLS = "pwritev,pwrite64,ftruncate,fchmod,fsync,fdatasync,renameat,renameat2,unlinkat"
KILLED = -9


def under_strace(*expressions):
    return ["strace", "-f", "-qq", "-o", "/dev/null", *(word for text in expressions for word in ("-e", text))]


class KillsAtCalls(Sweep):
    name = "kills-call"
    programs = ("strace",)
    short = 30
    unit = "kills"
    full = 10**9

    def steps(self):
        scene = Scene(self.program, self.folder, 16 * MIB)
        kinds = ("renameat,renameat2", "unlinkat", "fsync", ALL_CALLS) if self.is_short else (*CALLS, ALL_CALLS)
        for manifest in (True, False):
            scene.with_manifest(manifest)
            for old in (False, True):
                for calls in kinds:
                    yield from self.every(scene, calls, manifest, old)

    def every(self, scene, calls, manifest, old):
        for number in range(1, 1000):
            if self.is_short and number > 3 and self.random.random() < 0.7:
                continue
            try:
                scene.reset(old)
                ended = scene.fetch(before=under_strace(f"trace={calls}", f"inject={calls}:signal=KILL:when={number}"))
                scene.must_be("new", "old" if old else "absent")
                if ended.exit not in (KILLED, 128 + 9):
                    # No thread makes so many of these calls: this kind is done.
                    ended.must(0)
                    return
                self.add("kills")
                scene.must_finish()
                self.add("bytes_again", max(0, scene.origin.sent_of(NAME) - len(scene.content)))
            except Wrong as error:
                self.wrong(f"before call {number} of {calls}, manifest: {manifest}, old: {old}: {error}")
            yield

    def figure(self):
        return (f"{self['kills']} kills before the n-th call of a fetch of 16 MiB: {self['wrong']} wrong or stuck, "
                f"{self['bytes_again'] // max(1, self['kills']) // 1024} KiB fetched again per kill")


class KillsAtRandom(Sweep):
    name = "kills-random"
    unit = "kills"
    full = 1000
    short = 25

    def steps(self):
        scene = Scene(self.program, self.folder, 16 * MIB)
        scene.origin.rate = 8 * MIB
        fetches = 0
        while True:
            fetches += 1
            # Without a manifest a block has 1 MiB, and each of eight connections needs a second for one: kills come less often there.
            manifest, old = fetches % 4 != 1, fetches // 2 % 2 == 0
            scene.with_manifest(manifest)
            scene.reset(old)
            try:
                kills = 0
                # Longer from kill to kill, so that a slow machine gets anywhere too.
                while scene.killed_after(self.random.uniform(0, (0.3 if manifest else 3) * (1 + kills / 20))):
                    self.add("kills")
                    kills += 1
                    scene.must_be("new", "old" if old else "absent")
                    if kills > 200:
                        raise Wrong("it makes no progress")
                # Not once more: without a manifest that would fetch all of it again.
                scene.must_be_finished()
                again = max(0, scene.origin.sent_of(NAME) - len(scene.content))
                kind = "with" if manifest else "without"
                self.add(f"kills_{kind}", kills)
                self.add(f"again_{kind}", again)
            except Wrong as error:
                self.wrong(f"manifest: {manifest}, old: {old}: {error}")
            yield

    def figure(self):
        per = lambda kind: self[f"again_{kind}"] // max(1, self[f"kills_{kind}"]) // 1024
        return (f"{self['kills']} kills at random: {self['wrong']} wrong or stuck, fetched again per kill by the origin's count: "
                f"{per('with')} KiB with a manifest ({self['kills_with']} kills), {per('without')} KiB without "
                f"({self['kills_without']} kills)")
