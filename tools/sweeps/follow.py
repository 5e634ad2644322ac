"""Recordings that are pushed while they grow, and played through a gateway at the same time."""

import json
import re
import subprocess
import threading
import time
import urllib.request

from .scene import LONG_ENOUGH_S, Wrong, environment
from .site import Client, Site
from .sweep import Sweep

NAME = "live.ts"
BYTES_A_SECOND = 2_000_000
# What may lie between a byte that was written and the same byte out of the gateway.
BEHIND_S_MAX = 10


class Grown:
    """When a source of bytes had how many of them."""

    def __init__(self):
        self.seen = [(time.monotonic(), 0)]

    def note(self, count):
        if count > self.seen[-1][1]:
            self.seen.append((time.monotonic(), count))

    @property
    def count(self):
        return self.seen[-1][1]


def behind(written, played):
    """The longest time, in seconds, between a byte that was there and the same byte in the copy."""
    worst, at = 0.0, 0
    for moment, count in played.seen[1:]:
        # The earliest moment at which the last of these bytes was seen.
        while written.seen[at][1] < count:
            at += 1
        worst = max(worst, moment - written.seen[at][0])
    return worst


class Follower(Client):
    def command(self, *more):
        return [self.program, "--json", "push", "--follow", self.source, self.site.url(), "--name", self.name, *self.flags, *more]

    def event(self, name):
        """The first event of this name that the running push told."""
        until = time.monotonic() + LONG_ENOUGH_S
        while time.monotonic() < until:
            for line in (self.folder / "stdout").read_text(errors="replace").splitlines(keepends=True):
                if line.endswith("\n") and (told := json.loads(line))["event"] == name:
                    return told
            time.sleep(0.02)
        raise Wrong(f"the push does not tell {name}")


class Follow(Sweep):
    """ffmpeg records MPEG-TS in real time, another one plays it. Push and server are killed once each."""

    name = "follow"
    programs = ("ffmpeg", "b3sum")
    unit = "recordings"
    full = 3
    short = 1

    def steps(self):
        self.site = Site(self.program, self.folder)
        self.site.must_serve()
        self.children = []
        while True:
            try:
                self.one(10 if self.is_short else 60)
            except Wrong as error:
                self.wrong(str(error))
                self.site.give_up_all()
            finally:
                self.end_children()
            (self.site.at / NAME).unlink(missing_ok=True)
            self.add("recordings")
            yield

    def start(self, name, *words):
        with open(self.folder / name, "wb") as out:
            child = subprocess.Popen(list(words), cwd=self.folder, env=environment(self.folder), stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        self.children.append(child)
        return child

    def record(self, seconds, at):
        """2 MB/s: pictures, filled up with null packets."""
        return self.start(
            "ffmpeg-records", "ffmpeg", "-nostdin", "-loglevel", "error", "-y", "-re", "-f", "lavfi", "-i", "testsrc2=size=640x360:rate=25",
            "-t", str(seconds), "-c:v", "mpeg2video", "-b:v", "6M", "-f", "mpegts", "-muxrate", str(BYTES_A_SECOND * 8), "-flush_packets", "1", at)

    def one(self, seconds):
        source = self.folder / NAME
        source.unlink(missing_ok=True)
        client = Follower(self.program, self.folder / "client", self.site, source, NAME)
        push = client.start()
        recorder = self.record(seconds, source)
        written, played = Grown(), Grown()
        sampler = threading.Thread(target=self.sample, args=(source, recorder, written), daemon=True)
        sampler.start()
        url = re.sub(r":\d+/", f":{self.site.port}/", client.event("planned")["growing_url"], count=1)
        gateway, copy = self.gateway(url), []
        player = self.start("ffmpeg-plays", "ffmpeg", "-nostdin", "-loglevel", "error", "-i", gateway, "-f", "null", "-")
        reader = threading.Thread(target=self.play, args=(gateway, played, copy), daemon=True)
        reader.start()
        for number, whom in enumerate(("client", "server")):
            while written.count < BYTES_A_SECOND * seconds * (number + 1) / 3 and recorder.poll() is None:
                time.sleep(0.02)
            if whom == "client":
                client.kill(push)
                push = client.start()
            else:
                self.site.kill()
                self.site.must_serve()
            self.add(f"kills_{whom}")
        if recorder.wait(LONG_ENOUGH_S) != 0:
            raise Wrong(f"ffmpeg does not record: {(self.folder / 'ffmpeg-records').read_text()[-500:]}")
        published = client.ended(push).must(0).event("published")
        self.site.check_published(NAME, source)
        self.site.check_b3sum(NAME, published["root"])
        self.site.check_nothing_is_staged()
        reader.join(LONG_ENOUGH_S)
        sampler.join(LONG_ENOUGH_S)
        if b"".join(copy) != source.read_bytes():
            raise Wrong(f"{played.count} bytes were played, and they are not those of the {source.stat().st_size}")
        if player.wait(LONG_ENOUGH_S) != 0 or (said := (self.folder / "ffmpeg-plays").read_text()):
            raise Wrong(f"ffmpeg does not play it: {player.returncode} {said[-500:]}")
        last = behind(written, played)
        self.counts["behind_ms"] = max(self["behind_ms"], round(last * 1000))
        self.add("bytes", played.count)
        # The short form runs on any machine, however busy that is.
        if last > BEHIND_S_MAX and not self.is_short:
            raise Wrong(f"a byte came out of the gateway {last:.1f} s after it was written")

    def sample(self, source, recorder, written):
        while True:
            has_ended = recorder.poll() is not None
            if source.exists():
                written.note(source.stat().st_size)
            if has_ended:
                return
            time.sleep(0.02)

    def gateway(self, url):
        self.start("gateway", self.program, "gateway", "--no-store", url)
        until = time.monotonic() + LONG_ENOUGH_S
        while time.monotonic() < until:
            if found := re.search(r"^(http\S+)\n", (self.folder / "gateway").read_text(), re.MULTILINE):
                return found[1]
            time.sleep(0.02)
        raise Wrong("the gateway does not start")

    def play(self, url, played, copy):
        with urllib.request.urlopen(url, timeout=LONG_ENOUGH_S) as response:
            while chunk := response.read1(1 << 16):
                copy.append(chunk)
                played.note(played.count + len(chunk))

    def end_children(self):
        for child in self.children:
            if child.poll() is None:
                child.kill()
            child.wait()
        self.children.clear()

    def close(self):
        if hasattr(self, "site"):
            self.end_children()
            self.site.close()

    def figure(self):
        return (f"{self['recordings']} recordings of {self['bytes'] / 1e6:.0f} MB at {BYTES_A_SECOND / 1e6:.0f} MB/s, played meanwhile at most "
                f"{self['behind_ms'] / 1000:.1f} s behind, {self['kills_client']} kills of the push and {self['kills_server']} of the server: "
                f"{self['wrong']} wrong")
