"""The same kills and lies against other programs, for the table in src/docs/benchmarks.md."""

import statistics
import subprocess

from .machine import path_of
from .scene import MIB, NAME, Scene, Wrong, environment, painted, remove
from .sweep import Sweep

TRIES = 4

# What each is called with for "go on with this download, in parallel if you can", and its notes beside the file.
PEERS = {
    "sapwood, with a manifest": (None, [".part.journal"]),
    "sapwood, without": (None, [".part.journal"]),
    "curl -C -": (lambda url: ["curl", "-sSf", "-C", "-", "-o", NAME, url], []),
    "wget2 -c": (lambda url: ["wget2", "-q", "-c", url], []),
    "aria2c -c -x8": (lambda url: ["aria2c", "-q", "-c", "-x8", "-s8", "-k1M", "-o", NAME, url], [".aria2"]),
    "axel": (lambda url: ["axel", "-q", "-n", "8", "-o", NAME, url], [".st"]),
    "rclone copyurl": (lambda url: ["rclone", "-q", "copyurl", url, NAME], []),
}
EVENTS = {
    "killed": "killed",
    "changed": "changed between two runs",
    "whole": "200 for a range after a kill",
    "notes": "notes lost after a kill",
    "flip": "a bit flipped on the way",
    "short": "a response cut short",
    "same-size": "another file of the same size there",
}
OURS = [peer for peer in PEERS if peer.startswith("sapwood")]
# What cannot be noticed without anything to compare with.
FORGIVEN = {("sapwood, without", "flip")}


class Peers(Sweep):
    name = "peers"
    programs = ("curl", "wget2", "aria2c", "axel", "rclone")

    def needs(self):
        return () if self.is_short else self.programs

    def steps(self):
        scene = Scene(self.program, self.folder, 16 * MIB)
        # In a folder of their own, since some choose the name by themselves.
        scene.target = self.folder / "peer" / NAME
        scene.target.parent.mkdir()
        rounds, peers = (1, OURS) if self.is_short else (5, PEERS)
        for event in EVENTS:
            for peer in peers:
                for _ in range(rounds):
                    try:
                        self.one(scene, peer, event)
                    except Wrong as error:
                        self.wrong(f"{peer}, {event}: {error}")
                    yield

    def one(self, scene, peer, event):
        origin = scene.origin
        scene.serve(painted(16 * MIB, 1))
        scene.with_manifest("without" not in peer)
        make, notes = PEERS[peer]
        scene.reset(False)
        for path in scene.target.parent.iterdir():
            remove(path)
        command = make(origin.url(NAME)) if make else list(map(str, scene.command()))
        command[0] = path_of(command[0])
        origin.rate = 12 * MIB
        exits = []
        if event in ("killed", "changed", "whole", "notes"):
            self.run(scene, command, self.random.uniform(0.4, 1.2))
        if event == "changed":
            scene.serve(painted(16 * MIB, 3), version=1)
            scene.with_manifest("without" not in peer)
        if event == "notes":
            for suffix in notes:
                scene.target.with_name(NAME + suffix).unlink(missing_ok=True)
        if event == "same-size":
            scene.target.write_bytes(painted(16 * MIB, 4))
        origin.lies = {event} & {"whole", "flip", "short"}
        for _ in range(TRIES):
            exits.append(self.run(scene, command, 60))
            if exits[-1] == 0:
                break
        origin.lies = set()
        self.judge(scene, peer, event, exits)

    def run(self, scene, command, seconds):
        child = subprocess.Popen(command, cwd=scene.target.parent, env=environment(scene.folder), stdin=subprocess.DEVNULL,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()

    def judge(self, scene, peer, event, exits):
        try:
            right = scene.target.read_bytes() == scene.content
        except OSError:
            right = None
        if exits[-1] == 0:
            outcome = "right" if right else "corrupt"
        else:
            outcome = "stopped" if right is None else "left"
        record = self.counts.setdefault(f"{peer}: {event}", {})
        record[outcome] = record.get(outcome, 0) + 1
        again = max(0, scene.origin.sent_of(NAME) - len(scene.content))
        record.setdefault("again", []).append(again)
        self.add("runs")
        # Notes without which a file cannot be told from a stranger's are asked for, not overwritten.
        refused = peer == "sapwood, without" and event == "notes" and exits[-1] == 6
        if peer in OURS and outcome != "right" and not refused and (peer, event) not in FORGIVEN:
            raise Wrong(f"{outcome}, exits {exits}")

    def figure(self):
        return f"{self['runs']} kills and lies for {len(PEERS)} ways to fetch: {self['wrong']} wrong of ours\n\n{self.table()}"

    def table(self):
        rows = ["| | " + " | ".join(EVENTS.values()) + " |", "|---" * (len(EVENTS) + 1) + "|"]
        for peer in PEERS:
            cells = [self.cell(self.counts.get(f"{peer}: {event}", {})) for event in EVENTS]
            rows.append(f"| {peer} | " + " | ".join(cells) + " |")
        return "\n".join(rows)

    def cell(self, record):
        # With exit 0 and a wrong file; stopped with a wrong file or a part of one under the final name; stopped without.
        names = {"right": "right", "corrupt": "**corrupt**", "left": "stops, file wrong", "stopped": "stops"}
        runs = sum(record.get(outcome, 0) for outcome in names)
        said = [name if record[outcome] == runs else f"{name} ({record[outcome]} of {runs})"
                for outcome, name in names.items() if record.get(outcome)]
        again = statistics.median(record["again"]) / 1e6 if record.get("again") else 0
        return ", ".join(said) + (f", {again:.1f} MB again" if again >= 0.05 else "")
