"""`sapwood push` to a real S3 server: kills of both, and a relay between them that lies."""

import shutil
import subprocess
import threading
import time

import garage
from garage import BUCKET, Garage, write_aws

from . import machine, s3_relay
from .s3_relay import LIES, Relay
from .scene import MIB, Ended, Runs, Wrong, environment, painted
from .site import Client, Site
from .sweep import Sweep

# Of engine/push: so much may be on its way when it dies.
PARTS_AT_ONCE, PART_BYTES = 6, 5 * MIB
# Four parts, the last one short.
SMALL, MIDDLE, LARGE = 18 * MIB + 12_345, 64 * MIB + 54_321, 2048 * MIB
MIDDLE_RATE, LARGE_RATE = 32 * MIB, 96 * MIB
NAME = "take 1/räw.mov"
# Runs in a row until it ends; each may end with 5, which says: run it again.
RUNS_MAX = 12
LARGE_KILLS, LARGE_RESTARTS = 20, 10
AWAY_S = 1.5
# What a lie costs at most: the part that it concerns, sent again.
LIES_ABOUT_PARTS = ("part", "parts", "complete")


class Pushes(Runs):
    """Of one file, to one name after another."""

    def __init__(self, program, folder, node, random):
        self.program, self.folder, self.node, self.random = program, folder, node, random
        self.relay = Relay(node.port, random)
        self.source, self.number = folder / "source", 0
        self.more, self.forgot, self.is_attested = (), False, False
        # The length and hash of what may have the name too.
        self.earlier = None
        write_aws(folder, self.relay.endpoint)

    def take(self, length, seed):
        with open(self.source, "wb") as source:
            for at in range(0, length, 16 * MIB):
                source.write(painted(min(16 * MIB, length - at), seed + at))
        self.length, self.hash = length, b3sum(open_pieces(self.source))

    def begin(self):
        """Another name, and a relay that only counts."""
        self.number += 1
        self.prefix = f"{self.number}/"
        self.key = self.prefix + NAME
        self.more, self.forgot, self.is_attested = (), False, self.random.random() < 0.3
        self.earlier = None
        self.relay.rate, self.relay.share, self.relay.armed, self.relay.watch = None, 0.0, [], None
        self.relay.forget()

    def change(self):
        """5 % of the source, somewhere, are other bytes."""
        self.earlier = (self.length, self.hash)
        data = bytearray(self.source.read_bytes())
        length = self.length // 20
        at = self.random.randrange(self.length - length)
        data[at:at + length] = self.random.randbytes(length)
        self.source.write_bytes(data)
        self.hash = b3sum([data])

    def command(self, *more):
        return [self.program, "--json", "push", self.source, f"s3://{BUCKET}/{self.key}", "--part-size", str(PART_BYTES),
                "--patience", "60s", *(["--attested"] if self.is_attested else []), *self.more, *more]

    def forget_here(self):
        """As on another machine: nothing is known here of what was sent."""
        self.forgot = True
        for path in (self.folder / ".local", self.folder / ".cache"):
            shutil.rmtree(path, ignore_errors=True)

    def check(self, done=False):
        """At every moment: nothing or the whole object has the name. At the end: it and its manifest, and nothing else."""
        keys = self.node.keys(self.prefix)
        names = (self.key, f"{self.key}.sapwood")
        if names[1] in keys and names[0] not in keys:
            raise Wrong("a manifest without its object")
        if names[0] in keys:
            found = (keys[names[0]], b3sum(self.node.pieces(names[0])))
            if found != (self.length, self.hash) and (done or found != self.earlier):
                raise Wrong(f"the object has {keys[names[0]]} bytes that are not those of the source")
        if not done:
            return
        # Not before: those that are under way would be lost.
        if self.forgot and not set(names) - set(keys):
            self.give_up_others()
            keys = self.node.keys(self.prefix)
        # A push that is killed between two requests leaves one to the name itself without parts: no note named it yet.
        if left := [(key, upload) for key, upload in self.node.uploads(self.prefix)
                    if key != self.key or self.node.parts(key, upload)]:
            raise Wrong(f"multipart uploads are left: {left}")
        if set(keys) != set(names):
            raise Wrong(f"these objects are there: {sorted(keys)}")
        manifest = self.folder / "manifest"
        manifest.write_bytes(b"".join(self.node.pieces(names[1])))
        proven = subprocess.run([self.program, "--quiet", "verify", self.source, "--manifest", manifest], capture_output=True, text=True)
        if proven.returncode != 0:
            raise Wrong(f"the manifest is not that of the source: {proven.stderr}")

    def is_published(self):
        """A push that was killed when all was done cannot know it: the next one says that the name is taken."""
        self.relay.settle()
        try:
            self.check(done=True)
            return True
        except Wrong:
            self.check()
            return False

    def give_up_others(self):
        """Who has forgotten an upload before its first part does not find it again; it is listed, and given up by hand."""
        folder = f"s3://{BUCKET}/{self.prefix}{NAME.rpartition('/')[0]}/"
        empty = [upload for key, upload in self.node.uploads(self.prefix) if key != self.key and not self.node.parts(key, upload)]
        listed = self.told("--list", folder)
        ids = [line["session"] for line in listed.events() if line["event"] == "upload"]
        if empty and not ids:
            raise Wrong(f"{len(empty)} uploads without parts are left, and not listed")
        for session in ids:
            self.told("--abort", session, folder)

    def told(self, *words):
        child = subprocess.run([self.program, "--json", "push", *words], env=environment(self.folder), capture_output=True, text=True)
        return Ended(child.returncode, child.stdout, child.stderr).must(0)

    def must_finish(self, *exits):
        """The same command, until it says that all is published."""
        ended = []
        for _ in range(RUNS_MAX):
            found = self.ended(self.start()).must(0, *exits)
            ended.append(found.exit)
            if found.exit == 0:
                break
            self.check()
        else:
            raise Wrong(f"it does not end: exits {ended}: {found.stderr[-500:]}")
        if not found.event("published"):
            raise Wrong("exit 0, and nothing was published")
        self.check(done=True)
        return found

    @property
    def again(self):
        return max(0, self.relay.content_bytes - self.length)

    def must_have_sent_again_at_most(self, interruptions, parts=PARTS_AT_ONCE):
        limit = interruptions * parts * PART_BYTES
        if self.again > limit:
            raise Wrong(f"{self.again} bytes were sent again, of at most {limit}, after {interruptions} interruptions")

    def close(self):
        self.relay.close()


class UploadS3(Sweep):
    name = "upload-s3"
    programs = ("b3sum",)
    # The server takes minutes to build. By name the short form is there too.
    in_short = False

    def steps(self):
        try:
            self.node = Garage(self.folder / "garage").__enter__()
        except garage.Failure as error:
            raise machine.Missing(str(error)) from error
        self.pushes = Pushes(self.program, self.folder, self.node, self.random)
        self.pushes.take(SMALL, 1)
        self.one("poisoned part", self.poisoned)
        yield
        if not self.is_short:
            self.pushes.take(LARGE, 3)
            self.one("large", self.large)
            yield
            self.pushes.take(SMALL, 1)
        for part in (self.each_lie, self.each_request):
            yield from part()
        self.pushes.take(16 * MIB + 54_321 if self.is_short else MIDDLE, 2)
        rounds = (self.kills, self.lies, self.kills_and_lies, self.restarts, self.replaced)
        for _ in range(1 if self.is_short else 20):
            # A server that is killed while it publishes leaves a lease, and the next one waits for two minutes.
            for one in rounds if self.is_short else (*rounds, self.through_a_server, self.replaced_through_a_server):
                self.one(one.__name__, one)
                yield

    def one(self, what, how, *words):
        self.pushes.begin()
        try:
            how(*words)
        except (Wrong, garage.Failure) as error:
            told = ", ".join(self.pushes.relay.told) or "no lies"
            self.wrong(f"{what} {' '.join(map(str, words))}: {error} ({told})")
            self.node.kill()
            self.node.start()
        self.add("pushes")

    def figures(self, kind, interruptions):
        self.add(kind, interruptions)
        self.add(f"again_{kind}", self.pushes.again)

    # -----------------------------------------------------------------------------------------------

    def each_lie(self):
        """Every lie about every kind of request, told once, and twice in a row."""
        every = [(kind, lie, times) for kind, lies in LIES.items() for lie in lies for times in (1, 2)
                 if (lie, times) != ("skewed", 2)]
        for kind, lie, times in self.random.sample(every, 6) if self.is_short else every:
            self.one("lie", self.lie, kind, lie, times)
            yield

    def lie(self, kind, lie, times):
        relay = self.pushes.relay
        # A URL of a part may be refused once, then a fresh one is good.
        relay.armed = [(kind, lie, number + 1) if lie.startswith("expired") else (kind, lie) for number in range(times)]
        self.pushes.must_finish(5)
        told = times - len(relay.armed)
        self.add("lies", told)
        self.pushes.must_have_sent_again_at_most(told, 1)

    def poisoned(self):
        """A part is stored, nobody learns of it, and it is sent again, half. Garage lists the first one, and refuses to complete with it."""
        pushes, part, sent = self.pushes, 2, []
        pushes.is_attested = False
        pushes.relay.armed = [("part", "lost-after", part), ("part", "cut", part)]

        def watch(request, _, when):
            if request.part == part and when == "before":
                sent.append(request)
                if len(sent) == 3:
                    child.kill()

        pushes.relay.watch = watch
        child = pushes.start()
        ended = pushes.ended(child)
        pushes.relay.watch = None
        if ended.exit == 0:
            raise Wrong("a push that was to be killed when it sends a part for the third time ended before")
        before = pushes.relay.content_bytes
        pushes.must_finish()
        if pushes.relay.content_bytes - before > 2 * PART_BYTES:
            raise Wrong(f"{pushes.relay.content_bytes - before} bytes were sent again for one part")
        self.figures("kills", 1)

    def each_request(self):
        """Killed before and after every request that one push makes."""
        for is_attested in (False, True):
            yield from self.each_request_of(is_attested)

    def each_request_of(self, is_attested):
        for number in range(1, 200):
            if self.is_short and self.random.random() < 0.9:
                continue
            for moment in ("before", "after"):
                self.reached = False
                self.one("kill at request", self.kill_at, number, moment, is_attested)
                yield
                if not self.reached:
                    return
        self.wrong("a push makes 200 requests")

    def kill_at(self, number, moment, is_attested):
        pushes = self.pushes
        pushes.is_attested = is_attested
        started, child = threading.Event(), []

        def watch(_, at, when):
            if (at, when) == (number, moment):
                started.wait()
                self.reached = True
                child[0].kill()

        pushes.relay.watch = watch
        child.append(pushes.start())
        started.set()
        ended = pushes.ended(child[0])
        pushes.relay.watch = None
        if not self.reached:
            ended.must(0)
            pushes.check(done=True)
            return
        if not pushes.is_published():
            if self.random.random() < 0.3:
                pushes.forget_here()
            pushes.must_finish()
        self.figures("kills", 1)
        pushes.must_have_sent_again_at_most(1)

    def kills(self):
        kills = self.killed_until_published()
        self.figures("kills", kills)
        self.pushes.must_have_sent_again_at_most(kills)

    def replaced(self):
        """By an object of which the earlier one has most: killed while parts are copied and sent."""
        pushes = self.pushes
        pushes.must_finish()
        pushes.change()
        pushes.more = ("--replace",)
        pushes.relay.forget()
        self.must_have_sent_what_is_new(self.killed_until_published())

    def must_have_sent_what_is_new(self, kills):
        pushes = self.pushes
        self.add("kills_replacing", kills)
        sent, limit = pushes.relay.content_bytes, pushes.length // 20 + (4 + kills * PARTS_AT_ONCE) * PART_BYTES
        if sent > limit:
            raise Wrong(f"{sent} bytes were sent of an object of which 5 % are new, of at most {limit}, after {kills} kills")

    def killed_until_published(self):
        """How often it was killed."""
        pushes = self.pushes
        pushes.relay.rate = MIDDLE_RATE
        kills = 0
        # Longer from kill to kill, so that a slow machine gets anywhere too.
        while pushes.killed_after(self.random.uniform(0.05, 1 + kills / 10)):
            kills += 1
            if pushes.is_published():
                break
            if self.random.random() < 0.2:
                pushes.forget_here()
            if kills > 100:
                raise Wrong("it makes no progress")
        pushes.check(done=True)
        return kills

    def lies(self):
        relay = self.pushes.relay
        relay.share = self.random.uniform(0.02, 0.3)
        self.pushes.must_finish(5)
        told = sum(relay.told.values())
        self.add("lies", told)
        about_parts = sum(count for lie, count in relay.told.items() if lie.split(":")[0] in LIES_ABOUT_PARTS)
        self.pushes.must_have_sent_again_at_most(about_parts, 1)

    def kills_and_lies(self):
        pushes, kills = self.pushes, 0
        pushes.relay.rate, pushes.relay.share = MIDDLE_RATE, 0.1
        for _ in range(8):
            child = pushes.start()
            try:
                child.wait(self.random.uniform(0.05, 3))
                if pushes.ended(child).must(0, 5).exit == 0:
                    break
            except subprocess.TimeoutExpired:
                pushes.kill(child)
                kills += 1
            if pushes.is_published():
                break
        else:
            pushes.must_finish(5)
        pushes.check(done=True)
        self.add("kills_among_lies", kills)
        self.add("lies", sum(pushes.relay.told.values()))

    def restarts(self):
        self.pushes.relay.rate = MIDDLE_RATE
        count = self.restart_while(self.pushes.start(), 3, 1.0)
        self.figures("restarts", count)
        self.pushes.must_have_sent_again_at_most(count)

    def restart_while(self, child, times, apart_s):
        """The server dies and comes back while a push runs, which gets to its end."""
        count = 0
        for _ in range(times):
            try:
                child.wait(self.random.uniform(0.1, apart_s))
                break
            except subprocess.TimeoutExpired:
                self.node.kill()
                self.pushes.relay.cut_all()
                time.sleep(self.random.uniform(0, AWAY_S))
                self.node.start()
                count += 1
        if self.pushes.ended(child).must(0, 5).exit == 5:
            self.pushes.must_finish()
        self.pushes.check(done=True)
        return count

    def through_a_server(self):
        """`serve --ingest --storage s3://`: parts go from the client to S3; the client and the server are killed in turns."""
        kills = self.killed_through_a_server(replaces=False)
        self.figures("kills_through_a_server", kills)
        self.pushes.must_have_sent_again_at_most(kills)

    def replaced_through_a_server(self):
        self.must_have_sent_what_is_new(self.killed_through_a_server(replaces=True))

    def killed_through_a_server(self, replaces):
        """How often one of the two was killed."""
        pushes, kills = self.pushes, 0
        pushes.relay.rate = MIDDLE_RATE
        home = self.folder / f"site-{pushes.number}"
        home.mkdir()
        site = Site(self.program, home, "--storage", f"s3://{BUCKET}/{pushes.prefix}", "--sessions", home / "sessions")
        write_aws(site.home, pushes.relay.endpoint)
        try:
            site.must_serve()
            client = Client(self.program, home / "client", site, pushes.source, NAME, "--part-size", str(PART_BYTES),
                            *(["--replace"] if replaces else []))
            if replaces:
                client.push().must(0)
                pushes.change()
                pushes.relay.forget()
            child = client.start()
            for whom in (client, site) * 3:
                try:
                    child.wait(self.random.uniform(0.05, 1.5))
                    break
                except subprocess.TimeoutExpired:
                    kills += 1
                if whom is client:
                    client.kill(child)
                    child = client.start()
                else:
                    site.kill()
                    site.must_serve()
                pushes.check()
            client.ended(child).must(0)
        finally:
            site.close()
        pushes.check(done=True)
        return kills

    def large(self):
        """2 GiB, with kills of both sides."""
        pushes, kills = self.pushes, 0
        pushes.is_attested = False
        pushes.relay.rate = LARGE_RATE
        seconds = LARGE / LARGE_RATE / (LARGE_KILLS + LARGE_RESTARTS)
        count, killed = 0, True
        while killed and kills < LARGE_KILLS:
            killed = pushes.killed_after(self.random.uniform(0.3, 1.5) * seconds)
            kills += bool(killed)
            killed = killed and not pushes.is_published()
        if killed:
            count = self.restart_while(pushes.start(), LARGE_RESTARTS, 1.5 * seconds)
        pushes.check(done=True)
        self.add("large_kills", kills)
        self.add("large_restarts", count)
        self.add("again_large", pushes.again)
        pushes.must_have_sent_again_at_most(kills + count)

    def close(self):
        if hasattr(self, "pushes"):
            self.pushes.close()
        if hasattr(self, "node"):
            self.node.__exit__()

    def figure(self):
        per = lambda kind: self[f"again_{kind}"] // max(1, self[kind]) // 1024
        large = (f"; 2 GiB with {self['large_kills']} kills and {self['large_restarts']} restarts: {self['again_large'] // 1024} KiB again"
                 if self["large_kills"] else "")
        return (f"{self['pushes']} pushes to Garage {garage.VERSION} with {self['kills'] + self['kills_among_lies']} kills, "
                f"{self['restarts']} restarts of Garage and {self['lies']} lies, and {self['kills_through_a_server']} kills of pushes through "
                f"a server of ours, and {self['kills_replacing']} of pushes that replace most of an object by itself: {self['wrong']} wrong or stuck; "
                f"sent again, by the relay's count, {per('kills')} KiB per kill and "
                f"{per('restarts')} KiB per restart{large}")


def open_pieces(path):
    with open(path, "rb") as file:
        while piece := file.read(s3_relay.PIECE):
            yield piece


def b3sum(pieces):
    hashing = subprocess.Popen([machine.path_of("b3sum"), "--no-names"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for piece in pieces:
        hashing.stdin.write(piece)
    return hashing.communicate()[0].decode().strip()
