"""Blocks that a new version has in common with an old one take no room twice, where the file system can share them."""

import os

from .machine import Mounted, run
from .scene import MIB, Scene, Wrong, painted
from .sweep import Sweep

LENGTH = 64 * MIB
PAGE = 4096
# Nodes, journal and what changed; everything else must be shared.
GROWTH_MAX = 8 * MIB


class SharedBlocks(Sweep):
    name = "shared"
    programs = ("mkfs.xfs", "mkfs.btrfs")

    def steps(self):
        old = painted(LENGTH, 3)
        changed = bytearray(old)
        changed[10 * PAGE : 11 * PAGE] = painted(PAGE, 4)
        versions = {"a page changed": bytes(changed), "16 pages in front": painted(16 * PAGE, 5) + old}
        for kind in ("xfs", "btrfs"):
            for what, new in versions.items():
                disk = Mounted(self.folder, kind).make_image(kind, 512 * MIB)
                try:
                    self.one(disk, old, new)
                except Wrong as error:
                    self.wrong(f"{kind}, {what}: {error}")
                finally:
                    disk.close()
                    disk.at.rmdir()
                self.add("versions")
                yield

    def one(self, disk, old, new):
        scene = Scene(self.program, self.folder, MIB)
        scene.serve(new)
        scene.target, seed = disk.at / "out", disk.at / "old"
        seed.write_bytes(old)
        before = used(disk)
        scene.fetch("--seed", seed, "--no-store").must(0)
        scene.must_be("new")
        grown = used(disk) - before
        self.counts["most_kib"] = max(self["most_kib"], grown // 1024)
        if grown > GROWTH_MAX:
            raise Wrong(f"a version of {len(new)} bytes took {grown} bytes more")

    def figure(self):
        return (f"{self['versions']} versions of {LENGTH // MIB} MiB on xfs and btrfs took at most {self['most_kib']} KiB more: "
                f"{self['wrong']} wrong")


def used(disk):
    run("sync", "-f", disk.at)
    stat = os.statvfs(disk.at)
    return (stat.f_blocks - stat.f_bfree) * stat.f_frsize
