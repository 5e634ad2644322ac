"""Uploads: `sapwood push` beside rclone and awscli to one S3 server, and to a server of its own."""

import contextlib
import os
import random
import shutil
import signal
import statistics
import subprocess
import time

from garage import BUCKET, Failure as GarageFailure, Garage, build, free_port, write_aws
from links import Link, Links
from sweeps.s3_relay import Relay

from .measure import clean_environment
from .programs import Failure, program_path, say
from .section import Contender, Goal, Section, hash_of

MIB = 1 << 20
KEY = "recordings/object.bin"
RCLONE = ("rclone copyto {object} :s3:" + f"{BUCKET}/{KEY}" + " --s3-provider Other --s3-env-auth --s3-endpoint {endpoint} "
          "--s3-region garage --s3-no-check-bucket")
PUSH = "sapwood push {object} s3://" + f"{BUCKET}/{KEY} --json --quiet --no-store"
# All with their defaults, and rclone with as many parts at a time as we send, of the size of ours.
TO_S3 = (
    Contender("rclone", RCLONE),
    Contender("rclone-x6", RCLONE + " --s3-upload-concurrency 6 --s3-chunk-size 8M --s3-upload-cutoff 8M"),
    Contender("awscli", f"aws s3 cp --no-progress {{object}} s3://{BUCKET}/{KEY}"),
    Contender("sapwood", PUSH),
    Contender("sapwood-attested", PUSH + " --attested"),
)
# What may be on its way when it is killed: engine/push sends so many parts at a time, of this size for objects below 80 GB.
PARTS_BYTES_MAX = 6 * 8 * MIB


class Ingest:
    """`sapwood serve --ingest` on a folder of its own."""

    def __init__(self, folder, space=None, address="127.0.0.1"):
        self.folder, self.space = folder, space
        self.address = f"{address}:{free_port()}"
        self.url, self.server = f"http://{self.address}/", None

    def start_empty(self):
        self.close()
        self.folder.mkdir()
        inside = Links.inside(self.space) if self.space else []
        self.server = subprocess.Popen(
            [*inside, program_path("sapwood"), "serve", self.folder, "--ingest", "--listen", self.address], cwd=self.folder,
            env=clean_environment(self.folder.parent), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if not self.server.stdout.readline():
            raise Failure("sapwood serve --ingest did not start")

    def close(self):
        if self.server:
            self.server.terminate()
            self.server.wait()
            self.server.stdout.close()
            self.server = None
        shutil.rmtree(self.folder, ignore_errors=True)


class Upload(Section):
    """An object of --size, of random bytes, to an empty Garage on the same machine, and to an empty folder of `sapwood serve --ingest`.
    sapwood reads the object back once to prove it, but with --attested; its manifest is there in the end. The CPU is the client's;
    the server's stands below."""

    name = "upload"
    peer = "rclone"
    contenders = (*TO_S3, Contender("sapwood-ingest", "sapwood push {object} {ingest}" + f"{KEY} --json --quiet --no-store"))
    goals = tuple(Goal("sapwood", figure, 1.0, peer) for figure in ("wall_s", "cpu_s") for peer in ("rclone", "rclone-x6", "awscli"))
    space, address = None, "127.0.0.1"

    def programs(self):
        return {"sapwood", *super().programs()}

    def enter(self, stack):
        try:
            build()
            self.node = stack.enter_context(Garage(self.bench.work / f"garage-{self.name}", self.space, self.address))
        except GarageFailure as failure:
            raise Failure(str(failure)) from failure
        self.ingest = Ingest(self.bench.work / f"ingest-{self.name}", self.space, self.address)
        stack.callback(self.ingest.close)
        self.object, self.root, self.size = self.bench.object, self.bench.root, self.bench.size
        return {"object": self.object, "endpoint": self.node.endpoint, "ingest": self.ingest.url}

    def prepare(self, contender, run):
        self.node.start_empty()
        self.ingest.close()
        if contender.name.startswith("sapwood-ingest"):
            self.ingest.start_empty()
        write_aws(run, self.node.endpoint)
        self.server_cpu_s = self.node.cpu_s

    def check(self, contender, run, first):
        if contender.name.startswith("sapwood-ingest"):
            found = hash_of(self.ingest.folder / KEY)
            figures = {}
        else:
            figures = {"server_cpu_s": self.node.cpu_s - self.server_cpu_s}
            self.check_left(contender)
            found = hash_of_pieces(self.node.pieces(KEY))
        if found != self.root:
            raise Failure(f"{contender.name} stored other bytes than were there")
        return figures | {"bits": self.size * 8}

    def check_left(self, contender):
        """One object, and our manifest."""
        keys, uploads = set(self.node.keys()), self.node.uploads()
        if uploads or keys - {f"{KEY}.sapwood"} != {KEY}:
            raise Failure(f"{contender.name} left {sorted(keys)} and uploads {uploads}")

    def show(self, report):
        super().show(report)
        for name, entry in report["contenders"].items():
            if figures := entry["summary"].get("server_cpu_s"):
                print(f"  {name}: {figures['median']:.3f} s of CPU in Garage")


class UploadFar(Upload):
    """To a server 40 ms away over 500 Mbit/s, of whose packets 0.5 % are lost on the way there: 64 MiB under reno, and an object of
    --size under BBR."""

    name = "upload-far"
    rounds_max = 3
    # The queue holds what fits on the way once more.
    LINK = Link(delay_ms=40, loss_permille=5, mbit_s=500, queue_kib=2500)
    CONTROLS = ("reno", "bbr")
    RENO_BYTES = 64 * MIB
    contenders = tuple(Contender(f"{contender.name}-{control}", contender.command.replace("{object}", f"{{{control}}}"))
                       for control in CONTROLS for contender in Upload.contenders if contender.name != "rclone-x6")
    peer = ""
    goals = tuple(Goal(f"sapwood-{control}", "wall_s", 1.0, f"{peer}-{control}") for control in CONTROLS for peer in ("rclone", "awscli"))

    def programs(self):
        return {"relay", *super().programs()}

    def enter(self, stack):
        # Who loses packets and waits in a queue is who sends the object: on a link that is its server. The addresses are those of
        # loopback, because sapwood sends no credentials over plain http elsewhere.
        self.links = stack.enter_context(Links(program_path("relay"), [self.LINK], "127.99"))
        self.inside = self.links.inside(self.links.servers[0])
        self.space, self.address = self.links.client, self.links.client_addresses[0]
        places = super().enter(stack)
        reno = self.bench.work / "reno"
        with open(self.bench.object, "rb") as data:
            reno.write_bytes(data.read(self.RENO_BYTES))
        self.objects = {"reno": (reno, hash_of(reno)), "bbr": (self.bench.object, self.bench.root)}
        return {**places, **{control: path for control, (path, _) in self.objects.items()}}

    def prepare(self, contender, run):
        control = contender.name.rsplit("-", 1)[1]
        path, self.root = self.objects[control]
        self.size = path.stat().st_size
        # Both sides: what is read back comes from the other.
        for space in (self.links.servers[0], self.links.client):
            self.links.set(space, "tcp_congestion_control", control)
        super().prepare(contender, run)


class UploadKilled(Upload):
    """A push to Garage that is killed when half of the object has been received, and the same command again: what was sent again, by
    the count of a relay that lets 100 MB through a second."""

    name = "upload-killed"
    rounds_max = 3
    # What sapwood notes of its upload it may find again.
    contenders = tuple(Contender(contender.name, contender.command.replace(" --no-store", "")) for contender in TO_S3)
    RATE = 100_000_000

    def run(self):
        rounds = {}
        with contextlib.ExitStack() as stack:
            places = self.enter(stack)
            self.relay = Relay(self.node.port, random.Random(1))
            stack.callback(self.relay.close)
            self.relay.rate = self.RATE
            places["endpoint"] = self.relay.endpoint
            for number in range(min(self.bench.rounds, self.rounds_max)):
                for contender in self.selected:
                    say(f"{self.name}: round {number + 1}, {contender.name}")
                    run = self.bench.fresh_run()
                    self.prepare(contender, run)
                    write_aws(run, self.relay.endpoint)
                    rounds.setdefault(contender.name, []).append(self.killed(contender, run, contender.words({**places, "run": run})))
                    shutil.rmtree(run)
        return {"rounds": rounds, "size": self.size}

    def killed(self, contender, run, command):
        self.relay.forget()
        child = self.start(command, run)
        while self.relay.content_bytes < self.size / 2:
            if child.poll() is not None:
                raise Failure(f"{contender.name} ended before it was killed: {(run / 'stderr').read_text()[-1000:]}")
            time.sleep(0.001)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        self.relay.cut_all()
        began = time.perf_counter()
        child = self.start(command, run)
        if child.wait() != 0:
            raise Failure(f"{contender.name}: exit {child.returncode}: {(run / 'stderr').read_text()[-1000:]}")
        wall = time.perf_counter() - began
        if hash_of_pieces(self.node.pieces(KEY)) != self.root:
            raise Failure(f"{contender.name} stored other bytes than were there")
        if contender.program == "sapwood":
            self.check_left(contender)
        return {"again_bytes": self.relay.content_bytes - self.size, "wall_s": wall}

    @staticmethod
    def start(command, run):
        with open(run / "stdout", "wb") as stdout, open(run / "stderr", "wb") as stderr:
            return subprocess.Popen(command, cwd=run, env=clean_environment(run), stdin=subprocess.DEVNULL, stdout=stdout,
                                    stderr=stderr, start_new_session=True)

    def show(self, report):
        for name, rounds in report["rounds"].items():
            again = [found["again_bytes"] for found in rounds]
            wall = statistics.median(found["wall_s"] for found in rounds)
            print(f"  {name:18} sent again {statistics.median(again) / 1e6:9.1f} MB ({min(again) / 1e6:.1f} to {max(again) / 1e6:.1f}), "
                  f"second run {wall:.1f} s")
            if name.startswith("sapwood"):
                met = "met" if max(again) <= PARTS_BYTES_MAX else "MISSED"
                print(f"  goal: {name} sent again at most {PARTS_BYTES_MAX / 1e6:.1f} MB, six parts: {met}")


def hash_of_pieces(pieces):
    hashing = subprocess.Popen([program_path("b3sum"), "--no-names"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for piece in pieces:
        hashing.stdin.write(piece)
    return hashing.communicate()[0].decode().strip()
