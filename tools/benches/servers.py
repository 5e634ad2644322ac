"""Real servers: fetched fresh, killed and resumed, fetched again, replaced midway."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from .measure import clean_environment
from .origin import Origin
from .programs import ROOT, Failure, program_path, say
from .section import Section, hash_of
from .served import SERVERS
from .serving import INSTALL, READY, Serving, installed_version
from .wire import Wire

SIZE = 64 << 20
# Slow enough that a run is killed in the middle, and not at its end.
STOP_RATE = 12 << 20
# A server may keep what it knows of a file for a second or two.
REPLACED_S = 3
RUN_TIMEOUT_S = 180
STOP_TIMEOUT_S = 30
# Of the size, over all runs of a scenario. Without a manifest what came in the last quarter of a second is not recorded.
WASTE_MAX = {True: 1.05, False: 1.05 + STOP_RATE / 4 / SIZE}
# What has been sent when a client that knows enough ends a response.
UNCHANGED_MAX = 1 << 20
NAME = "object.bin"
TABLE = Path(__file__).with_suffix(".md")
# Folders of one server: whether a manifest is beside the object. What is replaced is not fetched in another scenario,
# since a cache may keep the old one.
PLACES = {"kept": True, "moved": True, "bare": False, "bare-moved": False}
COLUMNS = ["fresh", "killed, resumed", "unchanged", "replaced midway"]


class Cell:
    """What a scenario came to: its text in the table, and what is wrong with it, if anything."""

    def __init__(self, text, wrong="", runs=()):
        self.text, self.wrong, self.runs = text, wrong, list(runs)

    def __str__(self):
        return f"**{self.text}**" if self.wrong else self.text


class Run:
    """A program that was run to its end, or until half of the object had passed."""

    def __init__(self, command, folder, wire, stop=None):
        self.tally = wire.begin(STOP_RATE if stop else 0, SIZE // 2 if stop else 0)
        with open(folder / "stdout", "wb") as stdout, open(folder / "stderr", "wb") as stderr:
            child = subprocess.Popen(command, cwd=folder, env=clean_environment(folder), stdin=subprocess.DEVNULL, stdout=stdout,
                                     stderr=stderr)
            deadline = time.monotonic() + RUN_TIMEOUT_S
            try:
                while child.poll() is None and not self.tally.stopped.is_set() and time.monotonic() < deadline:
                    time.sleep(0.005)
                self.timed_out = time.monotonic() >= deadline
                if child.poll() is None:
                    child.send_signal(signal.SIGKILL if self.timed_out else stop)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(STOP_TIMEOUT_S)
                self.timed_out |= child.poll() is None
            finally:
                child.kill()
                self.exit = child.wait()
        self.printed = (folder / "stdout").read_text(errors="replace")
        self.said = (folder / "stderr").read_text(errors="replace").strip()
        wire.begin()

    @property
    def ended(self):
        return "no end" if self.timed_out else f"exit {self.exit}"

    def told(self):
        return {"exit": self.ended, "sent_bytes": self.tally.sent, "requests": [str(each) for each in self.tally.requests],
                "stderr": self.said[-1000:]}


class Row:
    """One server and what came of each scenario."""

    def __init__(self, section, server):
        self.section, self.server = section, server
        self.version = self.problem = ""
        self.curl, self.cells = Cell("-"), {}

    def fill(self, bench, origin):
        """Everything about one server; what keeps it from being measured is its problem."""
        here = bench.work / "server"
        shutil.rmtree(here, ignore_errors=True)
        here.mkdir()
        try:
            self.version = installed_version(self.server)
            self.section.publish_all(origin.www)
            with Serving(self.server, here, origin.www, origin.port) as serving, Wire(serving.port) as wire:
                self.wire = wire
                self.control()
                for manifest in (True, False):
                    cells = [*self.kept(manifest), self.replaced(manifest)]
                    self.cells[manifest] = dict(zip(COLUMNS, cells))
        except Failure as failure:
            # The table is for all machines.
            self.problem = str(failure).splitlines()[0].replace(str(bench.work), "WORK").replace(f"{ROOT}/", "")

    def url(self, place):
        return f"http://127.0.0.1:{self.wire.port}/{place}/{NAME}"

    @contextlib.contextmanager
    def folder(self):
        folder = self.section.bench.fresh_run()
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    def curl_run(self, folder, place, *more, stop=None):
        command = [program_path("curl"), "--silent", "--show-error", "--fail", "--noproxy", "*", *more, "-o", "out", self.url(place)]
        return Run(command, folder, self.wire, stop)

    def fetch(self, folder, place, stop=None):
        command = [program_path("sapwood"), "fetch", self.url(place), "-o", "out", "--json", "--patience", "30s"]
        return Run(command, folder, self.wire, stop)

    def control(self):
        """What curl makes of this server: a plain GET, and `-C -` after a kill."""
        with self.folder() as folder:
            plain = self.curl_run(folder, "kept")
            self.reachable = plain.exit == 0 and self.section.version_in(folder) == "old"
        with self.folder() as folder:
            runs = [self.curl_run(folder, "kept", stop=signal.SIGKILL), self.curl_run(folder, "kept", "-C", "-")]
            self.ranges = runs[1].exit == 0 and self.section.version_in(folder) == "old" and sent(runs) < WASTE_MAX[True]
        validators = self.validators("kept")
        self.versions = any(validators)
        text = "resumes" if self.ranges else f"no: {runs[1].ended}"
        self.curl = Cell(text + ("" if self.versions else ", no validator"), "" if self.reachable else "GET failed", [plain, *runs])

    def validators(self, place):
        """The strong entity tag and the date by which a client can tell versions apart."""
        with self.folder() as folder:
            run = self.curl_run(folder, place, "--dump-header", "-", "--range", "1000-1999", "--max-filesize", "1000")
            fields = dict(line.lower().split(": ", 1) for line in run.printed.splitlines() if ": " in line)
        tag = fields.get("etag", "")
        return (tag if tag.startswith('"') else "", fields.get("last-modified", ""))

    def kept(self, manifest):
        """Fresh, resumed and unchanged."""
        place = "kept" if manifest else "bare"
        with self.folder() as folder:
            fresh = self.fetch(folder, place)
            yield self.whole([fresh], folder, manifest)
            again = self.fetch(folder, place)
            unchanged = self.whole([again], folder, manifest)
        for _ in range(2):
            with self.folder() as folder:
                resumed = self.whole([self.fetch(folder, place, stop=signal.SIGKILL), self.fetch(folder, place)], folder, manifest)
            # On a busy machine a killed client may not have read what was sent; that is not so twice.
            if resumed.wrong != "waste":
                break
        yield resumed
        if not unchanged.wrong:
            unchanged.text = f"{again.tally.sent / 1000:.1f} kB, {len(again.tally.requests)}"
            if again.tally.sent > UNCHANGED_MAX and (manifest or self.versions):
                unchanged.wrong = "much is sent again"
        yield unchanged

    def whole(self, runs, folder, manifest):
        """The old version must be there, for little more than its size."""
        last = runs[-1]
        ratio, found = sent(runs), self.section.version_in(folder)
        if last.exit != 0:
            return Cell(last.ended, "failed where curl does not" if self.reachable else "", runs)
        if found != "old":
            return Cell(f"exit 0, {found}", "wrong bytes", runs)
        text = f"{ratio:.2f}, {sum(len(run.tally.requests) for run in runs)}"
        # Nobody can go on where there are no ranges; where versions have no names, only what can prove them.
        resumes = self.ranges and (manifest or self.versions)
        wasted = ratio > WASTE_MAX[manifest] and (resumes or len(runs) == 1)
        return Cell(text, "waste" if wasted else "", runs)

    def replaced(self, manifest):
        """Stopped in the middle; then another version is there; then the same command again."""
        place = "moved" if manifest else "bare-moved"
        with self.folder() as folder:
            stopped, before = self.fetch(folder, place, stop=signal.SIGTERM), self.validators(place)
            self.section.publish(self.section.www / place, "new", manifest)
            time.sleep(REPLACED_S)
            runs = [stopped, self.fetch(folder, place)]
            found = self.section.version_in(folder)
            if runs[1].exit == 4 and found in ("old", "new", "nothing"):
                return Cell("exit 4", "", runs)
            if runs[1].exit != 0:
                return Cell(runs[1].ended, "failed where curl does not" if self.reachable else "", runs)
            if found == "new":
                return Cell(f"new, {sent(runs):.2f}", "", runs)
            if found == "old" and self.curl_gets(place) == "old":
                return Cell("old, as curl", "", runs)
            if not manifest and self.versions and self.validators(place) == before:
                return Cell("mixed: no validator moved", "", runs)
            return Cell(f"exit 0, {found}", "wrong bytes", runs)

    def curl_gets(self, place):
        with self.folder() as folder:
            self.curl_run(folder, place)
            return self.section.version_in(folder)

    def all_cells(self):
        yield "curl", self.curl
        for manifest, cells in self.cells.items():
            for column, cell in cells.items():
                yield f"{column}, {'manifest' if manifest else 'no manifest'}", cell

    def wrong(self):
        if self.problem:
            return [f"{self.server.name}: {self.problem}"]
        return [f"{self.server.name}: {name}: {cell.text} ({cell.wrong})" for name, cell in self.all_cells() if cell.wrong]

    def line(self):
        first = [self.server.name, f"{self.version} ({self.server.source})" if self.version and self.server.source in INSTALL else self.version]
        if self.problem:
            return [*first, f"**{self.problem}**", *[""] * (2 * len(COLUMNS))]
        return [*first, str(self.curl), *(str(cell) for cells in self.cells.values() for cell in cells.values())]

    def told(self):
        return {"version": self.version, "problem": self.problem,
                "cells": {name: {"text": cell.text, "wrong": cell.wrong, "runs": [run.told() for run in cell.runs]}
                          for name, cell in self.all_cells()}}


def sent(runs):
    return sum(run.tally.sent for run in runs) / SIZE


class Servers(Section):
    """Fetches of 64 MiB from real servers: bytes on the wire beside the size and requests; what is wrong is bold."""

    name = "servers"
    contenders = SERVERS

    def programs(self):
        return {"b3sum", "curl", "nginx", "sapwood"}

    def run(self):
        self.make_versions()
        rows = []
        for server in self.selected:
            say(f"{self.name}: {server.name}")
            # For the servers that pass on what another one has; each row has its own, so that nothing is left of the last.
            with Origin(self.bench.work) as origin:
                self.www = origin.www
                row = Row(self, server)
                row.fill(self.bench, origin)
            shutil.rmtree(origin.folder)
            shutil.rmtree(self.bench.work / "server")
            for problem in row.wrong():
                say(f"  {problem}")
            rows.append(row)
        text = table(rows)
        if self.bench.write:
            TABLE.write_text(f"{INTRODUCTION}\n{table(rows, lines_of_table())}")
        return {"table": text, "rows": {row.server.name: row.told() for row in rows},
                "wrong": [problem for row in rows for problem in row.wrong()]}

    def show(self, report):
        print(report["table"])

    def make_versions(self):
        """Two versions of one size, with their manifests, and times that every server can tell apart."""
        self.roots = {}
        now = time.time()
        for age, version in ((200_000, "old"), (100_000, "new")):
            folder = self.bench.work / version
            folder.mkdir()
            path = folder / NAME
            with open(path, "wb") as data:
                subprocess.run([program_path("b3sum"), "--raw", "--length", str(SIZE)], input=version.encode(), stdout=data, check=True)
            subprocess.run([program_path("sapwood"), "--quiet", "manifest", path], env=clean_environment(folder), check=True,
                           stdout=subprocess.DEVNULL)
            for each in (path, path.with_name(f"{NAME}.sapwood")):
                os.utime(each, (now - age, now - age))
            self.roots[hash_of(path)] = version

    def publish_all(self, www):
        (www / READY).write_text("ready\n")
        # Others than root must read it too.
        for folder in (self.bench.work, www.parent, www):
            folder.chmod(0o755)
        for place, manifest in PLACES.items():
            (www / place).mkdir()
            self.publish(www / place, "old", manifest)

    def publish(self, folder, version, manifest):
        """The object, then its manifest, each by a rename."""
        for name in (NAME, f"{NAME}.sapwood")[: 1 + manifest]:
            os.link(self.bench.work / version / name, folder / f"{name}.next")
            os.replace(folder / f"{name}.next", folder / name)

    def version_in(self, folder):
        if not (folder / "out").exists():
            return "nothing"
        return self.roots.get(hash_of(folder / "out"), "other bytes")


INTRODUCTION = """# Real servers

Written by `tools/bench servers --write`. An object of 64 MiB with its manifest beside it, and without one. Every result was compared
with the object's BLAKE3 hash; a figure says that it was right, and what is wrong is **bold**.

- *curl -C -*: whether curl, killed at half of the object, goes on from there; where it does not, nobody can. *no validator*: nothing
  tells versions apart, neither a strong ETag nor Last-Modified, so that without a manifest a fetch starts over.
- *fresh*: bytes on the wire (headers and manifest included) divided by the object's size, and the number of requests.
- *killed, resumed*: the same over both runs, the first of which was killed (SIGKILL) at half of the object, at 12 MiB a second. Measured
  a second time where it was too much: on a busy machine a killed client had not read what was sent.
- *unchanged*: bytes and requests of a fetch onto the finished file.
- *replaced midway*: stopped at half; then the server has another version of the same size; then the same command again. *new* with the
  bytes of both runs: the new version is there, whole. *exit 4*: refused. *old, as curl*: the server still serves the old one, whole. *mixed: no
  validator moved*: the server sends the new bytes with the old ETag and Last-Modified, which only a manifest shows; the fetch says NOT
  verified.
"""


def table(rows, before=None):
    """The rows, and those of an earlier table that were not measured again."""
    lines = (before or {}) | {row.server.name: row.line() for row in rows}
    heads = ["server", "version", "curl -C -", *COLUMNS, *(f"{column}, no manifest" for column in COLUMNS)]
    ordered = [lines[server.name] for server in SERVERS if server.name in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in [heads, ["---"] * len(heads), *ordered])


def lines_of_table():
    if not TABLE.exists():
        return {}
    cells = [line.strip("| \n").split(" | ") for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    return {line[0]: line for line in cells}
