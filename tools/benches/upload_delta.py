"""What a push sends of an object of which an earlier one is published: to a folder of a server, into S3, and through a server into S3."""

import contextlib
import json
import random
import shutil
import subprocess
import time

from garage import BUCKET, Failure as GarageFailure, Garage, build, write_aws

from .measure import clean_environment
from .programs import Failure, program_path, say
from .section import Contender, Section, hash_of
from .upload import Ingest, hash_of_pieces

MIB, PAGE, PART = 1 << 20, 4096, 8 << 20
KEY = "recordings/object.bin"
PUSH = "sapwood push {object} {place} --replace --json --quiet --no-store"


def edited(data, start, length):
    data[start:start + length] = random.Random(start).randbytes(length)


def pages(data):
    """One of 100 pages."""
    count = len(data) // PAGE
    for page in random.Random(1).sample(range(count), count // 100):
        data[page * PAGE + 7] ^= 1


def five(data):
    return len(data) // 20


# What becomes of the object, and the most that may be sent of it: a share of it, and so many parts.
CASES = {
    "head": (lambda data: edited(data, 0, five(data)), {"": (0.05, 4)}),
    "tail": (lambda data: edited(data, len(data) - five(data), five(data)), {"": (0.05, 4)}),
    "range": (lambda data: edited(data, len(data) // 3 + 77, five(data)), {"": (0.05, 4)}),
    "pages": (pages, {"folder": (0.2, 0)}),
    "front": (lambda data: data.__setitem__(slice(0, 0), random.Random(2).randbytes(65)), {"": (0, 4)}),
    "append": (lambda data: data.extend(random.Random(3).randbytes(five(data))), {"": (0.05, 4)}),
}


class UploadDelta(Section):
    """An object of --size is published; then one of which 5 % at the head, the tail or between are other bytes, or a page of a hundred,
    with 65 bytes before it, or with 5 % after it. What the second push sends."""

    name = "upload-delta"
    rounds_max = 1
    contenders = (Contender("sapwood-folder", PUSH), Contender("sapwood-s3", PUSH), Contender("sapwood-served-s3", PUSH))

    def enter(self, stack):
        self.folder = Ingest(self.bench.work / "ingest-delta")
        stack.callback(self.folder.close)
        self.node = None
        if any("s3" in contender.name for contender in self.selected):
            try:
                build()
                self.node = stack.enter_context(Garage(self.bench.work / "garage-delta"))
            except GarageFailure as failure:
                raise Failure(str(failure)) from failure
        return {}

    def run(self):
        found = {}
        with contextlib.ExitStack() as stack:
            self.enter(stack)
            for contender in self.selected:
                for case in CASES:
                    say(f"{self.name}: {contender.name}, {case}")
                    found.setdefault(contender.name, {})[case] = self.case(contender, case)
        return {"sent": found, "size": self.bench.size}

    def case(self, contender, case):
        run, where = self.bench.fresh_run(), contender.name.removeprefix("sapwood-")
        if self.node:
            self.node.start_empty()
            write_aws(run, self.node.endpoint)
        source, server = run / "object.bin", None
        if where == "folder":
            self.folder.start_empty()
            place = self.folder.url + KEY
        elif where == "s3":
            place = f"s3://{BUCKET}/{KEY}"
        else:
            server = self.served(run)
            place = server.url + KEY
        words = contender.words({"object": source, "place": place, "run": run})
        try:
            shutil.copyfile(self.bench.object, source)
            self.pushed(words, run)
            data = bytearray(source.read_bytes())
            CASES[case][0](data)
            source.write_bytes(data)
            figures = self.pushed(words, run)
            stored = hash_of(self.folder.folder / KEY) if where == "folder" else hash_of_pieces(self.node.pieces(KEY))
            if stored != hash_of(source):
                raise Failure(f"{contender.name}, {case}: other bytes are stored than were there")
        finally:
            if server:
                server.close()
        shutil.rmtree(run)
        return figures | {"bytes": len(data)}

    def served(self, run):
        server = Ingest(run / "served")
        server.folder.mkdir()
        server.server = subprocess.Popen(
            [program_path("sapwood"), "serve", server.folder, "--ingest", "--storage", f"s3://{BUCKET}", "--listen", server.address],
            cwd=run, env=clean_environment(run), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if not server.server.stdout.readline():
            raise Failure("sapwood serve --ingest --storage did not start")
        return server

    @staticmethod
    def pushed(words, run):
        began = time.perf_counter()
        child = subprocess.run(words, cwd=run, env=clean_environment(run), stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if child.returncode:
            raise Failure(f"exit {child.returncode}: {child.stdout[-1000:]}{child.stderr[-1000:]}")
        events = [json.loads(line) for line in child.stdout.splitlines()]
        published = next(event for event in events if event["event"] == "published")
        return {"wall_s": time.perf_counter() - began, **{name: published[name] for name in ("bytes_sent", "bytes_copied")}}

    def show(self, report):
        for name, cases in report["sent"].items():
            for case, found in cases.items():
                share = found["bytes_sent"] / found["bytes"]
                line = (f"  {name:18} {case:7} sent {found['bytes_sent'] / MIB:8.1f} MiB ({share:6.2%}), copied "
                        f"{found['bytes_copied'] / MIB:8.1f} MiB, {found['wall_s']:5.1f} s")
                goals = CASES[case][1]
                goal = goals.get(name.removeprefix("sapwood-"), goals.get(""))
                if goal:
                    most = goal[0] * found["bytes"] + goal[1] * PART
                    line += f"; goal at most {most / MIB:.1f} MiB: {'met' if found['bytes_sent'] <= most else 'MISSED'}"
                print(line)
