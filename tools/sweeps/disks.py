"""Disks that are full, out of inodes or read-only, and little memory."""

import os
import subprocess
import time

from .machine import Mounted, memory_limit
from .scene import MIB, Scene, Wrong
from .sweep import Sweep


class FullDisks(Sweep):
    name = "full-disk"
    programs = ("mkfs.btrfs", "mkfs.ext4")

    def steps(self):
        scene = Scene(self.program, self.folder, 8 * MIB)
        own = lambda name: Mounted(self.folder, name)
        makers = {
            "memory": lambda: own("memory").mount_memory("size=24m"),
            "ext4": lambda: own("ext4").make_image("ext4", 48 * MIB),
        }
        for manifest in (True, False):
            scene.with_manifest(manifest)
            for name, make in makers.items():
                for when in ("before", "during"):
                    yield from self.one(f"{name}, full {when} the run, manifest: {manifest}", scene, make, self.fill, when)
            yield from self.one(f"no inodes, manifest: {manifest}", scene,
                                lambda: own("inodes").mount_memory("nr_inodes=4"), self.take_inodes, "before")
            yield from self.one(f"read-only, manifest: {manifest}", scene, makers["ext4"], self.forbid, "before")
        yield from self.full_for_the_store(scene)

    def one(self, what, scene, make, fill, when):
        disk = make()
        home = scene.target
        scene.target = disk.at / "out"
        try:
            scene.reset(True)
            if when == "before":
                scene.origin.rate = 8 * MIB
                scene.killed_after(0.3)
                undo = fill(disk)
                ended = scene.fetch()
            else:
                scene.origin.rate = 4 * MIB
                child = scene.start()
                time.sleep(0.5)
                undo = fill(disk)
                ended = scene.ended(child)
            ended.must(7)
            scene.must_be("old")
            scene.origin.rate = None
            undo()
            scene.must_finish()
        except Wrong as error:
            self.wrong(f"{what}: {error}")
        finally:
            scene.target = home
            disk.close()
            disk.at.rmdir()
        self.add("cases")
        yield

    def full_for_the_store(self, scene):
        """The disk of the store becomes full while a fetch to another one runs: a warning, and the fetch succeeds."""
        scene.with_manifest(True)
        for kind in ("ext4", "btrfs"):
            disk = Mounted(self.folder, "store").make_image(kind, 128 * MIB)
            try:
                scene.reset(False)
                scene.origin.rate = 6 * MIB
                child = scene.start("--store", disk.at / "store")
                time.sleep(0.5)
                self.fill(disk)
                scene.ended(child).must(0)
                scene.must_be_finished()
            except Wrong as error:
                self.wrong(f"{kind}, full for the store: {error}")
            finally:
                scene.origin.rate = None
                disk.close()
                disk.at.rmdir()
            self.add("cases")
            yield

    def fill(self, disk):
        filler = disk.at / "filler"
        with open(filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(os.urandom(65536))
            except OSError:
                pass
        return filler.unlink

    def take_inodes(self, disk):
        # The part of the run before holds one; it goes, so that this run needs what is not there.
        for name in ("out.part", "out.part.journal"):
            (disk.at / name).unlink(missing_ok=True)
        taken = []
        try:
            for number in range(100):
                path = disk.at / f"inode{number}"
                path.touch()
                taken.append(path)
        except OSError:
            pass
        return lambda: [path.unlink() for path in taken]

    def forbid(self, disk):
        disk.remount("ro")
        return lambda: disk.remount("rw")

    def figure(self):
        return f"{self['cases']} disks full before or during a run, out of inodes, read-only: {self['wrong']} wrong"


class LittleMemory(Sweep):
    name = "memory"

    def steps(self):
        length, limit = (256 * MIB, 100 * MIB) if self.is_short else (1024 * MIB, 100 * MIB)
        scene = Scene(self.program, self.folder, length)
        for manifest in (True, False):
            scene.with_manifest(manifest)
            try:
                scene.reset(False)
                with memory_limit(limit) as join:
                    scene.fetch(preexec=join).must(0)
                scene.must_be("new")
            except (Wrong, subprocess.SubprocessError) as error:
                self.wrong(f"{length // MIB} MiB, manifest: {manifest}: {error}")
            self.add("fetches")
            self.counts["largest"] = max(self["largest"], length // MIB)
            yield

    def figure(self):
        return f"{self['fetches']} fetches of up to {self['largest']} MiB in 100 MiB of memory, page cache included: {self['wrong']} wrong"
