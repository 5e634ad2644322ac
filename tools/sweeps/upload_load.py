"""Thousands of sessions and hundreds of clients at once, on two servers over one Postgres, with objects in Garage."""

import asyncio
import os
import random
import re
import secrets
import signal
import statistics
import subprocess
import time

import garage
from garage import BUCKET, Garage, write_aws

from . import machine
from .crowd import PART, Client, Crowd, Failed, Item, Share
from .database import DATABASE, Postgres
from .scene import LONG_ENOUGH_S, Wrong, environment
from .sweep import Sweep

# An owner may have 1000 sessions that are not done.
OWNERS = 16
# One object in so many has a second part; parts but the last have 5 MiB, so most have one small one.
WITH_TWO_PARTS = 50
MEASURED = ("open", "target", "part", "checkpoint", "status", "finalize")
TICKS = os.sysconf("SC_CLK_TCK")


class Server:
    """One that shares its sessions. It keeps its port when it is started again."""

    def __init__(self, program, folder, *flags):
        self.program, self.folder, self.flags = program, folder, flags
        (folder / "own").mkdir(parents=True)
        self.port, self.process = 0, None
        self.cpu_s, self.peak = 0.0, 0

    def start(self):
        printed = self.folder / "url"
        with open(printed, "wb") as stdout, open(self.folder / "stderr", "ab") as stderr:
            self.process = subprocess.Popen(
                [self.program, "serve", self.folder / "own", "--no-manifests", "--ingest", "--listen", f"127.0.0.1:{self.port}", *self.flags],
                env=environment(self.folder), stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True)
        until = time.monotonic() + LONG_ENOUGH_S
        while not (url := printed.read_text()).endswith("\n"):
            if self.process.poll() is not None or time.monotonic() > until:
                raise Wrong(f"a server does not start: {self.stderr()[-1000:]}")
            time.sleep(0.01)
        self.port = int(re.search(r":(\d+)/", url)[1])

    def stderr(self):
        return (self.folder / "stderr").read_text(errors="replace")

    def kill(self):
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None
        if "panicked" in self.stderr():
            raise Wrong(f"a server panicked: {self.stderr()[-2000:]}")


def cpu_s(pids):
    """Processor time of processes that live, with that of children that have ended."""
    ticks = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat") as stat:
                fields = stat.read().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks / TICKS


def peak_bytes(pid):
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read())[1]) * 1024


def shared_bytes(pids):
    """What several processes share is counted once."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup") as smaps:
                total += int(re.search(r"^Pss:\s+(\d+) kB", smaps.read(), re.MULTILINE)[1]) * 1024
        except OSError:
            continue
    return total


def in_ms(times):
    """Median and the hundredth that is slowest."""
    ordered = sorted(times)
    return statistics.median(ordered) * 1000, ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] * 1000


class Shared(Sweep):
    """Two servers, Postgres, Garage, and objects for the crowd."""

    programs = ("b3sum",)
    # Garage takes minutes to build. By name the short form is there too.
    in_short = False
    storage, database, servers_count = "s3", "postgres", 2

    def set_up(self, objects):
        self.node = self.postgres = self.crowd = None
        self.servers = []
        token_file = self.folder / "tokens"
        self.tokens = [secrets.token_hex(16) for _ in range(OWNERS)]
        token_file.write_text("".join(f"owner{number} {token}\n" for number, token in enumerate(self.tokens)))
        flags = ["--token-file", token_file]
        if self.database == "postgres":
            self.postgres = Postgres(self.folder / "postgres")
            flags += ["--sessions", self.postgres.url]
        if self.storage == "s3":
            try:
                self.node = Garage(self.folder / "garage").__enter__()
            except garage.Failure as error:
                raise machine.Missing(str(error)) from error
            flags += ["--storage", f"s3://{BUCKET}/load"]
        for number in range(self.servers_count):
            home = self.folder / f"server-{number}"
            server = Server(self.program, home, *flags)
            if self.node:
                write_aws(home, self.node.endpoint)
            self.servers.append(server)
            server.start()
        self.items = self.objects(objects)

    def objects(self, count):
        folder = self.folder / "objects"
        folder.mkdir()
        paths = []
        for number in range(count):
            length = self.random.randrange(1, 32 * 1024) + (PART if number % WITH_TWO_PARTS == 1 else 0)
            path = folder / str(number)
            path.write_bytes(self.random.randbytes(length))
            paths.append(path)
        roots = []
        for at in range(0, count, 1000):
            done = subprocess.run(["b3sum", "--no-names", *paths[at:at + 1000]], capture_output=True, text=True, check=True)
            roots += done.stdout.split()
        return [Item(number, path, path.stat().st_size, root, self.tokens[number % OWNERS])
                for number, (path, root) in enumerate(zip(paths, roots))]

    def report(self, text):
        """For the short form its figure suffices."""
        if self.is_short and "WRONG" not in text:
            return
        print(f"{self.name}: {text}", flush=True)

    def watch(self, crowd, what, each_s=1.0, at_each=None):
        """Until the crowd is done: the largest memory, and what the connections of the database wait for."""
        waits, looks, memory = {}, 0, 0
        began = time.monotonic()
        groups = self.groups()
        before = {name: cpu_s(pids()) for name, pids in groups.items()}
        statements = self.postgres.statements() if self.postgres else 0
        while not crowd.is_done():
            time.sleep(each_s)
            if at_each:
                at_each()
            if self.postgres:
                memory = max(memory, shared_bytes(self.postgres.processes()))
                looks += 1
                for kind, count in self.postgres.waits():
                    waits[kind] = waits.get(kind, 0) + int(count)
        times, repeated, failures = crowd.ended()
        took = time.monotonic() - began
        self.add("wrong", len(failures))
        for failure in failures[:10]:
            self.report(f"WRONG: {failure}")
        requests = sum(map(len, times.values()))
        self.add("requests", requests)
        self.report(f"{what}: {requests} requests in {took:.0f} s, {requests / took:.0f} a second, {len(failures)} errors, repeated: {repeated or 0}")
        for kind, each in sorted(times.items()):
            median, slow = in_ms(each)
            self.report(f"  {kind}: {len(each)}, median {median:.1f} ms, p99 {slow:.1f} ms, longest {max(each) * 1000:.0f} ms")
        used = {name: cpu_s(pids()) - before[name] for name, pids in groups.items()}
        self.report("  processor seconds: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in used.items()))
        if self.postgres:
            ran = self.postgres.statements() - statements
            self.report(f"  {ran} statements, {ran / max(1, len(times.get('checkpoint', times.get('open', [0])))):.1f} for each "
                        f"{'checkpoint' if 'checkpoint' in times else 'open'}; Postgres has {memory / 1e6:.0f} MB")
            shown = sorted(waits.items(), key=lambda wait: -wait[1])[:6]
            self.report(f"  connections at a time, {looks} looks: " + ", ".join(f"{kind} {count / looks:.1f}" for kind, count in shown))
        return times, repeated, failures

    def groups(self):
        groups = {"servers": lambda: [server.process.pid for server in self.servers if server.process]}
        if self.postgres:
            groups["Postgres"] = self.postgres.processes
        if self.node:
            groups["Garage"] = lambda: [self.node.server.pid]
        groups["clients"] = lambda: self.crowd.pids
        return groups

    def statements_of_requests(self):
        """By a client that is alone. What the servers themselves ask from time to time may be among it, so the smallest count is told."""
        items = [self.items.pop() for _ in range(5)]
        client = Client(Share(items, [server.port for server in self.servers], 1, False, 1), [server.port for server in self.servers],
                        random.Random(1), False)
        counts = {}

        async def timed(kind, *words):
            before = self.postgres.statements()
            answered = await whole(kind, *words)
            counts.setdefault(kind, []).append(self.postgres.statements() - before)
            return answered

        whole, client.timed = client.timed, timed

        async def all_of():
            for item in items:
                await client.open(item)
                await client.send(item)
                while not await client.look(item):
                    pass
            client.close()

        try:
            asyncio.run(all_of())
        except Failed as error:
            raise Wrong(str(error)) from error
        self.statements = {kind: min(each) for kind, each in counts.items()}
        self.report("statements of one request: " + ", ".join(f"{kind} {count}" for kind, count in self.statements.items()))

    def close(self):
        for server in getattr(self, "servers", []):
            server.kill()
        if getattr(self, "crowd", None):
            self.crowd.close()
        if getattr(self, "postgres", None):
            self.postgres.close()
        if getattr(self, "node", None):
            self.node.__exit__()


class UploadLoad(Shared):
    """All sessions are opened first, and then filled and finalized."""

    name = "upload-load"
    unit = "loads"
    full = 1
    short = 1

    def steps(self):
        sessions, clients = (100, 20) if self.is_short else (5000, 200)
        self.set_up(sessions + 5)
        if self.postgres:
            self.statements_of_requests()
        self.crowd = Crowd(self.items, [server.port for server in self.servers], clients)
        self.watch(self.crowd_at("opening"), f"{len(self.items)} sessions opened by {clients} clients")
        if self.postgres:
            self.report("  " + ", ".join(f"{table}: {rows} rows, {size / 1e6:.1f} MB" for table, (size, rows) in self.postgres.bytes_of_tables().items()))
        times, _, _ = self.watch(self.crowd_at("uploading"), f"target, part, checkpoint, status, finalize by {clients} clients")
        self.counts["sessions"] = len(self.items)
        for kind in ("target", "checkpoint"):
            self.counts[f"{kind}_ms"] = [round(of, 1) for of in in_ms(times[kind])]
        if self.postgres:
            self.report("  " + ", ".join(f"{table}: {rows} rows, {size / 1e6:.1f} MB" for table, (size, rows) in self.postgres.bytes_of_tables().items()))
            for calls, total, mean, text in self.postgres.most():
                self.report(f"  {calls} calls, {total} ms, {mean} ms each: {text}")
        self.counts["peak_mb"] = [round(peak_bytes(server.process.pid) / 1e6) for server in self.servers]
        self.report(f"  peak memory of the servers: {self.counts['peak_mb']} MB")
        self.watch(self.crowd_at("checking"), "objects and manifests read")
        self.add("loads")
        yield

    def crowd_at(self, phase):
        self.crowd.start(phase)
        return self.crowd

    def figure(self):
        times = lambda kind: " and ".join(f"{ms} ms" for ms in self[f"{kind}_ms"] or ())
        asked = ", ".join(f"{kind} {count}" for kind, count in getattr(self, "statements", {}).items())
        return (f"{self['sessions']} sessions, {self['requests']} requests: {self['wrong']} errors; median and p99 of target {times('target')}, "
                f"of checkpoint {times('checkpoint')}; peak memory of the servers {self['peak_mb']} MB"
                f"{'; statements of one request: ' if asked else ''}{asked}")


class UploadLoadFolder(UploadLoad):
    """The same with one server, a folder and SQLite, for comparison."""

    name = "upload-load-folder"
    storage, database, servers_count = "folder", "sqlite", 1


class UploadLoadOne(UploadLoad):
    """One server, a folder and Postgres: needs no Garage, so it is a part of every short run."""

    name = "upload-load-one"
    storage, servers_count = "folder", 1
    in_short = True


class UploadLoadKills(Shared):
    """One of the two servers is killed every 30 seconds, in turns, and started again at once."""

    name = "upload-load-kills"
    unit = "kills"
    full = 10
    short = 3

    def steps(self):
        self.goal = self.short if self.is_short else self.full
        clients, self.apart_s = (40, 1.0) if self.is_short else (200, 30.0)
        # More than they can get done.
        self.set_up(1000 if self.is_short else 8_000)
        self.crowd = Crowd(self.items, [server.port for server in self.servers], clients, repeats=True)
        self.next, self.killed = time.monotonic() + self.apart_s, 0
        self.crowd.start("all_of_it", (self.goal + 0.5) * self.apart_s)
        _, repeated, _ = self.watch(self.crowd, "uploads while servers are killed", 0.5, self.kill_when_due)
        self.add("repeated", sum(repeated.values()))
        self.crowd.start("counting")
        self.add("sessions", len(self.crowd.ended()[0]["items"]))
        states = dict(self.states())
        self.report(f"  states of the sessions: {states}")
        if set(states) != {"done"}:
            self.wrong(f"the states of the sessions are {states}")
        self.crowd.start("checking")
        self.watch(self.crowd, "objects and manifests read")
        for server in self.servers:
            server.kill()
        yield

    def states(self):
        done = self.postgres.ask("SELECT state, count(*) FROM sapwood_sessions GROUP BY state", DATABASE)
        return [(state, int(count)) for state, count in done]

    def kill_when_due(self):
        if time.monotonic() < self.next or self.killed >= self.goal:
            return
        server = self.servers[self.killed % len(self.servers)]
        server.kill()
        server.start()
        self.killed += 1
        self.add("kills")
        self.next += self.apart_s

    def figure(self):
        return (f"{self['sessions']} sessions, {self['requests']} requests, {self['kills']} kills of a server, {self['repeated']} requests "
                f"repeated: {self['wrong']} wrong or stuck")
