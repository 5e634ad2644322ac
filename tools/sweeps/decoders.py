"""Fuzzing: each decoder of bytes from outside gets its minutes, over several runs if need be."""

import re
import subprocess

from .sweep import Sweep
from .tests import ROOT

MINUTES = 10
SECONDS_AT_A_TIME = 20


class Decoders(Sweep):
    name = "decoders"
    # tools/test replays the corpora, and changes to them, without a fuzzer (tests/it/corpora.rs).
    in_short = False
    unit = "least_s"
    full = MINUTES * 60

    RAN = re.compile(r"^\S+ +(\d+) runs in \d+ s, at least (\d+) accepted, peak (\d+) MB: (.*)$", re.MULTILINE)

    def steps(self):
        decoders = self.fuzz("--list").stdout.split()
        seconds = self.counts.setdefault("seconds", {})
        for gone in seconds.keys() - set(decoders):
            del seconds[gone]
        while True:
            self.counts["least_s"] = min(seconds.get(decoder, 0) for decoder in decoders)
            yield
            self.one(min(decoders, key=lambda decoder: seconds.get(decoder, 0)), seconds)

    def one(self, decoder, seconds):
        done = self.fuzz("--seconds", str(SECONDS_AT_A_TIME), decoder)
        ran = self.RAN.search(done.stdout)
        if done.returncode != 0 or not ran:
            self.wrong(f"{decoder}: {done.stdout[-3000:]}{done.stderr[-1000:]}")
        else:
            self.add("runs", int(ran[1]))
            self.counts["peak_mb"] = max(self["peak_mb"], int(ran[3]))
        # Also after a crash: the others get their turn.
        seconds[decoder] = seconds.get(decoder, 0) + SECONDS_AT_A_TIME

    def fuzz(self, *words):
        return subprocess.run([ROOT / "tools" / "fuzz" / "run", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def figure(self):
        seconds = self.counts.get("seconds", {})
        return (f"{len(seconds)} decoders, each fuzzed for at least {self['least_s'] // 60} min {self['least_s'] % 60} s, "
                f"{self['runs']} inputs: {self['wrong']} crashes, at most {self['peak_mb']} MB")
