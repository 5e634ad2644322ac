"""Many clients that upload small objects at once, over connections that stay, to any of several servers. A process of its own runs a share of them."""

import asyncio
import hashlib
import json
import multiprocessing
import random
import time
import uuid
from urllib.parse import urlsplit

API = "/.sapwood/uploads"
# What a client repeats (upload.md, 3.10), after a pause.
REPEATED = {408, 425, 429, 500, 502, 503, 504}
PAUSE_S = 0.3
# A lease, a look of the server that goes on, and a slow machine.
STUCK_S = 600
MIB = 1 << 20
PART = 5 * MIB


class Item:
    """An object, and what became of it."""

    def __init__(self, number, path, length, root, token):
        self.number, self.path, self.length, self.root, self.token = number, path, length, root, token
        self.id = str(uuid.uuid4())
        self.name = f"shows/{number % 50}/{number}.bin"

    def parts(self):
        data = self.path.read_bytes()
        return [data[at:at + PART] for at in range(0, len(data), PART)]


class Connection:
    """HTTP/1.1, one request after another. A connection that the server ended meanwhile is opened again."""

    def __init__(self, host, port):
        self.host, self.port = host, port
        self.reader = self.writer = None

    def close(self):
        if self.writer is not None:
            self.writer.close()
            self.reader = self.writer = None

    async def request(self, method, target, body=b"", fields=()):
        """Status, fields and body."""
        fields = {"Host": f"{self.host}:{self.port}", **dict(fields)}
        if body or method in ("PUT", "POST"):
            fields["Content-Length"] = str(len(body))
        head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + "\r\n"
        is_old = self.writer is not None
        try:
            return await self.exchange(head.encode() + body)
        except (OSError, EOFError):
            self.close()
            # All requests may be repeated, and a connection may end while nobody uses it.
            if not is_old:
                raise
            try:
                return await self.exchange(head.encode() + body)
            except (OSError, EOFError):
                self.close()
                raise

    async def exchange(self, request):
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(self.host, self.port, limit=MIB)
        self.writer.write(request)
        await self.writer.drain()
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split(" ")[1])
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = b""
        if fields.get("transfer-encoding") == "chunked":
            while length := int(await self.reader.readline(), 16):
                body += await self.reader.readexactly(length)
                await self.reader.readline()
            await self.reader.readline()
        elif status != 204:
            body = await self.reader.readexactly(int(fields.get("content-length", 0)))
        if fields.get("connection") == "close":
            self.close()
        return status, fields, body


class Client:
    """One of them. `repeats`: servers are killed, so what fails is repeated, at any server."""

    def __init__(self, share, servers, random, repeats):
        self.share, self.random, self.repeats = share, random, repeats
        self.ports = servers
        self.servers = [Connection("127.0.0.1", port) for port in servers]
        self.others = {}

    def other(self, url):
        """The connection to the storage, or to a server."""
        parts = urlsplit(url)
        at = (parts.hostname, parts.port)
        if parts.hostname is None:
            return self.random.choice(self.servers), parts
        if at[1] in self.ports:
            return self.servers[self.ports.index(at[1])], parts
        return self.others.setdefault(at, Connection(*at)), parts

    async def say(self, kind, item, method, path, document, expected):
        """A request of the API to one of the servers; its document."""
        body = json.dumps(document).encode() if document is not None else b""
        fields = {"Authorization": f"Bearer {item.token}"}
        if body:
            fields["Content-Type"] = "application/json"
        status, _, answered = await self.timed(kind, expected, lambda: self.random.choice(self.servers), method, f"{API}/{item.id}{path}", body, fields)
        return status, json.loads(answered) if answered else None

    async def timed(self, kind, expected, connection, method, target, body, fields):
        until = time.monotonic() + STUCK_S
        while True:
            began = time.perf_counter()
            try:
                status, headers, answered = await connection().request(method, target, body, fields)
                said = f"{status} {answered[:200]}"
            except (OSError, EOFError) as error:
                status, headers, answered, said = 0, {}, b"", repr(error)
            self.share.times.setdefault(kind, []).append(time.perf_counter() - began)
            if status in expected:
                return status, headers, answered
            if self.repeats and (status == 0 or status in REPEATED) and time.monotonic() < until:
                self.share.repeated[f"{kind} {status}"] = self.share.repeated.get(f"{kind} {status}", 0) + 1
                await asyncio.sleep(PAUSE_S * self.random.uniform(0.5, 1.5))
                continue
            raise Failed(f"{kind} of {target.partition('?')[0]}: {said}")

    async def open(self, item):
        wanted = {"name": item.name, "length": item.length, "part_size": PART, "root": item.root}
        await self.say("open", item, "PUT", "", wanted, (200, 201))

    async def send(self, item):
        for index, data in enumerate(item.parts()):
            sha256 = hashlib.sha256(data).hexdigest()
            await self.send_part(item, index, data, sha256)

    async def send_part(self, item, index, data, sha256):
        offered = {"parts": [{"index": index, "length": len(data), "sha256": sha256}]}
        while True:
            _, document = await self.say("target", item, "POST", "/targets", offered, (200,))
            target = document["targets"][0]
            if target.get("finished"):
                return
            if target["from"] != 0:
                raise Failed(f"part {index} of {item.id} begins at {target['from']}")
            connection, url = self.other(target["url"])
            fields = {name: value for name, value in target["headers"].items() if name.lower() not in ("host", "content-length")}
            # Another request that a killed client sent writes it; its server may be gone, and the URL with it.
            lost = (409, 0) if self.repeats else ()
            await self.timed("part", (200, 204, *lost), lambda: connection, "PUT", f"{url.path}?{url.query}", data, fields)
            noted = {"length": len(data), "sha256": sha256}
            status, _ = await self.say("checkpoint", item, "PUT", f"/parts/{index}", noted, (200, *lost))
            if status == 200:
                return

    async def finish(self, item):
        """Returns whether it is published: a server may be at it."""
        status, document = await self.say("finalize", item, "POST", "/finalize", {"length": item.length, "root": item.root}, (200, 202))
        return self.is_published(item, document)

    async def look(self, item):
        _, document = await self.say("status", item, "GET", "", None, (200,))
        if document["state"] == "open":
            # An attempt failed: the client asks for another one.
            if not self.repeats and document["error"] is not None:
                raise Failed(f"{item.id}: {document['error']}")
            return await self.finish(item)
        return self.is_published(item, document)

    def is_published(self, item, document):
        if document["state"] not in ("finalizing", "done"):
            raise Failed(f"{item.id} is {document['state']}: {document['error']}")
        if document["state"] == "done" and (document["root"], document["length"]) != (item.root, item.length):
            raise Failed(f"{item.id} is published with {document['root']}, not {item.root}")
        item.url = document["url"]
        return document["state"] == "done"

    async def check(self, item):
        """What the server gives under the name is what was sent, and a manifest lies beside it."""
        path = urlsplit(item.url).path
        for kind, path in (("object", path), ("manifest", path + ".sapwood")):
            status, fields, body = await self.timed(kind, (200, 307), lambda: self.random.choice(self.servers), "GET", path, b"", {})
            if status == 307:
                connection, url = self.other(fields["location"])
                _, _, body = await self.timed(f"{kind} from storage", (200,), lambda: connection, "GET", f"{url.path}?{url.query}", b"", {})
            if kind == "object" and body != item.path.read_bytes():
                raise Failed(f"{item.name} has {len(body)} bytes that are not those that were sent")
            if kind == "manifest" and not body:
                raise Failed(f"{item.name} has no manifest")

    def close(self):
        for connection in (*self.servers, *self.others.values()):
            connection.close()


class Failed(Exception):
    """A request that ended otherwise than it must."""


class Share:
    """What a process does: its items, by its clients."""

    def __init__(self, items, servers, clients, repeats, seed):
        self.items, self.clients_count, self.servers, self.repeats = items, clients, servers, repeats
        self.times, self.repeated, self.failures = {}, {}, []
        self.left = []
        self.random = random.Random(seed)

    async def each(self, items, work):
        """Every item once, by any client."""
        queue = list(reversed(items))

        async def one():
            client = Client(self, self.servers, random.Random(self.random.random()), self.repeats)
            while queue:
                item = queue.pop()
                try:
                    await work(client, item)
                except (Failed, OSError, EOFError, KeyError, ValueError, TypeError) as error:
                    self.failures.append(f"{type(error).__name__}: {error}")
            client.close()

        await asyncio.gather(*(one() for _ in range(self.clients_count)))

    async def upload(self, client, item):
        await client.send(item)
        if not await client.look(item):
            self.left.append(item)

    async def wait(self, client, item):
        until = time.monotonic() + STUCK_S
        while not await client.look(item):
            if time.monotonic() > until:
                raise Failed(f"{item.id} is stuck")
            await asyncio.sleep(1)

    def run(self, phase):
        self.times, self.repeated, self.failures = {}, {}, []
        asyncio.run(getattr(self, phase)())
        return self.times, self.repeated, self.failures

    async def opening(self):
        await self.each(self.items, Client.open)

    async def uploading(self):
        self.left = []
        await self.each(self.items, self.upload)
        await self.each(self.left, self.wait)

    async def checking(self):
        await self.each(self.items, Client.check)

    async def all_of_it(self):
        """As clients come: each opens its session when its turn is. Until the time is over, and all that was begun is done."""
        begun = []

        async def whole(client, item):
            if time.monotonic() > self.until:
                return
            begun.append(item)
            await client.open(item)
            await self.upload(client, item)

        self.left = []
        await self.each(self.items, whole)
        await self.each(self.left, self.wait)
        self.items = begun

    async def counting(self):
        """How many items were begun."""
        self.times = {"items": [0.0] * len(self.items)}


def serve(share, pipe):
    while (asked := pipe.recv()) is not None:
        phase, share.until = asked
        pipe.send(share.run(phase))


class Crowd:
    """All clients, in several processes."""

    def __init__(self, items, servers, clients, processes=2, repeats=False, seed=1):
        forking = multiprocessing.get_context("fork")
        self.children = []
        for number in range(processes):
            ours, theirs = forking.Pipe()
            share = Share(items[number::processes], servers, clients // processes, repeats, seed + number)
            child = forking.Process(target=serve, args=(share, theirs), daemon=True)
            child.start()
            self.children.append((child, ours))

    def start(self, phase, seconds=0):
        for _, pipe in self.children:
            pipe.send((phase, time.monotonic() + seconds))

    def is_done(self):
        return all(pipe.poll() for _, pipe in self.children) or any(not child.is_alive() for child, _ in self.children)

    def ended(self):
        """Seconds of each request by kind, how often what was repeated, and what failed."""
        times, repeated, failures = {}, {}, []
        for _, pipe in self.children:
            theirs, again, failed = pipe.recv()
            for kind, each in theirs.items():
                times.setdefault(kind, []).extend(each)
            for kind, count in again.items():
                repeated[kind] = repeated.get(kind, 0) + count
            failures += failed
        return times, repeated, failures

    def run(self, phase):
        self.start(phase)
        return self.ended()

    @property
    def pids(self):
        return [child.pid for child, _ in self.children]

    def close(self):
        for child, pipe in self.children:
            pipe.close()
            child.kill()
            child.join()
