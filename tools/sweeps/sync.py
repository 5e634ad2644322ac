"""`sapwood sync`: kills, power cuts, and sources that say too little."""

import os
import signal
import subprocess
import time

from .kills import KILLED, under_strace
from .library import Copy, first_tree, next_tree
from .machine import Mounted, python_with_numpy, run
from .power import DELAY_US, wait
from .scene import MIB, Wrong
from .sweep import Sweep
from .tests import ROOT

# Every call by which a sync changes a disk, together and some alone; each is counted by thread.
ALL_CALLS = ("pwritev,pwrite64,write,ftruncate,fchmod,utimensat,linkat,mkdirat,copy_file_range,fsync,fdatasync,syncfs,"
             "renameat,renameat2,unlinkat")
CALLS = (ALL_CALLS, ALL_CALLS, "renameat,renameat2", "linkat", "unlinkat", "mkdirat", "utimensat", "fsync,fdatasync,syncfs")
SYNCS = "fsync,fdatasync,syncfs"
RATE = 6 * MIB
CONTROLS = 6
# The second implementation reads every so many rounds.
READ_AFTER = 20


class Versions(Sweep):
    """From version to version of a folder, each with interruptions, until their number is reached."""

    programs = ("strace",)

    def begin(self, size=50):
        self.copy = Copy(self.program, self.folder)
        self.tree = first_tree(self.random, size)

    def rounds(self):
        self.copy.publish(self.tree)
        self.copy.sync().must(0)
        for number in range(10**9):
            old, self.tree = self.tree, next_tree(self.tree, self.random)
            trail = []
            try:
                self.copy.prepare(old)
                self.copy.publish(self.tree)
                yield from self.interrupt(old, self.tree, trail)
                self.copy.origin.rate = None
                self.copy.must_finish(old, self.tree)
                if number % READ_AFTER == 0:
                    self.read()
            except Wrong as error:
                self.wrong(f"version {number}, {', '.join(trail)}: {error}")
                self.start_again()
            self.add("versions")
            yield

    def interrupt(self, old, new, trail):
        raise NotImplementedError

    def start_again(self):
        """After something was wrong, so that the next round says something new."""
        self.copy.origin.rate = None
        run("rm", "-rf", self.copy.at)
        self.copy.publish(self.tree)
        self.copy.sync().must(0)

    def read(self):
        """The second implementation agrees on what was published, and on what the program noted."""
        for command in ("verify-state", "read"):
            place = self.copy.at if command == "verify-state" else self.copy.at / "library.sapwood"
            done = subprocess.run([python_with_numpy(), "-B", ROOT / "tools" / "sapwood_library.py", command, place],
                                  capture_output=True, text=True)
            if done.returncode != 0:
                raise Wrong(f"the second implementation, {command}: {done.stderr}")
            self.add("read")


class SyncKills(Versions):
    name = "sync-kills"
    unit = "kills"
    full = 200
    short = 8

    def steps(self):
        self.begin(20 if self.is_short else 50)
        yield from self.rounds()

    def interrupt(self, old, new, trail):
        for _ in range(self.random.randrange(1, 5)):
            killed = self.random.choice((self.at_random, self.at_call))(trail)
            self.add("kills", bool(killed))
            self.copy.check(old, new)
            if not killed:
                return
            yield

    def at_random(self, trail):
        self.copy.origin.rate = RATE
        seconds = self.random.uniform(0, 1)
        trail.append(f"after {seconds:.3f} s")
        return self.copy.killed_after(seconds)

    def at_call(self, trail):
        self.copy.origin.rate = None
        calls = self.random.choice(CALLS)
        number = self.random.randrange(1, 60 if calls == ALL_CALLS else 15)
        trail.append(f"before call {number} of {calls}")
        ended = self.copy.sync(before=under_strace(f"trace={calls}", f"inject={calls}:signal=KILL:when={number}"))
        if ended.exit in (KILLED, 128 + 9):
            return True
        ended.must(0)
        return False

    def figure(self):
        return (f"{self['kills']} kills of syncs with deletions, moves and changes between {self['versions']} versions: {self['wrong']} "
                f"wrong or stuck; the second implementation read {self['read']} indices of theirs")


class SyncPowerCuts(Versions):
    unit = "cuts"
    full = 50
    short = 3
    kind, size = "", 0

    def steps(self):
        self.begin(20)
        self.disk = Mounted(self.folder, "disk").make_image(self.kind, self.size)
        self.copy.at = self.disk.at / "copy"
        self.control()
        yield
        yield from self.rounds()

    def interrupt(self, old, new, trail):
        run("sync", "-f", self.disk.at)
        for _ in range(self.random.randrange(1, 4)):
            moment = self.random.choices((self.after_time, self.behind_call, self.at_end), (4, 4, 1))[0]
            trail.append(moment.__name__)
            child = moment()
            done = child.poll()
            self.write_some_back(trail)
            self.cut(child)
            self.add("cuts")
            waiting = self.copy.check(old, new)
            ended = self.copy.ended(child)
            # What was told must be so.
            told = {os.path.relpath(path, self.copy.at) for path in published(ended)}
            if lost := told & set(waiting):
                raise Wrong(f"{sorted(lost)[0]} was told to be published, and is not there")
            if done is not None:
                ended.must(0)
                self.copy.check_finished(new)
                return
            yield

    def after_time(self):
        self.copy.origin.rate = RATE
        child = self.copy.start()
        wait(child, self.random.uniform(0, 1))
        return child

    def behind_call(self):
        self.copy.origin.rate = None
        calls = self.random.choice(CALLS)
        number = self.random.randrange(1, 40 if calls == ALL_CALLS else 10)
        trace = self.folder / "trace"
        trace.unlink(missing_ok=True)
        child = self.copy.start(before=["strace", "-f", "-qq", "-o", str(trace), "-e", f"trace={calls}",
                                        "-e", f"inject={calls}:delay_exit={DELAY_US}:when={number}"])
        while child.poll() is None:
            time.sleep(0.005)
            if trace.exists() and b"(DELAYED)" in trace.read_bytes():
                break
        return child

    def at_end(self):
        self.copy.origin.rate = None
        child = self.copy.start()
        child.wait()
        return child

    def write_some_back(self, trail):
        """The kernel may have written any of it before the power went."""
        paths = sorted(self.copy.found().values())
        share = self.random.choice((0, 0, 0.1, 1))
        trail.append(f"{share:.0%} written")
        for path in self.random.sample(paths, int(share * len(paths))):
            try:
                file = os.open(path, os.O_RDONLY)
            except (FileNotFoundError, NotADirectoryError):
                # The run goes on meanwhile.
                continue
            os.fsync(file)
            os.close(file)

    def cut(self, child):
        running = child.poll() is None
        if running:
            # A program that ran on could be told that all is well: XFS then syncs a folder without an error.
            os.killpg(child.pid, signal.SIGKILL)
        self.disk.cut_power()
        if running:
            self.copy.kill(child)
        self.disk.unmount()
        self.disk.mount()

    def control(self):
        """With a disk that lies about syncs the same check must fail."""
        failed = 0
        self.copy.publish(self.tree)
        for _ in range(CONTROLS):
            run("rm", "-rf", self.copy.at)
            run("sync", "-f", self.disk.at)
            self.copy.sync(before=under_strace(f"trace={SYNCS}", f"inject={SYNCS}:retval=0")).must(0)
            self.disk.cut_power()
            self.disk.unmount()
            self.disk.mount()
            try:
                self.copy.check_finished(self.tree)
            except (Wrong, OSError):
                failed += 1
        run("rm", "-rf", self.copy.at)
        self.add("controls", CONTROLS)
        self.add("controls_failed", failed)
        if failed == 0:
            self.wrong("no control failed: without syncs nothing was lost in a power cut, so this sweep sees nothing")

    def close(self):
        if hasattr(self, "disk"):
            self.disk.close()

    def figure(self):
        return (f"{self['cuts']} power cuts of syncs between {self['versions']} versions on {self.kind}: {self['wrong']} wrong or stuck; "
                f"the controls without syncs failed {self['controls_failed']} of {self['controls']} times, as they must")


class SyncPowerCutsExt4(SyncPowerCuts):
    name = "sync-power-ext4"
    programs = (*SyncPowerCuts.programs, "mkfs.ext4")
    kind, size = "ext4", 128 * MIB


class SyncPowerCutsXfs(SyncPowerCuts):
    name = "sync-power-xfs"
    programs = (*SyncPowerCuts.programs, "mkfs.xfs")
    kind, size = "xfs", 400 * MIB
    in_short = False


class PoorSources(Sweep):
    """Listings that are empty, half, cut, mixed or gone: they delete nothing, and change nothing that is here."""

    name = "sync-sources"
    INDEX, MANIFEST = "/media/library.sapwood", "/media/library.sapwood.sapwood"

    def steps(self):
        self.copy = Copy(self.program, self.folder)
        self.tree = first_tree(self.random, 20, 1)
        self.copy.publish(self.tree)
        self.copy.sync().must(0)
        self.copy.prepare(self.tree)
        self.newer = next_tree(self.tree, self.random)
        self.whole, self.other = dict(self.copy.origin.objects), self.copy.published(self.newer)
        few = dict(sorted(self.tree.items())[: len(self.tree) * 2 // 5])
        page = (b"<!doctype html><title>Log in</title>", '"page"', "Thu, 01 Jan 2026 00:00:00 GMT")
        empty = self.copy.published({})
        for what, objects, exits, more in (
            ("an empty folder", empty, (6,), ()),
            ("an empty folder, a high limit", empty, (6,), ("--delete-max", "99%")),
            ("two fifths of the files", self.copy.published(few), (6,), ()),
            ("half of an index", self.cut(self.INDEX), (1, 3, 4), ()),
            ("half of a manifest", self.cut(self.MANIFEST), (1, 3, 4), ()),
            ("an empty index", self.with_object(self.INDEX, b""), (1, 3, 4), ()),
            ("an empty manifest", self.with_object(self.MANIFEST, b""), (1, 3, 4), ()),
            ("an index of an earlier version", {**self.other, self.INDEX: self.whole[self.INDEX]}, (4,), ()),
            ("a manifest of an earlier version, and its files", {**self.whole, self.INDEX: self.other[self.INDEX]}, (0, 4), ()),
            ("no index", self.without(self.INDEX), (1, 4), ()),
            ("no manifest", self.without(self.MANIFEST), (1,), ()),
            ("nothing at all", {}, (1,), ()),
            ("a page for everything", {path: page for path in self.other}, (1, 3), ()),
            ("an index without its files", {path: self.other[path] for path in (self.INDEX, self.MANIFEST)}, (1, 4), ()),
        ):
            try:
                self.one(what, objects, exits, more)
            except Wrong as error:
                self.wrong(f"{what}: {error}")
            self.add("sources")
            yield
        self.last(empty)
        yield

    def cut(self, name):
        content = self.other[name][0]
        return self.with_object(name, content[: len(content) // 2])

    def with_object(self, name, content):
        return {**self.other, name: (content, '"other"', self.other[name][2])}

    def without(self, name):
        return {path: found for path, found in self.other.items() if path != name}

    def one(self, what, objects, exits, more):
        self.copy.origin.objects = objects
        self.copy.sync(*more, "--patience", "2s").must(*exits)
        if what != "an index without its files":
            self.copy.check(self.tree, self.tree)
        elif not self.copy.check(self.tree, self.newer):
            raise Wrong("files came from nowhere")

    def last(self, empty):
        """Who means it gets it; the trash has it all."""
        try:
            self.copy.publish(self.tree)
            self.copy.sync().must(0)
            self.copy.origin.objects = empty
            self.copy.sync("--delete-max", "100%").must(0)
            self.copy.check(self.tree, {})
            self.copy.check_finished({})
        except Wrong as error:
            self.wrong(f"an empty folder, by 100%: {error}")

    def figure(self):
        return f"{self['sources']} sources that are empty, half, cut, mixed or gone: {self['wrong']} deleted or changed anything"


def published(ended):
    return [event["path"] for event in ended.events() if event["event"] == "published"]
