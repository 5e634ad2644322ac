"""The n-th call fails, once and for ever."""

import subprocess

from .kills import under_strace
from .scene import MIB, Scene, Wrong
from .sweep import Sweep

# Only calls on our own files: of a loader that cannot open its libraries there is nothing to learn.
CALLS = ("pwritev", "pwrite64", "pread64", "fsync", "fdatasync", "openat", "renameat,renameat2", "ftruncate", "fchmod", "unlinkat")
ERRORS = ("EIO", "ENOSPC")
NOT_ENDED = 40


class IoErrors(Sweep):
    name = "io-errors"
    programs = ("strace",)
    unit = "errors"
    full = 10**9
    short = 40

    def steps(self):
        scene = Scene(self.program, self.folder, 8 * MIB)
        cases = [(manifest, resumed, call, error, ever)
                 for manifest in (True, False) for resumed in (False, True)
                 for call in CALLS for error in ERRORS for ever in (False, True)]
        if self.is_short:
            self.random.shuffle(cases)
        for manifest, resumed, call, error, ever in cases:
            scene.with_manifest(manifest)
            yield from self.every(scene, resumed, call, error, ever)
        self.lying_disk(scene)
        yield

    def every(self, scene, resumed, call, error, ever):
        for number in range(1, NOT_ENDED):
            try:
                scene.reset(True)
                if resumed:
                    self.leave_a_part(scene)
                injected = f"inject={call}:error={error}:when={number}{'+' if ever else ''}"
                ended = scene.fetch(before=[*under_strace(f"trace={call}", injected), *own_paths(scene)])
                scene.must_be("new", "old")
                if ended.exit == 0:
                    scene.must_be("new")
                else:
                    ended.must(7)
                self.add("errors")
                self.add(f"exit_{ended.exit}")
                scene.must_finish()
                if ended.exit == 0 and number > 2:
                    return
            except Wrong as cause:
                self.wrong(f"{error} from call {number}{'+' if ever else ''} of {call}, resumed: {resumed}, "
                           f"manifest: {scene.has_manifest}: {cause}")
            yield

    def leave_a_part(self, scene):
        """A run that was stopped half way, with a checkpoint."""
        scene.origin.rate = 16 * MIB
        child = scene.start()
        try:
            child.wait(0.25)
        except subprocess.TimeoutExpired:
            child.terminate()
        scene.ended(child)
        scene.origin.rate = None
        scene.target.write_bytes(scene.old)

    def lying_disk(self, scene):
        """Syncs that do nothing and say that they did: wrong only after a power cut, so here all is right."""
        try:
            scene.reset(True)
            scene.fetch(before=under_strace("trace=fsync,fdatasync", "inject=fsync,fdatasync:retval=0")).must(0)
            scene.must_be("new")
        except Wrong as cause:
            self.wrong(f"a disk that lies about syncs: {cause}")

    def figure(self):
        exits = ", ".join(f"exit {code}: {self[f'exit_{code}']}" for code in (0, 1, 5, 7) if self[f"exit_{code}"])
        return f"{self['errors']} runs with an I/O error, once and for ever ({exits}): {self['wrong']} panics, false successes or stuck"


def own_paths(scene):
    """Full paths for open files, names for those that are opened below a folder."""
    paths = [scene.part, scene.journal, scene.target, scene.folder]
    return [word for path in paths for word in ("-P", str(path), "-P", path.name)]
