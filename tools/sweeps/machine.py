"""What the sweeps need of the machine: programs, images, mounts, a power cut."""

import contextlib
import fcntl
import functools
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

PACKAGES = {
    "aria2c": "aria2", "axel": "axel", "b3sum": "b3sum", "curl": "curl", "ip": "iproute2", "mkfs.btrfs": "btrfs-progs", "mkfs.ext4": "e2fsprogs", "mkfs.xfs": "xfsprogs",
    "rclone": "rclone", "strace": "strace", "wget2": "wget2", "eatmydata": "eatmydata",
}
# XFS_IOC_GOINGDOWN; ext4 has it too. Argument 2: what is in memory only, the log included, is lost.
SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2


class Missing(Exception):
    """The machine lacks something that could not be installed or is not allowed."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def path_of(program):
    # Programs that make file systems lie in sbin, which is not on everybody's PATH.
    return shutil.which(program, path=os.pathsep.join([*os.get_exec_path(), "/usr/sbin", "/sbin"]))


def install(programs):
    missing = sorted(PACKAGES[program] for program in programs if not path_of(program))
    if missing:
        install_packages(missing)


def install_packages(missing):
    say(f"installing {' '.join(missing)}")
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update", "-qq"],
                    ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]):
        done = subprocess.run([*as_root, *command], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            raise Missing(f"{' '.join(missing)} cannot be installed: {done.stderr[-1000:]}")


def run(*command):
    """A step that has no reason to fail but the machine."""
    command = [path_of(str(command[0])) or str(command[0]), *map(str, command[1:])]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise Missing(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")


def python_with(folder, *packages):
    """A Python that has these packages of PyPI, in a virtual environment in this folder."""
    python = folder / "bin" / "python"
    try:
        run(sys.executable, "-m", "venv", folder)
    except Missing:
        # Debian has the module without what it needs.
        install_packages(["python3-venv"])
        run(sys.executable, "-m", "venv", "--clear", folder)
    run(python, "-m", "pip", "install", "--quiet", *packages)
    return python


@functools.cache
def python_with_numpy():
    """For the second implementation."""
    has_numpy = lambda python: subprocess.run([python, "-c", "import numpy"], capture_output=True).returncode == 0
    pythons = ["python3", "/usr/bin/python3"]
    if not any(map(has_numpy, pythons)):
        install_packages(["python3-numpy"])
    return next(filter(has_numpy, pythons))


class Mounted:
    """A file system of its own: an image on a loop device, or memory."""

    def __init__(self, folder, name):
        if os.geteuid() != 0:
            raise Missing("mounting needs root")
        self.image = folder / f"{name}.image"
        self.at = folder / name
        self.at.mkdir()

    def make_image(self, kind, size):
        with open(self.image, "wb") as image:
            image.truncate(size)
        run(f"mkfs.{kind}", "-q", *(["-F"] if kind == "ext4" else ["-f"]), self.image)
        self.mount()
        return self

    def mount(self, *options):
        run("mount", "-o", ",".join(["loop", *options]), self.image, self.at)
        try:
            os.listdir(self.at)
        except OSError as error:
            raise Missing(f"the file system that was cut off is still there, held by somebody else: {error}") from error

    def mount_memory(self, options):
        run("mount", "-t", "tmpfs", "-o", options, "tmpfs", self.at)
        return self

    def remount(self, options):
        run("mount", "-o", f"remount,{options}", self.at)

    def unmount(self):
        # A process that was killed a moment ago may still be letting go of its files.
        for attempt in range(100):
            try:
                return run("umount", self.at)
            except Missing:
                if attempt == 99:
                    raise
                time.sleep(0.05)

    def cut_power(self):
        """From now on nothing reaches the disk, and what was not synced is gone."""
        folder = os.open(self.at, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(folder, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(folder)

    def close(self):
        if os.path.ismount(self.at):
            self.unmount()
        with contextlib.suppress(FileNotFoundError):
            self.image.unlink()


@contextlib.contextmanager
def memory_limit(size):
    """Yields a function for a child to call before it becomes the program."""
    name = f"sapwood-torture-{os.getpid()}"
    first, second = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    if (first / "memory.limit_in_bytes").exists():
        group, limit = first / name, "memory.limit_in_bytes"
    elif "memory" in (second / "cgroup.subtree_control").read_text().split():
        group, limit = second / name, "memory.max"
    else:
        raise Missing("neither version of memory cgroups is there")
    try:
        group.mkdir()
        (group / limit).write_text(str(size))
    except OSError as error:
        raise Missing(f"a memory cgroup cannot be made: {error}") from error
    try:
        yield lambda: (group / "cgroup.procs").write_text(str(os.getpid()))
    finally:
        for _ in range(100):
            try:
                group.rmdir()
                break
            except OSError:
                time.sleep(0.05)
