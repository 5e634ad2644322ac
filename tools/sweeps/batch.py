"""Manifests by many machines: tools/manifest_on_dask.py on a real Dask cluster, byte for byte what one run writes."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

from . import machine
from .scene import LONG_ENOUGH_S, MIB, Wrong, environment
from .sweep import Sweep

ROOT = Path(__file__).resolve().parent.parent.parent
RECIPE = ROOT / "tools" / "manifest_on_dask.py"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
PACKAGE = "distributed==2026.8.0"
WORKERS = 2
# Bytes of the object, of a range, painted places in it, files beside it.
LONG = (8 << 30, 1 << 30, 100, 2000)
SHORT = (3 * MIB + 12345, MIB, 3, 40)


class Batch(Sweep):
    """The short form has threads in the place of Dask, which is installed for the long one."""

    name = "batch"

    def steps(self):
        with contextlib.ExitStack() as stack:
            try:
                self.describe(stack)
            except Wrong as error:
                self.wrong(str(error))
        yield

    def describe(self, stack):
        length, range_bytes, places, files = SHORT if self.is_short else LONG
        bucket = self.folder / "bucket"
        self.make(bucket, length, places, files)
        made = [path for path in bucket.rglob("*") if path.is_file()]
        self.must(self.program, "--quiet", "manifest", *made)
        wanted = take_manifests(bucket)
        # Whoever runs the program is noted.
        noted = self.folder / "noted"
        program = self.folder / "sapwood"
        program.write_text(f'#!/bin/sh\necho $PPID >>{noted}\nexec {self.program} "$@"\n')
        program.chmod(0o755)
        python, words = (sys.executable, []) if self.is_short else self.start_dask(stack)
        recipe = [python, RECIPE, bucket, "--range-bytes", range_bytes, *words, "--program"]
        self.must(*recipe, program)
        if take_manifests(bucket) != wanted or len(wanted) != files + 1:
            raise Wrong("other manifests than those of one run")
        runners = set(noted.read_text().split())
        if len(runners) != (1 if self.is_short else WORKERS):
            raise Wrong(f"{len(runners)} processes ran the program")
        self.add("objects", len(wanted))
        # A worker that fails is told, and nothing stays.
        if self.start(*recipe, "false").returncode == 0:
            raise Wrong("exit 0 although the program failed")
        if {path for path in bucket.rglob("*") if path.is_file()} != set(made):
            raise Wrong("a run that failed left something")

    def make(self, bucket, length, places, files):
        (bucket / "deep").mkdir(parents=True)
        with open(bucket / "object.bin", "wb") as file:
            file.truncate(length)
            for _ in range(places):
                file.seek(self.random.randrange(length - MIB))
                file.write(self.random.randbytes(MIB))
        for number in range(files):
            path = bucket / ("deep" if number % 2 else ".") / f"file {number}"
            path.write_bytes(self.random.randbytes(self.random.randrange(100_000)))

    def start_dask(self, stack):
        """The Python that has it, and the words that name the scheduler."""
        python = machine.python_with(TARGET / "torture" / "dask", PACKAGE)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        scheduler = ["scheduler", "--host", f"tcp://{address}", "--no-dashboard"]
        workers = ["worker", f"tcp://{address}", "--nworkers", WORKERS, "--nthreads", 1, "--no-dashboard"]
        for words in (scheduler, workers):
            command = [python, "-m", "dask", *words]
            process = subprocess.Popen([*map(str, command)], cwd=self.folder, env=environment(self.folder), stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        return python, ["--scheduler", f"tcp://{address}"]

    def start(self, *words):
        return subprocess.run([*map(str, words)], cwd=self.folder, env=environment(self.folder), stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=LONG_ENOUGH_S)

    def must(self, *words):
        done = self.start(*words)
        if done.returncode != 0:
            raise Wrong(f"exit {done.returncode}: {done.stderr[-2000:]}")

    def figure(self):
        return f"{self['objects']} objects described by several workers, one of them in ranges: {self['wrong']} wrong"


def take_manifests(folder):
    """All manifests below it, which are removed."""
    taken = {}
    for path in sorted(folder.rglob("*.sapwood")):
        taken[path.relative_to(folder)] = path.read_bytes()
        path.unlink()
    return taken
