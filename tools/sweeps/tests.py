"""Tests of tools/test that grow with time: every fault of the list again and again, and more simulated schedules."""

import os
import re
import subprocess
from pathlib import Path

from .sweep import Sweep

ROOT = Path(__file__).resolve().parent.parent.parent
SCHEDULES = 10_000


class Test(Sweep):
    """One test of tests/it."""

    # tools/test runs them by itself.
    in_short = False
    test = ""

    def run(self, **settings):
        """What it printed; a test that fails is told with its reasons."""
        command = ["cargo", "test", "--quiet", "--locked", "--test", "it", self.test, "--", "--nocapture"]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, **settings}, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, errors="replace")
        if done.returncode != 0:
            self.wrong(f"{' '.join(command)}:\n{done.stdout[-6000:]}{done.stderr[-2000:]}")
        return done.stdout


class Storms(Test):
    """Each fault with and without a manifest, at the first request and in the middle of a resume."""

    name = "storms"
    test = "every_fault_of_the_list"
    unit = "rounds"
    full = 10

    COST = re.compile(r"^ *(\d+) bytes of at most +(\d+) where +(\d+) were missing, in +[\d.]+ s: (.*)$", re.MULTILINE)

    def steps(self):
        while True:
            scenes = self.COST.findall(self.run())
            self.add("rounds")
            self.add("scenes", len(scenes))
            for bytes_fetched, limit, _, scene in scenes:
                share = 100 * int(bytes_fetched) // int(limit)
                if share > self["most_percent"]:
                    self.counts.update(most_percent=share, most_scene=scene)
            yield

    def figure(self):
        return (f"{self['scenes']} scenes of faults with and without a manifest, first and resumed, in {self['rounds']} rounds: "
                f"{self['wrong']} rounds with wrong ones; at most {self['most_percent']} % of the bytes that a server's fault "
                f"allows ({self['most_scene']})")


class Schedules(Test):
    name = "schedules"
    test = "schedules_obey_the_rules"
    unit = "schedules"
    full = SCHEDULES

    def steps(self):
        said = self.run(SAPWOOD_SCHEDULES=str(SCHEDULES))
        ended = re.search(r"^(\d+) schedules: \{(.*)\}$", said, re.MULTILINE)
        if ended:
            self.add("schedules", int(ended[1]))
            self.counts["outcomes"] = ended[2].replace('"', "")
        yield

    def figure(self):
        return f"{self['schedules']} simulated schedules ({self['outcomes']}): {self['wrong']} broke a rule"
