"""Uploads to a folder: kills of both sides, and power cuts of the server."""

import os
import shutil
import signal
import subprocess
import time

from .kills import under_strace
from .machine import Mounted, run
from .power import DELAY_US, wait
from .scene import LONG_ENOUGH_S, MIB, Wrong
from .site import PARTS_AT_ONCE, Client, Site, write_random
from .sweep import Sweep

PART = 5 * MIB
SMALL_PARTS = ("--part-size", "5MiB")
NAME = "shows/talk.mp4"
# Calls by which a server changes a disk, together and each alone; each is counted by thread.
ALL_CALLS = ("pwritev,pwrite64,write,ftruncate,fallocate,fchmod,mkdirat,mkdir,linkat,fsync,fdatasync,syncfs,renameat,renameat2,rename,"
             "unlinkat,unlink,rmdir")
CALLS = ("pwrite64,pwritev", "write", "fsync", "fdatasync", "renameat,renameat2,rename", "unlinkat,unlink,rmdir", "mkdirat,mkdir",
         "ftruncate,fallocate", "fchmod")
SYNCS = "fsync,fdatasync,syncfs,sync_file_range"
CONTROLS = 3


class UploadKills(Sweep):
    """One upload, whose client and server are killed at random moments."""

    name = "upload-kills"
    programs = ("b3sum",)
    unit = "uploads"
    full = 1
    short = 1

    def steps(self):
        length, of_clients, of_servers = (48 * MIB + 4321, 4, 2) if self.is_short else (2048 * MIB + 4321, 20, 10)
        self.part, self.at_once = (PART, 2) if self.is_short else (8 * MIB, PARTS_AT_ONCE)
        source = self.folder / "source"
        write_random(source, length)
        self.site = Site(self.program, self.folder)
        self.site.must_serve()
        while True:
            self.site.relay.forget()
            client = Client(self.program, self.folder / "client", self.site, source, NAME, "--part-size", str(self.part),
                            "--connections", str(self.at_once))
            try:
                yield from self.one(client, length, ["client"] * of_clients + ["server"] * of_servers)
            except Wrong as error:
                self.wrong(str(error))
            shutil.rmtree(self.site.at / "shows", ignore_errors=True)
            self.add("uploads")
            yield

    def one(self, client, length, kills):
        self.random.shuffle(kills)
        relay = self.site.relay
        relay.rate = 24 * MIB if self.is_short else 96 * MIB
        child = client.start()
        for number, whom in enumerate(kills):
            # Now and then before anything is sent.
            moment = self.random.uniform(0, 0.3) if self.random.random() < 0.2 else None
            sent = length * (number + self.random.random()) / (len(kills) + 1)
            began = time.monotonic()
            while child.poll() is None and time.monotonic() - began < LONG_ENOUGH_S:
                if moment is None and relay.sent >= sent or moment is not None and time.monotonic() - began > moment:
                    break
                time.sleep(0.002)
            if child.poll() is not None:
                break
            if whom == "client":
                client.kill(child)
                child = client.start()
            else:
                self.site.kill()
                time.sleep(self.random.uniform(0, 1))
                self.site.must_serve()
            self.add(f"kills_{whom}")
            yield
        # The last one while the object is published: the client may not learn of it.
        while child.poll() is None and relay.requests["finalize"] == 0:
            time.sleep(0.002)
        time.sleep(self.random.uniform(0, 0.1))
        ended = None
        if child.poll() is None:
            killed = client.kill(child)
            self.add("kills_client")
            if killed.event("published"):
                ended = killed
            else:
                child = client.start()
        ended = ended or client.ended(child).must(0)
        published = ended.event("published")
        self.site.check_published(NAME, client.source)
        self.site.check_b3sum(NAME, published["root"])
        self.site.check_nothing_is_staged()
        self.site.check_no_orphans()
        again = relay.sent - length
        self.add("again", again)
        if again > (len(kills) + 1) * self.at_once * self.part:
            raise Wrong(f"{again} bytes were sent again")
        if relay.sent_in_vain:
            raise Wrong(f"{relay.sent_in_vain} bytes of parts that were finished were sent again")

    def close(self):
        if hasattr(self, "site"):
            self.site.close()

    def figure(self):
        kills = self["kills_client"] + self["kills_server"]
        return (f"{self['uploads']} upload of {'48 MiB' if self.is_short else '2 GiB'}, {self['kills_client']} kills of the client and "
                f"{self['kills_server']} of the server: {self['wrong']} wrong or stuck; "
                f"{self['again'] / max(1, kills) / MIB:.1f} MiB sent again per kill")


class Acknowledged(Sweep):
    """What a server acknowledged before it died must be there when another one starts."""

    def set_up(self):
        """A site, and a client with a file of two parts for it. Returns the contents of an older object."""
        source = self.folder / "source"
        write_random(source, PART + MIB + 77)
        self.site = Site(self.program, self.folder)
        self.client = Client(self.program, self.folder / "client", self.site, source, NAME, *SMALL_PARTS, "--replace", "--no-store")
        return os.urandom(MIB + 5)

    def check_acknowledged(self, site):
        relay = site.relay
        sessions = {session["id"]: session for session in site.sessions()}
        for opened in relay.acknowledged("open"):
            if opened.path.rsplit("/", 1)[1] not in sessions:
                raise Wrong(f"{opened.path} was opened, and is not there")
        for noted in relay.acknowledged("checkpoint"):
            of, index = session_and_index(noted.path)
            if not any(part["index"] == index for part in sessions[of]["parts"]):
                raise Wrong(f"the checkpoint of part {index} was acknowledged, and is not there")
            self.add("acknowledged")
        for stored in relay.acknowledged("part"):
            of, index = session_and_index(stored.path)
            session = sessions[of]
            if session["state"] not in ("open", "finalizing"):
                continue
            if session["state"] == "open":
                words = words_of(stored.path)
                noted = {"length": int(words["length"]), "sha256": words["sha256"]}
                status, answer = site.api("PUT", f"/{of}/parts/{index}", noted)
                if status != 200:
                    raise Wrong(f"part {index} was acknowledged, and is not there: {status} {answer}")
            self.add("acknowledged")
        for finalized in relay.acknowledged("finalize"):
            if finalized.status == 200:
                of = finalized.path.split("/")[3]
                if sessions[of]["state"] != "done":
                    raise Wrong(f"it was told to be published, and is {sessions[of]['state']}")
                self.add("acknowledged")

    def check_state(self, site, source, old):
        """At any moment: the object is the new one, the old one, or there is none."""
        at = site.at / NAME
        try:
            found = at.read_bytes()
        except FileNotFoundError:
            if old is not None:
                raise Wrong("the old object is gone") from None
            return
        if found not in (source.read_bytes(), old):
            raise Wrong(f"the object has {len(found)} bytes that are neither version")

    def prepare(self, site, old):
        """An empty folder, or one with an older version of the object."""
        site.kill()
        shutil.rmtree(site.at, ignore_errors=True)
        (site.at / NAME).parent.mkdir(parents=True)
        if old is not None:
            (site.at / NAME).write_bytes(old)
            run(self.program, "--quiet", "manifest", site.at / NAME)
        site.relay.forget()

    def finish(self, site, client, child):
        """Whatever the client was told, the object and its manifest are there at the end, and nothing else."""
        ended = client.ended(child).must(0)
        site.check_published(NAME, client.source)
        site.check_nothing_is_staged()
        return ended


def words_of(path):
    """Of the query of the URL of a part."""
    return dict(word.split("=") for word in path.partition("?")[2].split("&"))


def session_and_index(path):
    words = path.partition("?")[0].split("/")
    return words[3], int(words[5])


class UploadSteps(Acknowledged):
    name = "upload-steps"
    programs = ("strace",)
    unit = "kills"
    full = 10**9
    short = 5

    def steps(self):
        old = self.set_up()
        self.seen = set()
        cases = [(at_start, calls, older) for at_start in (False, True) for older in (None, old) for calls in (*CALLS, ALL_CALLS)]
        if self.is_short:
            self.random.shuffle(cases)
        for at_start, calls, older in cases:
            yield from self.every(at_start, calls, older)

    def every(self, at_start, calls, old):
        for number in range(1, 1000):
            if self.is_short:
                number = self.random.randrange(1, 6)
            try:
                if not self.one(at_start, calls, number, old):
                    # No thread makes so many of these calls: this kind is done.
                    return
            except Wrong as error:
                when = "the start" if at_start else "an upload"
                self.wrong(f"before call {number} of {calls} of {when}, an older object: {old is not None}: {error}")
            yield
            if self.is_short:
                return

    def one(self, at_start, calls, number, old):
        """Returns whether the server was killed."""
        site, client = self.site, self.client
        self.prepare(site, old)
        trace = self.folder / "trace"
        trace.unlink(missing_ok=True)
        tracing = ["strace", "-f", "-qq", "-y", "-s", "0", "-o", str(trace), "-e", f"trace={calls}",
                   "-e", f"inject={calls}:signal=KILL:when={number}"]
        if at_start:
            if lived := site.serve(before=tracing):
                site.kill()
            else:
                self.add("kills_at_start")
                self.note(trace)
            site.must_serve()
            self.finish(site, client, client.start())
            return not lived
        site.must_serve()
        tracer = attached(tracing, site.server.pid)
        child = client.start()
        self.until_dead_or_done(child)
        lived = site.server.poll() is None
        tracer.terminate()
        tracer.wait()
        if lived:
            self.finish(site, client, child)
            return False
        site.kill()
        self.add("kills")
        self.note(trace)
        self.check_state(site, client.source, old)
        site.must_serve(with_relay=False)
        self.check_acknowledged(site)
        self.check_state(site, client.source, old)
        site.relay.up()
        self.finish(site, client, child)
        # The same push again: the object stays whole.
        client.push().must(0)
        site.check_published(NAME, client.source)
        return True

    def until_dead_or_done(self, child):
        """Until the server was killed, or has cleaned up behind a client that has ended."""
        until = time.monotonic() + LONG_ENOUGH_S
        while self.site.server.poll() is None:
            if child.poll() is not None and not self.site.staged():
                wait(self.site.server, 0.3)
                return
            if time.monotonic() > until:
                raise Wrong("it hangs")
            time.sleep(0.01)

    def note(self, trace):
        """Which call it was, and of which kind of file."""
        calls = [line.split(None, 1)[1] for line in trace.read_text(errors="replace").splitlines() if "(" in line]
        if calls:
            self.seen.add(calls[-1].partition("(")[0] + " " + kind_of_path(calls[-1]))
            self.counts["different"] = len(self.seen)

    def close(self):
        if hasattr(self, "site"):
            self.site.close()

    def figure(self):
        return (f"{self['kills']} kills of a server before the n-th call of an upload, {self['kills_at_start']} of its start, "
                f"{self['different']} different calls and files: {self['wrong']} wrong or stuck; "
                f"{self['acknowledged']} acknowledgements before them were all true but for those")


def attached(tracing, process):
    """A tracer of a process that runs."""
    tracer = subprocess.Popen([*tracing, "-p", str(process)], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    until = time.monotonic() + 60
    while any("TracerPid:\t0\n" in status for status in statuses(process)):
        if tracer.poll() is not None or time.monotonic() > until:
            raise Wrong(f"strace: {tracer.stderr.read().decode()}")
        time.sleep(0.005)
    return tracer


def statuses(process):
    """Of all threads."""
    for task in os.listdir(f"/proc/{process}/task"):
        try:
            with open(f"/proc/{process}/task/{task}/status") as file:
                yield file.read()
        except (FileNotFoundError, ProcessLookupError):
            continue


def kind_of_path(call):
    kinds = ("url.key", "audit.jsonl", "sqlite-wal", "sqlite-shm", "sqlite", ".new.record", ".record", "object", "manifest", "publishing",
             "published", "lock", "talk.mp4.sapwood", "talk.mp4", "eventfd", "socket", "state")
    return next((kind for kind in kinds if kind in call), "folder")


class UploadPower(Acknowledged):
    """Power cuts of the disk that the server writes to; the client is on another one, and goes on by itself."""

    name = "upload-power"
    programs = ("strace", "mkfs.ext4")
    unit = "cuts"
    full = 50
    short = 3
    tracer = None

    def steps(self):
        self.disk = Mounted(self.folder, "disk").make_image("ext4", 128 * MIB)
        source = self.folder / "source"
        write_random(source, 2 * PART + MIB + 77)
        self.old = os.urandom(MIB + 5)
        self.site = Site(self.program, self.folder)
        self.site.at = self.disk.at / "served"
        self.client = Client(self.program, self.folder / "client", self.site, source, NAME, *SMALL_PARTS, "--replace", "--no-store")
        self.control()
        yield
        uploads = 0
        while True:
            uploads += 1
            trail = []
            old = self.old if uploads % 2 == 0 else None
            try:
                yield from self.one(old, trail)
            except Wrong as error:
                self.wrong(f"an older object: {old is not None}, cuts: {', '.join(trail)}: {error}")
            self.add("uploads")
            yield

    def begin(self, old):
        self.prepare(self.site, old)
        run("sync", "-f", self.disk.at)
        self.site.must_serve()

    def one(self, old, trail):
        site, client = self.site, self.client
        self.begin(old)
        child = client.start()
        for _ in range(self.random.randrange(1, 4)):
            moment = self.random.choices((self.after_time, self.behind_call, self.at_end), (4, 4, 1))[0]
            trail.append(moment.__name__)
            moment(child)
            self.write_some_back(trail)
            self.cut()
            self.add("cuts")
            self.check_state(site, client.source, old)
            site.must_serve(with_relay=False)
            self.check_acknowledged(site)
            if child.poll() is not None:
                break
            site.relay.up()
            yield
        site.relay.rate = None
        self.finish(site, client, child)

    def after_time(self, child):
        self.site.relay.rate = 6 * MIB
        wait(child, self.random.uniform(0, 2.5))

    def behind_call(self, child):
        """Right behind the n-th call that changes something: it takes so long that nothing comes after it."""
        self.site.relay.rate = None
        calls = self.random.choice((ALL_CALLS, *CALLS))
        number = self.random.randrange(1, 40 if calls == ALL_CALLS else 10)
        trace = self.folder / "trace"
        trace.unlink(missing_ok=True)
        tracer = attached(["strace", "-f", "-qq", "-o", str(trace), "-e", f"trace={calls}",
                           "-e", f"inject={calls}:delay_exit={DELAY_US}:when={number}"], self.site.server.pid)
        until = time.monotonic() + LONG_ENOUGH_S
        while child.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
            if trace.exists() and b"(DELAYED)" in trace.read_bytes():
                break
        self.tracer = tracer

    def at_end(self, child):
        self.site.relay.rate = None
        wait(child, LONG_ENOUGH_S)

    def write_some_back(self, trail):
        """The kernel may have written any of it before the power went."""
        share = self.random.choice((0, 0, 0.3, 1))
        trail.append(f"{share:.0%} written")
        paths = [os.path.join(place, name) for place, _, names in os.walk(self.site.at) for name in names]
        for path in self.random.sample(sorted(paths), int(share * len(paths))):
            try:
                file = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                continue
            os.fsync(file)
            os.close(file)

    def cut(self):
        """The server ends before the disk does: it could be told that all is well."""
        os.killpg(self.site.server.pid, signal.SIGKILL)
        self.disk.cut_power()
        if self.tracer is not None:
            # The server is not gone before its tracer is, which still waits.
            self.tracer.kill()
            self.tracer.wait()
            self.tracer = None
        self.site.kill()
        self.disk.unmount()
        self.disk.mount()

    def control(self):
        """With a disk that lies about syncs the same check must fail."""
        failed, controls = 0, 1 if self.is_short else CONTROLS
        for _ in range(controls):
            self.prepare(self.site, None)
            run("sync", "-f", self.disk.at)
            self.site.serve(before=under_strace(f"trace={SYNCS}", f"inject={SYNCS}:retval=0"))
            child = self.client.start()
            self.client.ended(child).must(0)
            self.cut()
            try:
                self.site.must_serve(with_relay=False)
                self.check_acknowledged(self.site)
                self.site.check_published(NAME, self.client.source)
            except (Wrong, OSError, KeyError):
                failed += 1
            self.site.check_no_panic()
        self.site.kill()
        self.add("controls", controls)
        self.add("controls_failed", failed)
        if failed == 0:
            self.wrong("no control failed: without syncs nothing was lost in a power cut, so this sweep sees nothing")

    def close(self):
        if hasattr(self, "site"):
            self.site.close()
        if hasattr(self, "disk"):
            self.disk.close()

    def figure(self):
        return (f"{self['cuts']} power cuts of a server in {self['uploads']} uploads on ext4: {self['wrong']} wrong or stuck; "
                f"{self['acknowledged']} acknowledgements before them were all true but for those; "
                f"the controls without syncs failed {self['controls_failed']} of {self['controls']} times, as they must")
