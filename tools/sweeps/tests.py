"""Tests of the Rust side that tools/test has in a short form or not at all: every fault of the list again and again, more simulated
schedules, a broken scheduler, the promised sizes, the library without its features."""

import os
import re
import subprocess
from pathlib import Path

from .sweep import Sweep

ROOT = Path(__file__).resolve().parent.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
SCHEDULES = 10_000


class Test(Sweep):
    """Tests of cargo."""

    # tools/test runs them by itself, as far as it has them.
    in_short = False
    PASSED = re.compile(r"^test result: \w+\. (\d+) passed", re.MULTILINE)

    def run(self, *words, **settings):
        """What it printed; a test that fails is told with its reasons."""
        command = ["cargo", "test", "--quiet", "--locked", *words]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, **settings}, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, errors="replace")
        if done.returncode != 0:
            self.wrong(f"{' '.join(command)}:\n{done.stdout[-6000:]}{done.stderr[-2000:]}")
        elif not self.passed(done.stdout):
            self.wrong(f"{' '.join(command)}: no test has such a name")
        return done.stdout

    def passed(self, said):
        return sum(map(int, self.PASSED.findall(said)))

    def run_one(self, test, **settings):
        """As tools/test builds it, so that nothing is compiled for it."""
        return self.run("--features", "http3", "--test", "it", test, "--", "--nocapture", **settings)


class Storms(Test):
    """Each fault with and without a manifest, at the first request and in the middle of a resume."""

    name = "storms"
    unit = "rounds"
    full = 10

    COST = re.compile(r"^ *(\d+) bytes of at most +(\d+) where +(\d+) were missing, in +[\d.]+ s: (.*)$", re.MULTILINE)

    def steps(self):
        while True:
            scenes = self.COST.findall(self.run_one("every_fault_of_the_list"))
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
    unit = "schedules"
    full = SCHEDULES

    def steps(self):
        said = self.run_one("schedules_keep_the_rules", SAPWOOD_SCHEDULES=str(SCHEDULES))
        ended = re.search(r"^(\d+) schedules: \{(.*)\}$", said, re.MULTILINE)
        if ended:
            self.add("schedules", int(ended[1]))
            self.counts["outcomes"] = ended[2].replace('"', "")
        yield

    def figure(self):
        return f"{self['schedules']} simulated schedules ({self['outcomes']}): {self['wrong']} broke a rule"


class Uploads(Test):
    name = "uploads"
    unit = "uploads"
    full = SCHEDULES

    def steps(self):
        said = self.run_one("two_clients_and_two_servers_keep_the_rules", SAPWOOD_SCHEDULES=str(SCHEDULES))
        ended = re.search(r"^(\d+) uploads: \{(.*)\}$", said, re.MULTILINE)
        if ended:
            self.add("uploads", int(ended[1]))
            self.counts["outcomes"] = ended[2]
        yield

    def figure(self):
        return (f"{self['uploads']} simulated uploads of two clients through two servers ({self['outcomes']}): "
                f"{self['wrong']} broke a rule")


class LongTests(Test):
    """Those whose long forms SAPWOOD_LONG asks for, and that of a build without HTTP/3, all in a build as it is released."""

    name = "long-tests"
    def steps(self):
        # Its servers, and a Python with numpy.
        subprocess.run([ROOT / "tools" / "test", "--only", "tools"], stdin=subprocess.DEVNULL, check=False)
        path = f"{TARGET / 'test-logs' / 'bin'}:{os.environ['PATH']}"
        said = self.run("--release", "--test", "it", "--", "long::", "with_sapwood_long", "a_build_without_http_3",
                        SAPWOOD_LONG="1", PATH=path)
        self.add("tests", self.passed(said))
        yield

    def figure(self):
        return f"{self['tests']} tests with the sizes that are promised passed: {self['wrong']} wrong"


class LibraryAlone(Test):
    """What a program gets that wants neither our command line nor our servers; tools/test only checks that it compiles."""

    name = "library-alone"

    def steps(self):
        for kind in ("--lib", "--doc"):
            said = self.run("--no-default-features", kind)
            self.add("tests", self.passed(said))
            yield

    def figure(self):
        return f"{self['tests']} tests of the library without features passed: {self['wrong']} wrong"


class Mutants(Test):
    """The scheduler broken on purpose: the simulations must notice."""

    name = "mutants"

    def steps(self):
        done = subprocess.run([ROOT / "tools" / "mutants"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            self.wrong(f"{done.stdout[-3000:]}{done.stderr[-3000:]}")
        self.add("caught", done.stdout.count(" caught "))
        yield

    def figure(self):
        return f"{self['caught']} broken schedulers noticed: {self['wrong']} wrong"
