"""Power cuts on a real file system: the shutdown ioctl while the program writes, unmount, mount, look, go on."""

import os
import signal
import subprocess
import time

from .kills import ALL_CALLS, under_strace
from .machine import Mounted
from .scene import LONG_ENOUGH_S, MIB, Scene, Wrong
from .sweep import Sweep

CONTROLS = 6
# Longer than any run: a call that is delayed so long is the last one before the cut.
DELAY_US = LONG_ENOUGH_S * 1_000_000


class PowerCuts(Sweep):
    unit = "cuts"
    full = 1000
    short = 10
    size = 0
    programs = ("strace", "eatmydata")

    def steps(self):
        kind = self.name.removeprefix("power-")
        self.disk = Mounted(self.folder, "disk").make_image(kind, self.size)
        scene = Scene(self.program, self.folder, 4 * MIB)
        scene.target = self.disk.at / "out"
        # A sweep that could not see a missing sync would prove nothing.
        self.control(scene)
        yield
        fetches = 0
        while True:
            fetches += 1
            manifest, old = fetches % 3 != 0, fetches % 2 == 0
            scene.with_manifest(manifest)
            trail = []
            try:
                yield from self.one_fetch(scene, old, manifest, trail)
            except Wrong as error:
                self.wrong(f"manifest: {manifest}, old: {old}, cuts: {', '.join(trail)}: {error}")
            yield

    def prepare(self, scene, old):
        scene.reset(old)
        run_sync(scene)

    def one_fetch(self, scene, old, manifest, trail):
        """Cuts, until a run gets to its end between two of them."""
        allowed = {"old" if old else "absent", "new"}
        self.prepare(scene, old)
        for _ in range(100):
            moment = self.random.choices(("time", "call", "rename", "end"), (4, 3, 1, 1))[0]
            # The kernel may have written any of it before the power went.
            written = self.random.choice(("nothing", "nothing", "part", "journal", "all"))
            trail.append(f"{moment} with {written} written")
            child = getattr(self, "until_" + moment)(scene, manifest)
            done = child.poll()
            self.write_back(scene, written)
            self.cut(scene, child)
            self.add("cuts")
            self.add(f"cuts_{moment}")
            if done is not None:
                # What it said when it ended must be so.
                scene.ended(child).must(0)
                scene.must_be("new")
                return
            scene.must_be(*allowed)
            if scene.state() == "new":
                allowed = {"new"}
            yield
        scene.origin.rate = None
        scene.must_finish()

    def until_time(self, scene, manifest):
        scene.origin.rate = 6 * MIB
        child = scene.start()
        wait(child, self.random.uniform(0, 0.7 if manifest else 1.5))
        return child

    def until_end(self, scene, _):
        scene.origin.rate = None
        child = scene.start()
        wait(child, LONG_ENOUGH_S)
        return child

    def until_rename(self, scene, _):
        """As close behind the rename as can be seen from outside."""
        scene.origin.rate = None
        before = inode(scene.target)
        child = scene.start()
        while child.poll() is None and inode(scene.target) == before:
            pass
        return child

    def until_call(self, scene, _):
        """Right behind the n-th call that changes something."""
        scene.origin.rate = self.random.choice((None, 6 * MIB))
        calls = self.random.choice((ALL_CALLS, ALL_CALLS, "fsync", "fdatasync", "renameat,renameat2", "unlinkat", "pwrite64"))
        number = self.random.randint(1, {ALL_CALLS: 12, "pwrite64": 4}.get(calls, 2))
        trace = scene.folder / "trace"
        trace.unlink(missing_ok=True)
        injected = f"inject={calls}:delay_exit={DELAY_US}:when={number}"
        child = scene.start(before=["strace", "-f", "-qq", "-o", str(trace), "-e", f"trace={calls}", "-e", injected])
        while child.poll() is None:
            time.sleep(0.005)
            if trace.exists() and b"(DELAYED)" in trace.read_bytes():
                break
        return child

    def write_back(self, scene, what):
        paths = {"part": [scene.part], "journal": [scene.journal], "all": [scene.part, scene.journal, scene.target]}
        for path in paths.get(what, []):
            try:
                file = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                continue
            os.fsync(file)
            os.close(file)

    def cut(self, scene, child):
        running = child.poll() is None
        if running:
            # A program that ran on could be told that all is well: XFS then syncs a folder without an error.
            os.killpg(child.pid, signal.SIGKILL)
        self.disk.cut_power()
        if running:
            scene.kill(child)
        self.disk.unmount()
        self.disk.mount()

    def control(self, scene):
        """With syncs that do nothing the same check must fail. The library does not see our syncs of folders, which are system
        calls of our own, and xfs writes data when a file gets its length: then nothing is lost. So the lying disk is there too."""
        controls = {
            "eatmydata": ["eatmydata"],
            "a lying disk": under_strace("trace=fsync,fdatasync", "inject=fsync,fdatasync:retval=0"),
        }
        scene.origin.rate = None
        failed = 0
        scene.with_manifest(True)
        for before in controls.values():
            for attempt in range(CONTROLS):
                self.prepare(scene, attempt % 2 == 0)
                scene.fetch(before=before).must(0)
                self.disk.cut_power()
                self.disk.unmount()
                self.disk.mount()
                try:
                    scene.must_be("new")
                except Wrong:
                    failed += 1
        self.add("controls", CONTROLS * len(controls))
        self.add("controls_failed", failed)
        if failed == 0:
            self.wrong("no control failed: without syncs nothing was lost in a power cut, so this sweep sees nothing")

    def close(self):
        if hasattr(self, "disk"):
            self.disk.close()

    def figure(self):
        moments = ", ".join(f"{self[f'cuts_{moment}']} {what}" for moment, what in
                            (("time", "at random"), ("call", "behind the n-th call"), ("rename", "behind the rename"), ("end", "at the end")))
        return (f"{self['cuts']} power cuts ({moments}): {self['wrong']} wrong or stuck; "
                f"the controls without syncs failed {self['controls_failed']} of {self['controls']} times, as they must")


class PowerCutsExt4(PowerCuts):
    name = "power-ext4"
    programs = (*PowerCuts.programs, "mkfs.ext4")
    size = 64 * MIB


class PowerCutsXfs(PowerCuts):
    name = "power-xfs"
    programs = (*PowerCuts.programs, "mkfs.xfs")
    size = 320 * MIB


def run_sync(scene):
    subprocess.run(["sync", "-f", scene.target.parent], check=True)


def wait(child, seconds):
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        pass


def inode(path):
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return None
