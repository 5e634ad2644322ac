"""Uploads of sources that change, and of copies of them."""

import os
import shutil
import time

from .scene import LONG_ENOUGH_S, MIB, Wrong
from .site import Client, Site, write_random
from .sweep import Sweep
from .upload import SMALL_PARTS


class UploadChanges(Sweep):
    """A source that changes while it is pushed is noticed, and no mixture is published; a copy of it goes on where it was."""

    name = "upload-changes"
    unit = "changes"
    full = 60
    short = 7

    def steps(self):
        self.site = Site(self.program, self.folder)
        self.site.must_serve()
        try:
            self.copy_goes_on(64 * MIB + 99 if self.is_short else 4096 * MIB + 99)
        except Wrong as error:
            self.wrong(f"a copy: {error}")
        yield
        ways = (self.in_place, self.in_place_with_old_time, self.by_rename, self.grows, self.shrinks, self.rewritten, self.between_runs)
        number = 0
        while True:
            for way in ways:
                number += 1
                try:
                    self.change(number, way)
                except Wrong as error:
                    self.wrong(f"{way.__name__}: {error}")
                    self.site.give_up_all()
                self.add("changes")
                yield

    def copy_goes_on(self, length):
        """Nothing of a part that is finished is sent again from a copy at another path, by a program that remembers nothing."""
        site, name = self.site, "copied.bin"
        first, second = self.folder / "source", self.folder / "elsewhere" / "copy"
        second.parent.mkdir()
        write_random(first, length)
        site.relay.rate = 48 * MIB if self.is_short else None
        flags = SMALL_PARTS if self.is_short else ()
        client = Client(self.program, self.folder / "first", site, first, name, *flags)
        child = client.start()
        self.until(child, lambda: site.relay.sent >= length // 2 and len(site.relay.acknowledged("checkpoint")) >= 3)
        client.kill(child)
        shutil.copyfile(first, second)
        first.unlink()
        # What the dead client had sent may still arrive.
        time.sleep(1.2)
        session = site.sessions(name)[0]
        finished = sum(part["length"] for part in session["parts"])
        site.relay.forget()
        site.relay.rate = None
        ended = Client(self.program, self.folder / "second", site, second, name, *flags).push().must(0)
        site.check_published(name, second)
        site.check_nothing_is_staged()
        self.add("copied", length)
        self.add("copy_finished", finished)
        self.add("copy_sent", site.relay.sent)
        if finished == 0 or site.relay.sent > length - finished:
            raise Wrong(f"{finished} of {length} bytes were finished, and {site.relay.sent} were sent")
        if ended.event("published")["bytes_sent"] > length - finished:
            raise Wrong(f"it says to have sent {ended.event('published')['bytes_sent']}")
        second.unlink()
        (site.at / name).unlink()

    def until(self, child, is_so):
        until = time.monotonic() + LONG_ENOUGH_S
        while not is_so() and child.poll() is None and time.monotonic() < until:
            time.sleep(0.001)

    def change(self, number, way):
        site, name = self.site, f"changed{number}.bin"
        source = self.folder / f"changing{number}"
        length = (24 if self.is_short else 40) * MIB + 5
        write_random(source, length)
        before = source.read_bytes()
        site.relay.forget()
        site.relay.rate = 40 * MIB
        client = Client(self.program, self.folder / "client", site, source, name, *SMALL_PARTS, "--connections", "2")
        child = client.start()
        moment = self.random.uniform(0.02, 0.95) * length
        self.until(child, lambda: site.relay.sent >= moment)
        if way is self.between_runs:
            client.kill(child)
            self.in_place(source)
            child = client.start()
            exits = (0,)
        else:
            way(source)
            # A change at the moment of the last look may be too late.
            time.sleep(0.2)
            late = site.relay.requests["finalize"] > 0
            exits = (0, 4)
        after = source.read_bytes()
        ended = client.ended(child).must(*exits)
        at = site.at / name
        if ended.exit == 4:
            self.add("noticed")
            if at.exists():
                raise Wrong("it is published")
            site.relay.rate = None
            ended = client.push().must(0)
            if at.read_bytes() != after:
                raise Wrong("the next push published something else")
        elif at.read_bytes() not in (before, after) or way is self.between_runs and at.read_bytes() != after:
            raise Wrong("a mixture is published")
        elif way not in (self.by_rename, self.between_runs):
            if not late:
                raise Wrong("it was not noticed")
            self.add("late")
        site.check_b3sum(name, ended.event("published")["root"])
        site.check_nothing_is_staged()
        source.unlink()
        at.unlink()

    def in_place(self, source):
        with open(source, "r+b") as file:
            file.seek(self.random.randrange(source.stat().st_size))
            file.write(os.urandom(64))

    def in_place_with_old_time(self, source):
        times = source.stat()
        with open(source, "r+b") as file:
            file.seek(self.random.randrange(times.st_size - 64))
            file.write(os.urandom(64))
        os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))

    def by_rename(self, source):
        other = source.with_suffix(".new")
        write_random(other, source.stat().st_size)
        os.replace(other, source)

    def grows(self, source):
        with open(source, "ab") as file:
            file.write(os.urandom(self.random.randrange(1, 6 * MIB)))

    def shrinks(self, source):
        os.truncate(source, self.random.randrange(source.stat().st_size))

    def rewritten(self, source):
        """By a program that writes the whole file anew."""
        write_random(source, source.stat().st_size)

    def between_runs(self, source):
        """Changed while nobody pushes it."""

    def close(self):
        if hasattr(self, "site"):
            self.site.close()

    def figure(self):
        copied, finished, sent = (self[what] // MIB for what in ("copied", "copy_finished", "copy_sent"))
        return (f"{self['changes']} sources that changed during a push, {self['noticed']} noticed, {self['late']} after the last look: "
                f"{self['wrong']} wrong; of {copied} MiB, {finished} MiB of them finished, a copy of the file sent {sent} MiB")
