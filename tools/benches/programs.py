"""The programs that are measured: where they are, which versions, and how they get here."""

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
# Peers that come from crates are built once and kept where git does not look.
CRATE_CACHE = TARGET / "bench-tools"


class Failure(Exception):
    """Ends the run with exit code 1 and its message."""


@dataclass(frozen=True)
class Program:
    version: str
    """The argument that makes it print its version in the first line."""
    version_exit: int = 0
    """The exit code that it then has."""
    package: str = ""
    """The Debian package that holds it, or"""
    pypi: str = ""
    """the package of PyPI, or"""
    crate: str = ""
    """the crate, of which we want"""
    pinned: str = ""
    """this version, or a later one that has these leading parts."""


PROGRAMS = {
    "sapwood": Program("--version"),
    "aria2c": Program("--version", package="aria2"),
    "aws": Program("--version", pypi="awscli"),
    "b3sum": Program("--version", crate="b3sum", pinned="1.8.7"),
    "apt-cache": Program("--version"),
    "apt-get": Program("--version"),
    "bash": Program("--version", package="bash"),
    "bita": Program("--version", crate="bita", pinned="0.15"),
    "cargo": Program("--version"),
    "casync": Program("--version", package="casync"),
    "cached_read": Program(""),
    "curl": Program("--version", package="curl"),
    "debugfs": Program("-V", package="e2fsprogs"),
    "delta_count": Program("--version"),
    "index_count": Program("--version"),
    "ffmpeg": Program("-version", package="ffmpeg"),
    "mke2fs": Program("-V", package="e2fsprogs"),
    "mktorrent": Program("-h", package="mktorrent"),
    "nginx": Program("-v", package="nginx-light"),
    "npm": Program("--version", package="npm"),
    "pip": Program("--version"),
    "openssl": Program("version", package="openssl"),
    "dpkg-deb": Program("--version"),
    "relay": Program(""),
    "rsync": Program("--version", package="rsync"),
    "rclone": Program("version", package="rclone"),
    "tar": Program("--version", package="tar"),
    "wrk": Program("-v", version_exit=1, package="wrk"),
    "wget2": Program("--version", package="wget2"),
    "zsync": Program("-V", package="zsync"),
    "zsyncmake": Program("-V", package="zsync"),
    "zstd": Program("--version", package="zstd"),
}


# Programs of this project, and where a build leaves them.
OURS = {"sapwood": ".", "cached_read": "examples", "delta_count": "examples", "index_count": "examples", "relay": "examples"}


def find_program(name):
    """The path of a program in a version that we accept, or None."""
    if name in OURS:
        folders = [TARGET / "release" / OURS[name]]
    elif PROGRAMS[name].pypi:
        folders = [python_folder(name) / "bin"]
    else:
        # Servers lie in sbin, which is not on everybody's PATH.
        folders = [CRATE_CACHE / "bin", *os.get_exec_path(), "/usr/sbin", "/sbin"]
    path = shutil.which(name, path=os.pathsep.join(map(str, folders)))
    pinned = PROGRAMS[name].pinned
    if path and pinned:
        numbers = re.search(r"\b\d+(\.\d+)+", version_of(name, path))
        if not numbers or not f"{numbers[0]}.".startswith(f"{pinned}."):
            return None
    return path


def python_folder(name):
    """A virtual environment of its own: one of the user's may need the user's home."""
    return CRATE_CACHE / PROGRAMS[name].pypi


def version_of(name, path):
    if not PROGRAMS[name].version:
        return "ours"
    run = subprocess.run([path, PROGRAMS[name].version], capture_output=True, text=True)
    lines = (run.stdout + run.stderr).strip().splitlines()
    if run.returncode != PROGRAMS[name].version_exit or not lines:
        raise Failure(f"{name} does not tell its version: exit {run.returncode}")
    # curl names every library that it was linked with.
    return " ".join(lines[0].split()[:8])


def install(name):
    program = PROGRAMS[name]
    if program.crate:
        # By force, because another version may lie there.
        commands = [["cargo", "install", "--quiet", "--locked", "--force", "--root", str(CRATE_CACHE),
                     "--version", f"={program.pinned}", program.crate]]
    elif program.pypi:
        folder = python_folder(name)
        commands = [[sys.executable, "-m", "venv", "--clear", str(folder)],
                    [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", program.pypi]]
    else:
        commands = [["apt-get", "-qq", "update"],
                    ["apt-get", "-qq", "install", "-y", "--no-install-recommends", program.package]]
    say(f"{name} is missing: {shlex.join(commands[-1])}")
    for command in commands:
        # Packages ask questions unless they are told that nobody is there.
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        try:
            run = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        except OSError as error:
            raise Failure(f"{name} is missing, and {command[0]} cannot be started: {error.strerror}") from error
        if run.returncode != 0:
            raise Failure(f"{name} is missing, and installing it failed: {shlex.join(command)}\n{run.stderr[-2000:]}")


@functools.cache
def program_path(name):
    path = find_program(name)
    if not path and name not in OURS:
        install(name)
        path = find_program(name)
    if not path:
        raise Failure(f"{name} is missing" + (f" in {TARGET / 'release' / OURS[name]}" if name in OURS else ""))
    return path


def run(name, *words, **options):
    """Runs a program that nobody measures, and returns what it printed. A Failure if it failed."""
    command = [name, *map(str, words)]
    done = subprocess.run([program_path(name), *command[1:]], **{"stdout": subprocess.PIPE} | options, stdin=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise Failure(f"{shlex.join(command)} failed\n{done.stderr[-2000:]}")
    return done.stdout


def build():
    command = ["cargo", "build", "--release", "--bin", "sapwood", "--example", "delta_count", "--example", "index_count",
               "--example", "relay", "--example", "cached_read"]
    say(shlex.join(command))
    if subprocess.run(command, cwd=ROOT, stdout=sys.stderr).returncode != 0:
        raise Failure(f"{shlex.join(command)} failed")


def say(text):
    print(text, file=sys.stderr, flush=True)
