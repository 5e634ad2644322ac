"""Attacks on a server that takes uploads, beyond those of the tests: what needs many connections, long times, two servers, a real
program's memory, and hands that change the folder meanwhile."""

import concurrent.futures
import hashlib
import json
import os
import re
import shutil
import socket
import threading
import time
import uuid

from .scene import MIB, Wrong
from .site import STAGING, Client, Site, write_random
from .sweep import Sweep

PART = 5 * MIB
QUOTA = 100 * MIB
TOKENS = "ann secret-of-ann\nbob secret-of-bob\n"
ANN, BOB = "secret-of-ann", "secret-of-bob"
# The server ends a part that moves slower than this says (serve/ingest/part.rs), looked at every minute.
SLOW_S = 150
"""The most memory that the server may have held at the end of all of it."""
MEMORY_MAX = 512 * MIB


class UploadAttack(Sweep):
    name = "upload-attack"
    unit = "rounds"
    full = 1
    short = 1

    def steps(self):
        tokens = self.folder / "tokens"
        tokens.write_text(TOKENS)
        self.site = self.site_named("site", "--token-file", tokens, "--quota", str(QUOTA))
        self.outside = self.folder / "outside"
        self.outside.mkdir()
        attacks = [self.urls_again, self.urls_of_another_server, self.bodies_behind_a_part, self.links_meanwhile, self.quota_at_once,
                   self.documents_at_once, self.one_part_at_once]
        if not self.is_short:
            attacks += [self.sessions_at_once, self.slow_senders]
        before = self.traces()
        while True:
            for attack in attacks:
                try:
                    attack()
                    if traces := self.traces() - before:
                        raise Wrong(f"outside of the folder: {' '.join(sorted(traces))}")
                    if self.site.server.poll() is not None:
                        raise Wrong(f"the server ended: {self.site.stderr()[-1000:]}")
                except (Wrong, OSError) as error:
                    self.wrong(f"{attack.__name__}: {error!r}")
                for token in (ANN, BOB):
                    self.site.give_up_all(token)
                self.add("attacks")
                yield
            peak = self.peak()
            self.counts["peak_mib"] = max(self["peak_mib"], peak // MIB)
            if peak > MEMORY_MAX:
                self.wrong(f"the server held {peak // MIB} MiB")
            self.add("rounds")
            yield

    def site_named(self, name, *flags):
        folder = self.folder / name
        folder.mkdir()
        site = Site(self.program, folder, *flags)
        site.must_serve()
        return site

    def peak(self):
        with open(f"/proc/{self.site.server.pid}/status") as status:
            return int(re.search(r"VmHWM:\s+(\d+) kB", status.read())[1]) * 1024

    def traces(self):
        """All that lies in the folder of the sweep, but not in what is served or the server's own."""
        own = tuple(map(str, (self.site.at, self.site.home, self.folder / "other", self.folder / "bob")))
        return {os.path.join(place, name) for place, _, names in os.walk(self.folder) for name in names if not place.startswith(own)}

    def open(self, name, length, token=ANN, site=None, **more):
        of = str(uuid.uuid4())
        status, answer = (site or self.site).api(
            "PUT", f"/{of}", {"name": name, "length": length, "part_size": PART, "block_size": 65536, **more}, token)
        return of, status, answer

    def must_open(self, *words, **more):
        of, status, answer = self.open(*words, **more)
        self.must(status == 201, f"a session: {status} {answer}")
        return of

    def target(self, of, part, index=0, token=ANN, site=None):
        offered = {"index": index, "length": len(part), "sha256": hashlib.sha256(part).hexdigest()}
        status, answer = (site or self.site).api("POST", f"/{of}/targets", {"parts": [offered]}, token)
        self.must(status == 200, f"a target: {status} {answer}")
        return answer["targets"][0].get("url")

    def checkpoint(self, of, part, index=0, token=ANN):
        return self.site.api("PUT", f"/{of}/parts/{index}", {"length": len(part), "sha256": hashlib.sha256(part).hexdigest()}, token)

    def must(self, holds, otherwise):
        if not holds:
            raise Wrong(otherwise)

    def refused(self, answered, *expected):
        """`expected`: pairs of a status and a code."""
        status, body = answered
        if isinstance(body, bytes):
            body = json.loads(body) if body else {}
        found = (status, (body or {}).get("code"))
        self.must(found in expected, f"{found} instead of {expected}")
        self.add("refused")

    def urls_again(self):
        """A URL is used again after its part was finished, its object published, its session given up."""
        site, part, other = self.site, os.urandom(PART), os.urandom(PART)
        of = self.must_open("again", 2 * PART)
        url, second = self.target(of, part), self.target(of, part, 1)
        self.must(site.request("PUT", url, part)[0] == 204, "the part is not stored")
        self.must(self.checkpoint(of, part)[0] == 200, "the part is not finished")
        # The same bytes again change nothing, others must not either.
        site.request("PUT", url, part)
        site.request("PUT", url, other)
        self.must(site.request("PUT", second, part)[0] == 204, "the second part is not stored")
        self.must(self.checkpoint(of, part, 1)[0] == 200, "the second part is not finished")
        status, answer = site.api("POST", f"/{of}/finalize", {"length": 2 * PART}, ANN)
        self.must(status == 200, f"it is not published: {status} {answer}")
        site.check_nothing_is_staged()
        for body in (part, other):
            self.refused(site.request("PUT", url, body), (409, "session_done"))
        self.must((site.at / "again").read_bytes() == part + part, "the object changed")
        of = self.must_open("given-up", PART)
        url = self.target(of, part)
        self.must(site.api("DELETE", f"/{of}", token=ANN)[0] == 204, "it is not given up")
        self.refused(site.request("PUT", url, part), (410, "session_ended"))
        site.check_nothing_is_staged()
        # Given up while the part arrives: it ends, and leaves nothing.
        of = self.must_open("given-up", PART)
        with self.half_sent(self.target(of, part), part) as connection:
            self.must(site.api("DELETE", f"/{of}", token=ANN)[0] == 204, "it is not given up")
            status = self.rest_of(connection, part)
        self.must(status != 204, f"a part of what was given up was stored: {status}")
        site.check_nothing_is_staged()

    def half_sent(self, url, part):
        connection = socket.create_connection(("127.0.0.1", self.site.port), timeout=60)
        connection.sendall(f"PUT {url} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(part)}\r\n\r\n".encode())
        connection.sendall(part[: len(part) // 2])
        time.sleep(0.3)
        return connection

    def rest_of(self, connection, part):
        """The status, or none if the connection broke."""
        try:
            connection.sendall(part[len(part) // 2 :])
            return status_of(connection)
        except OSError:
            return None

    def urls_of_another_server(self):
        """A server with the same session has another key; a session of another owner is none."""
        other = self.site_named("other", "--token-file", self.folder / "tokens") if not hasattr(self, "other") else self.other
        self.other = other
        part = os.urandom(PART)
        of = self.must_open("foreign", PART)
        body = {"name": "foreign", "length": PART, "part_size": PART, "block_size": 65536}
        other.api("PUT", f"/{of}", body, BOB)
        self.refused(self.site.request("PUT", self.target(of, part, token=BOB, site=other), part), (403, "bad_signature"))
        self.refused(self.site.api("POST", f"/{of}/targets", {"parts": []}, BOB), (404, "no_session"))
        self.refused(self.checkpoint(of, part, token=BOB), (404, "no_session"))
        self.refused(self.checkpoint(of, part), (409, "part_not_stored"))

    def bodies_behind_a_part(self):
        """What follows a body is another request, whatever it is, and a length that is none is refused."""
        site, part = self.site, os.urandom(PART)
        of = self.must_open("behind", PART)
        url = self.target(of, part)
        for head, body in (
            (f"Content-Length: {PART}", part + b"more than was said " * 1000),
            (f"Content-Length: {PART}\r\nContent-Length: 5", part),
            (f"Content-Length: {PART}\r\nTransfer-Encoding: chunked", part),
            ("Content-Length: -1", part),
            (f"Content-Length: {2**63}", part),
            (f"Content-Length: {2**64 + PART}", part),
            (f"Content-Length: {PART}\r\nContent-Encoding: gzip", part),
            (f"Content-Length: {PART}\r\nContent-Range: bytes 0-{PART - 1}/{10 * PART}", part),
        ):
            with socket.create_connection(("127.0.0.1", site.port), timeout=60) as connection:
                try:
                    connection.sendall(f"PUT {url} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode() + body)
                    status_of(connection)
                except OSError:
                    # Refused before all of it was sent.
                    pass
        object_ = site.at / STAGING / of / "object"
        self.must(not object_.exists() or object_.stat().st_size <= PART, "the part is longer than it was said to be")
        self.must(site.request("PUT", url, part)[0] == 204 and self.checkpoint(of, part)[0] == 200, "the part is not taken afterwards")
        status, answer = site.api("POST", f"/{of}/finalize", {"length": PART}, ANN)
        self.must(status == 200 and (site.at / "behind").read_bytes() == part, f"another object: {status} {answer}")

    def links_meanwhile(self):
        """Folders on the way become links that lead out, while parts arrive and when the object is published."""
        site, part = self.site, os.urandom(PART)
        for target in ("way", "way/further"):
            folder = site.at / "way"
            shutil.rmtree(folder, ignore_errors=True)
            (folder / "further").mkdir(parents=True)
            of = self.must_open("way/further/object", PART)
            self.must(site.request("PUT", self.target(of, part), part)[0] == 204, "the part is not stored")
            self.must(self.checkpoint(of, part)[0] == 200, "the part is not finished")
            shutil.rmtree(site.at / target)
            (site.at / target).symlink_to(self.outside)
            status, answer = site.api("POST", f"/{of}/finalize", {"length": PART}, ANN)
            self.must(status >= 400, f"published through a link: {status} {answer}")
            (site.at / target).unlink()
            self.must(not list(self.outside.iterdir()), "something is behind the link")
            self.add("refused")
        # The folder of a session, as well.
        of = self.must_open("object", PART)
        url = self.target(of, part)
        staged = site.at / STAGING / of
        if staged.exists():
            shutil.rmtree(staged)
            staged.symlink_to(self.outside)
            status, _ = site.request("PUT", url, part)
            self.must(status >= 400, "stored through a link")
            self.must(not list(self.outside.iterdir()), "something is behind the link")
            staged.unlink()
            self.add("refused")

    def all_at_once(self, work, count, workers=64):
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            return list(pool.map(work, range(count)))

    def quota_at_once(self):
        """A thousand sessions of 1 MiB, and room for a hundred."""
        count = QUOTA // MIB + 20 if self.is_short else 1000
        answers = self.all_at_once(lambda number: self.open(f"q/{number}", MIB)[1:], count)
        opened = sum(status == 201 for status, _ in answers)
        strange = {(status, answer.get("code")) for status, answer in answers if status != 201} - {(413, "quota")}
        self.must(opened == QUOTA // MIB, f"{opened} sessions of 1 MiB in {QUOTA // MIB} MiB")
        self.must(not strange, f"{strange}")
        self.add("refused", count - opened)
        self.must(self.open("q/of-bob", MIB, BOB)[1] == 201, "the quota of another owner")

    def sessions_at_once(self):
        """Empty ones count too."""
        count = 1200
        answers = self.all_at_once(lambda number: self.open(f"s/{number}", 0)[1:], count)
        opened = sum(status == 201 for status, _ in answers)
        strange = {(status, answer.get("code")) for status, answer in answers if status != 201} - {(429, "too_many_sessions")}
        self.must(opened == 1000 and not strange, f"{opened} sessions, {strange}")
        self.add("refused", count - opened)

    def documents_at_once(self):
        """Documents of four MiB, and of deep brackets, from many connections."""
        of = self.must_open("documents", PART)
        large = json.dumps({"parts": [], "x": "y" * (4 * MIB - 100)}).encode()
        deep = b'{"parts":' + b"[" * (2 * MIB)
        many = json.dumps({"parts": [{"index": 0, "length": PART, "sha256": "0" * 64}] * 20000}).encode()
        connection_of = lambda: socket.create_connection(("127.0.0.1", self.site.port), timeout=120)

        def post(number):
            body = (large, deep, many)[number % 3]
            with connection_of() as connection:
                head = (f"POST /.sapwood/uploads/{of}/targets HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ANN}\r\n"
                        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n")
                connection.sendall(head.encode() + body)
                return status_of(connection)

        statuses = set(self.all_at_once(post, 30 if self.is_short else 300))
        self.must(statuses <= {400, 413, 422, 503}, f"{statuses}")
        self.add("refused", 30 if self.is_short else 300)

    def one_part_at_once(self):
        """One URL from many connections, with the right bytes and with others: one of them writes."""
        part, other = os.urandom(PART), os.urandom(PART)
        of = self.must_open("one", PART)
        url = self.target(of, part)
        bodies = [other if number % 3 else part for number in range(24)]
        answers = self.all_at_once(lambda number: self.site.request("PUT", url, bodies[number])[0], len(bodies), 24)
        self.must(set(answers) <= {204, 409, 422}, f"{set(answers)}")
        while self.site.request("PUT", url, part)[0] == 409:
            time.sleep(0.05)
        self.must(self.checkpoint(of, part)[0] == 200, "the part is not finished")
        status, _ = self.site.api("POST", f"/{of}/finalize", {"length": PART, "sha256": hashlib.sha256(part).hexdigest()}, ANN)
        self.must(status == 200 and (self.site.at / "one").read_bytes() == part, "a mixture is published")

    def slow_senders(self):
        """One owner sends many parts a byte a second; another one uploads meanwhile, and all of the slow ones are ended."""
        part = os.urandom(PART)
        slow = []
        # As many parts as its quota has, each from several connections.
        for number in range(QUOTA // PART):
            of = self.must_open(f"slow/{number}", PART)
            url = self.target(of, part)
            for _ in range(20):
                slow.append(self.half_sent_slowly(url))
        self.add("slow", len(slow))
        stop = threading.Event()
        feeding = threading.Thread(target=feed, args=(slow, stop), daemon=True)
        began = time.monotonic()
        feeding.start()
        try:
            source = self.site.home / "meanwhile"
            write_random(source, 12 * MIB)
            client = Client(self.program, self.folder / "bob", self.site, source, "meanwhile", "--token", BOB)
            ended = client.push()
            self.counts["meanwhile_s"] = round(time.monotonic() - began)
            if ended.exit != 0:
                self.wrong(f"slow_senders: another owner cannot upload meanwhile: exit {ended.exit}: {ended.stderr[-500:]}")
            while slow and time.monotonic() - began < SLOW_S:
                time.sleep(1)
            self.counts["slow_ended_s"] = round(time.monotonic() - began)
            self.must(not slow, f"{len(slow)} of them go on after {SLOW_S} s")
        finally:
            stop.set()
            feeding.join()

    def half_sent_slowly(self, url):
        connection = socket.create_connection(("127.0.0.1", self.site.port), timeout=60)
        connection.sendall(f"PUT {url} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {PART}\r\n\r\n".encode() + b"x")
        return connection

    def close(self):
        for name in ("site", "other"):
            if hasattr(self, name):
                getattr(self, name).close()

    def figure(self):
        slow = (f", {self['slow']} slow senders ended after at most {self['slow_ended_s']} s, another upload meanwhile took "
                f"{self['meanwhile_s']} s" if self["slow"] else "")
        return (f"{self['attacks']} attacks, {self['refused']} requests refused{slow}: {self['wrong']} wrong; "
                f"the server held at most {self['peak_mib']} MiB")


def status_of(connection):
    answer = b""
    while b"\r\n" not in answer:
        piece = connection.recv(4096)
        if not piece:
            raise ConnectionResetError("no answer")
        answer += piece
    return int(answer.split(b" ", 2)[1])


def feed(connections, stop):
    """A byte a second to each, until it ends."""
    while not stop.wait(1):
        for connection in list(connections):
            try:
                connection.sendall(b"x")
            except OSError:
                connections.remove(connection)
                connection.close()
    for connection in connections:
        connection.close()
