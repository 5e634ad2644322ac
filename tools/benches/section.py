"""What every section of the bench is, and what several of them need."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass

from .measure import measure
from .programs import Failure, program_path


@dataclass(frozen=True)
class Contender:
    name: str
    command: str
    """Words with places: {out} the result, {run} a fresh folder, and what the section adds."""

    @property
    def program(self):
        return self.command.split()[0]

    def words(self, places):
        program, *arguments = self.command.split()
        return [program_path(program), *(argument.format(**places) for argument in arguments)]


@dataclass(frozen=True)
class Goal:
    contender: str
    figure: str
    limit: float
    peer: str


class Section:
    """A question, the contenders that take turns at it, and what we want of ourselves.

    A subclass gives the four attributes, sets up in `enter` what its commands need (anything that must
    be undone goes on the stack) and returns the places of its commands, and refuses wrong results in `check`,
    which may return more figures of the run."""

    name = peer = ""
    contenders = ()
    goals = ()
    # Where figures are the same in every round, fewer will do.
    rounds_max = sys.maxsize
    # The words before a contender's command.
    inside = ()

    def __init__(self, bench):
        self.bench = bench
        self.selected = [c for c in self.contenders if bench.wants(c.name)]

    def programs(self):
        # b3sum checks the results.
        return {"b3sum", *(contender.program for contender in self.selected)}

    def enter(self, stack):
        raise NotImplementedError

    def run(self):
        """The section's part of the report; its "wrong" names results that were not right."""
        return self.bench.run(self)

    def show(self, report):
        self.bench.show(report)

    def prepare(self, contender, run):
        """What is set up before each run, in its folder or elsewhere."""

    def check(self, contender, run, first):
        raise NotImplementedError


def hash_of(path):
    run = subprocess.run([program_path("b3sum"), "--no-names", path], capture_output=True, text=True, check=True)
    return run.stdout.strip()


def published_of(run):
    """The event of the one file that a fetch published."""
    events = [json.loads(line) for line in (run / "stdout").read_text().splitlines()]
    published = [event for event in events if event["event"] == "published"]
    if len(published) != 1:
        raise Failure(f"{len(published)} published files were reported")
    return published[0]


def serve_object(bench, origins, name, size):
    """Puts an object of this size on these origins, with a manifest, and under bare/ without. Returns its root."""
    path = bench.work / name
    with open(path, "wb") as data:
        subprocess.run([program_path("b3sum"), "--raw", "--length", str(size)],
                       stdin=subprocess.DEVNULL, stdout=data, check=True)
    run = bench.fresh_run()
    measure([program_path("sapwood"), "manifest", path, "-o", run / "manifest"], run)
    for origin in origins:
        (origin.www / "bare").mkdir(exist_ok=True)
        os.link(path, origin.www / name)
        os.link(path, origin.www / "bare" / name)
        shutil.copyfile(run / "manifest", origin.www / f"{name}.sapwood")
    shutil.rmtree(run)
    return hash_of(path)
