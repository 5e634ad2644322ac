"""Destinations that are in use, or where somebody else put something."""

import hashlib
import os
import time

from .scene import MIB, Scene, Wrong, remove
from .sweep import Sweep

NAMES = ("out.part", "out.part.journal")
SOMEBODY = 65_533


class Destinations(Sweep):
    name = "two-runs"

    def steps(self):
        scene = Scene(self.program, self.folder, 4 * MIB)
        for manifest in (True, False):
            scene.with_manifest(manifest)
            for old in (True, False):
                yield from self.guarded(f"two runs, manifest: {manifest}, old: {old}", lambda: self.two_runs(scene, old))
            for name in NAMES:
                for what, make in FOREIGN.items():
                    yield from self.guarded(f"{what} as {name}, manifest: {manifest}",
                                            lambda: self.foreign(scene, name, make))

    def guarded(self, what, check):
        try:
            check()
        except Wrong as error:
            self.wrong(f"{what}: {error}")
        self.add("cases")
        yield

    def two_runs(self, scene, old):
        scene.reset(old)
        scene.origin.rate = 2 * MIB
        first = scene.start()
        wait_until(scene.part.exists)
        inodes = [os.stat(path).st_ino for path in (scene.part, scene.journal)]
        stdout, stderr = (scene.folder / name for name in ("stdout", "stderr"))
        # The first one writes to its own files on; only the names are taken for the second one's.
        for path in (stdout, stderr):
            path.rename(path.with_suffix(".first"))
        began = time.monotonic()
        scene.fetch().must(5)
        # "At once" is far less than the two seconds that the first one still needs, and generous to a slow machine.
        if first.poll() is None and time.monotonic() - began > 30:
            raise Wrong("the second run did not end at once")
        if first.poll() is None and inodes != [os.stat(path).st_ino for path in (scene.part, scene.journal)]:
            raise Wrong("the second run touched the files of the first")
        for path in (stdout, stderr):
            path.with_suffix(".first").replace(path)
        scene.origin.rate = None
        scene.ended(first).must(0)
        scene.must_be("new")

    def foreign(self, scene, name, make):
        scene.reset(True)
        outside = scene.folder / "outside"
        remove(outside)
        outside.mkdir()
        precious = outside / "precious"
        precious.write_bytes(b"precious")
        path = scene.target.with_name(name)
        make(path, precious)
        before = fingerprint(outside), os.lstat(path).st_ino
        scene.fetch().must(6)
        if (fingerprint(outside), os.lstat(path).st_ino) != before:
            raise Wrong("something was touched")
        scene.must_be("old")
        remove(path)
        scene.must_finish()

    def figure(self):
        return f"{self['cases']} destinations in use or with foreign parts and journals: {self['wrong']} wrong, or anything outside touched"


def owned_by_somebody(path, _):
    path.write_bytes(b"theirs")
    os.chown(path, SOMEBODY, SOMEBODY)


def folder(path, _):
    path.mkdir()
    (path / "inside").write_bytes(b"inside")


FOREIGN = {
    "a symbolic link": lambda path, precious: path.symlink_to(precious),
    "a dangling link to elsewhere": lambda path, precious: path.symlink_to(precious.with_name("nothing")),
    "a FIFO": lambda path, _: os.mkfifo(path),
    "a hard link": lambda path, precious: path.hardlink_to(precious),
    "a file of another owner": owned_by_somebody,
    "a folder": folder,
}


def fingerprint(folder):
    return sorted((str(path), os.lstat(path).st_ino, hashlib.sha256(path.read_bytes()).hexdigest())
                  for path in folder.rglob("*"))


def wait_until(holds):
    for _ in range(3000):
        if holds():
            return
        time.sleep(0.01)
    raise Wrong("it does not begin")
