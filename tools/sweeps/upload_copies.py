"""Uploads of which an earlier object has most: kills of both sides while blocks are copied and sent."""

import random
import subprocess
import time

from .scene import LONG_ENOUGH_S, MIB, Wrong
from .site import Client, Site, write_random
from .sweep import Sweep

NAME, PAGE = "shows/talk.mp4", 4096


def b3sum_of(path):
    return subprocess.run(["b3sum", "--no-names", path], capture_output=True, text=True, check=True).stdout.strip()


class UploadCopies(Sweep):
    """One object is replaced again and again by one of which a page of a hundred, or what lies behind a random place, differs, while
    client and server are killed at random moments. At every moment the old one or the new one has the name."""

    name = "upload-copies"
    programs = ("b3sum",)
    unit = "kills"
    full = 200
    in_short = False

    def steps(self):
        source = self.folder / "source"
        write_random(source, 160 * MIB + 4321)
        self.site = Site(self.program, self.folder)
        self.site.must_serve()
        client = Client(self.program, self.folder / "client", self.site, source, NAME, "--replace")
        client.push().must(0)
        self.old = b3sum_of(source)
        while True:
            self.change(source)
            self.new = b3sum_of(source)
            try:
                yield from self.one(client)
            except Wrong as error:
                self.wrong(str(error))
                client.close()
                self.site.kill()
                self.site.must_serve()
                self.site.give_up_all()
                client.push().must(0)
            self.old = self.new
            self.add("objects")

    def change(self, source):
        data = bytearray(source.read_bytes())
        if self.random.random() < 0.5:
            count = len(data) // PAGE
            for page in self.random.sample(range(count), count // 100):
                data[page * PAGE + self.random.randrange(PAGE)] ^= 1
        else:
            at = self.random.randrange(len(data))
            data[at:at] = random.Random(at).randbytes(65)
        source.write_bytes(data)

    def one(self, client):
        child = client.start()
        for _ in range(self.random.randrange(1, 5)):
            time.sleep(self.random.uniform(0, 3))
            if child.poll() is not None:
                break
            if self.random.random() < 0.6:
                client.kill(child)
                self.check()
                child = client.start()
                self.add("kills_client")
            else:
                self.site.kill()
                self.check()
                self.site.must_serve()
                self.add("kills_server")
            self.add("kills")
            yield
        until = time.monotonic() + LONG_ENOUGH_S
        while child.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        ended = client.ended(child).must(0)
        published = ended.event("published")
        if published is None or published["root"] != self.new:
            raise Wrong(f"published: {published}")
        self.add("copied", published["bytes_copied"])
        self.add("sent", published["bytes_sent"])
        self.site.check_published(NAME, client.source)
        self.site.check_b3sum(NAME, self.new)
        self.site.check_nothing_is_staged()

    def check(self):
        """What has the name is the whole old object or the whole new one."""
        found = b3sum_of(self.site.at / NAME)
        if found not in (self.old, self.new):
            raise Wrong("what has the name is neither the old object nor the new one")

    def close(self):
        if hasattr(self, "site"):
            self.site.close()

    def figure(self):
        return (f"{self['objects']} objects of 160 MiB replaced, {self['kills_client']} kills of the client and "
                f"{self['kills_server']} of the server: {self['wrong']} wrong or stuck; in the runs that published "
                f"{self['sent'] / MIB:.0f} MiB sent and {self['copied'] / MIB:.0f} MiB copied")
