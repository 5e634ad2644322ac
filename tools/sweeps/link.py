"""The line that goes away in the middle of a fetch and comes back."""

import json
import os
import subprocess
import threading
import time

from . import machine
from .sweep import Sweep

MIB = 1 << 20
LENGTH = 48 * MIB
RATE = "6MB"
AWAY_S, AWAY_SHORT_S = 40, 14
"""Longer than the ten seconds after which silence is a failure."""
GOAL_MS = 2_000


class LinkDown(Sweep):
    name = "link-down"
    programs = ("ip",)
    unit = "outages"
    full = 6
    short = 2

    def steps(self):
        # Two namespaces without any other way out: nothing of this may reach a real network.
        self.spaces = [f"sw{side}{os.getpid()}" for side in ("client", "server")]
        ends = [f"sw{side}{os.getpid()}" for side in ("c", "s")]
        for space in self.spaces:
            machine.run("ip", "netns", "add", space)
        machine.run("ip", "-n", self.spaces[0], "link", "add", ends[0], "type", "veth", "peer", "name", ends[1],
                    "netns", self.spaces[1])
        for space, end, host in zip(self.spaces, ends, (1, 2)):
            machine.run("ip", "-n", space, "addr", "add", f"10.98.7.{host}/30", "dev", end)
            machine.run("ip", "-n", space, "link", "set", end, "up")
        served = self.folder / "served"
        served.mkdir()
        (served / "object").write_bytes(self.random.randbytes(LENGTH))
        subprocess.run([self.program, "--quiet", "manifest", served / "object"], check=True)
        self.serving = subprocess.Popen(
            self.inside(1, self.program, "serve", served, "--listen", "10.98.7.2:8080"),
            stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        self.url = self.serving.stdout.readline().strip() + "object"
        ways = {
            # The cable is out: the kernel says at once that there is no way.
            "cable": (lambda: machine.run("ip", "-n", self.spaces[0], "link", "set", ends[0], "down"),
                      lambda: machine.run("ip", "-n", self.spaces[0], "link", "set", ends[0], "up")),
            # Somewhere on the way nothing gets through, and nobody says so.
            "silence": (lambda: machine.run("ip", "-n", self.spaces[1], "route", "add", "blackhole", "10.98.7.1/32"),
                        lambda: machine.run("ip", "-n", self.spaces[1], "route", "del", "blackhole", "10.98.7.1/32")),
        }
        while True:
            for kind, (down, up) in ways.items():
                self.outage(served / "object", kind, down, up)
                yield

    def inside(self, side, *command):
        return [machine.path_of("ip"), "netns", "exec", self.spaces[side], *map(str, command)]

    def outage(self, original, kind, down, up):
        target = self.folder / "out"
        target.unlink(missing_ok=True)
        fetching = subprocess.Popen(
            self.inside(0, self.program, "--json", "fetch", self.url, "-o", target, "--limit-rate", RATE, "--no-store"),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        lines = []

        def read():
            for line in fetching.stdout:
                lines.append(json.loads(line))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        while not any(line["event"] == "progress" and line["bytes_done"] > LENGTH // 4 for line in list(lines)):
            if fetching.poll() is not None:
                self.wrong(f"{kind}: it ended before the line went away: {fetching.stderr.read()}")
                return
            time.sleep(0.02)
        down()
        away_s = AWAY_SHORT_S if self.is_short else AWAY_S
        # What had arrived already is still read for a while, at the rate that is allowed.
        time.sleep(away_s / 2)
        heard = len(lines)
        time.sleep(away_s / 2)
        if any(line["event"] == "blocks_verified" for line in lines[heard:]):
            self.wrong(f"{kind}: bytes came while the line was away")
        back_ms = time.time() * 1000
        up()
        exit_code = fetching.wait()
        reader.join()
        self.add("outages")
        if exit_code != 0 or target.read_bytes() != original.read_bytes():
            self.wrong(f"{kind}: exit {exit_code}: {fetching.stderr.read()}")
            return
        done = [line["bytes_done"] for line in lines if line["event"] == "progress"]
        if done != sorted(done):
            self.wrong(f"{kind}: progress stepped back")
        new = [line["time_ms"] for line in lines if line["event"] == "blocks_verified" and line["time_ms"] >= back_ms]
        took = round(min(new) - back_ms)
        self.counts[f"most_ms_{kind}"] = max(took, self[f"most_ms_{kind}"])
        if took > GOAL_MS:
            self.add("late")

    def close(self):
        if hasattr(self, "serving"):
            self.serving.kill()
            self.serving.wait()
        for space in getattr(self, "spaces", ()):
            subprocess.run([machine.path_of("ip"), "netns", "del", space], stdin=subprocess.DEVNULL, check=False)

    def figure(self):
        return (f"{self['outages']} times the line was away for {AWAY_SHORT_S if self.is_short else AWAY_S} s: "
                f"{self['wrong']} wrong; first new bytes at most {self['most_ms_cable']} ms (cable) and "
                f"{self['most_ms_silence']} ms (silence) after it was back, {self['late']} times later than {GOAL_MS} ms")
