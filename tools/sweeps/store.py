"""Many processes in one store: they fetch, stream, add, verify and collect, and some of them are killed."""

import contextlib
import json
import random
import sqlite3
import subprocess
import threading
import time

from .origin import Origin
from .scene import LONG_ENOUGH_S, MIB, Wrong, environment, painted
from .sweep import Sweep

WORKERS = 8
OBJECTS = 6
LENGTH = 3 * MIB + 12345
KILLED = 0.3


class OneStore(Sweep):
    name = "store"
    unit = "runs"
    full = 10**9
    short = 150

    def steps(self):
        self.started = time.monotonic()
        self.lock, self.stopping, self.workers = threading.Lock(), False, []
        self.origin = Origin()
        self.objects = {}
        for number in range(OBJECTS):
            name, content = f"object{number}.bin", painted(LENGTH, number)
            # Half of each is in the next one too, so that they are found by each other.
            content = content[: LENGTH // 2] + painted(LENGTH, number + 1)[LENGTH // 2 :]
            made = self.folder / name
            made.write_bytes(content)
            self.must(["manifest", made], 0, ours=False)
            self.origin.put(name, content)
            self.origin.put(name + ".sapwood", made.with_name(name + ".sapwood").read_bytes())
            self.objects[name] = content
        self.noted = [self.note_files(number) for number in range(WORKERS)]
        self.workers = [threading.Thread(target=self.work, args=(number,)) for number in range(WORKERS)]
        for worker in self.workers:
            worker.start()
        while any(worker.is_alive() for worker in self.workers):
            time.sleep(0.2)
            yield

    def note_files(self, number):
        """Files of a user that nobody changes: whatever happens, the store must not lose them."""
        folder = self.folder / f"films{number}"
        folder.mkdir()
        for film in range(3):
            (folder / f"film{film}.mp4").write_bytes(painted(MIB // 2 + film, 1000 * number + film))
        self.must(["store", "add", folder], 0)
        return {str(path.resolve()) for path in folder.iterdir()}

    def work(self, number):
        dice = random.Random(f"{self.random.random()} {number}")
        folder = self.folder / f"worker{number}"
        folder.mkdir()
        actions = [self.fetch, self.fetch, self.stream, self.stream, self.stream, self.note, self.verify, self.collect, self.look]
        while not self.stopping:
            try:
                dice.choice(actions)(dice, folder)
            except Wrong as error:
                with self.lock:
                    self.wrong(str(error))
            with self.lock:
                self.add("runs")

    def run(self, words, kill_after=None, ours=True):
        """Exit code (None: killed), stdout and stderr."""
        store = ["--store", self.folder / "store"] if ours else []
        child = subprocess.Popen([self.program, *words, *store], cwd=self.folder, env=environment(self.folder),
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            stdout, stderr = child.communicate(timeout=kill_after or LONG_ENOUGH_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            if kill_after is None:
                raise Wrong(f"{words[0]} hangs") from None
            with self.lock:
                self.add("kills")
            return None, b"", b""
        if b"panicked" in stderr:
            raise Wrong(f"{words}: a panic: {stderr[-2000:]}")
        return child.returncode, stdout, stderr

    def must(self, words, *exits, kill_after=None, ours=True):
        code, stdout, stderr = self.run(words, kill_after, ours)
        if code is not None and code not in exits:
            raise Wrong(f"{words}: exit {code}: {stderr[-1000:].decode()}")
        # What another process does in the store is nobody's trouble.
        if b"warning" in stderr:
            raise Wrong(f"{words}: {stderr[-1000:].decode()}")
        return code, stdout

    def killing(self, dice):
        return dice.uniform(0.005, 0.3) if dice.random() < KILLED else None

    def fetch(self, dice, folder):
        name, content = dice.choice(list(self.objects.items()))
        target = folder / dice.choice(["a", "b"])
        # The part of a run that was killed may be of another object; it is a seed then.
        code, _ = self.must(["fetch", self.origin.url(name), "-o", target], 0, kill_after=self.killing(dice))
        if code == 0 and target.read_bytes() != content:
            raise Wrong(f"{target} is not {name}")
        if dice.random() < 0.2:
            target.unlink(missing_ok=True)

    def stream(self, dice, folder):
        name, content = dice.choice(list(self.objects.items()))
        start = dice.randrange(LENGTH)
        end = min(LENGTH, start + 1 + dice.randrange(MIB))
        code, stdout = self.must(["cat", self.origin.url(name), "--range", f"{start}-{end - 1}"], 0, kill_after=self.killing(dice))
        if code == 0 and stdout != content[start:end]:
            raise Wrong(f"bytes {start} to {end} of {name} are wrong")

    def note(self, dice, folder):
        film = folder / "film"
        film.write_bytes(painted(MIB, dice.randrange(50)))
        self.must(["store", "add", film], 0, kill_after=self.killing(dice))

    def verify(self, dice, folder):
        # Nothing is damaged, only rewritten by its owner: that may happen while it is read.
        self.must(["store", "verify"], 0, kill_after=self.killing(dice))

    def collect(self, dice, folder):
        most = f"{dice.randrange(OBJECTS * LENGTH)}"
        self.must(["store", "gc", "--max-size", most], 0, kill_after=self.killing(dice))

    def look(self, dice, folder):
        self.must(["store", dice.choice(["list", "status"])], 0, kill_after=self.killing(dice))

    def close(self):
        self.stopping = True
        for worker in self.workers:
            worker.join()
        try:
            self.look_back()
        except Wrong as error:
            self.wrong(str(error))
        self.add("seconds", round(time.monotonic() - self.started))

    def look_back(self):
        with contextlib.closing(sqlite3.connect(self.folder / "store" / "state.sqlite")) as database:
            [(answer,)] = database.execute("PRAGMA integrity_check").fetchall()
            orphans = database.execute("SELECT count(*) FROM holdings WHERE object NOT IN (SELECT id FROM objects)").fetchone()[0]
            unheld = database.execute("SELECT count(*) FROM objects WHERE id NOT IN (SELECT object FROM holdings)").fetchone()[0]
            lost = database.execute("SELECT count(*) FROM samples WHERE object NOT IN (SELECT id FROM objects)").fetchone()[0]
        if (answer, orphans, unheld, lost) != ("ok", 0, 0, 0):
            raise Wrong(f"integrity_check: {answer}; {orphans} holdings and {lost} samples of no object, {unheld} objects of no holding")
        # Whatever the index claims is there, and right.
        self.must(["store", "verify"], 0)
        listed = [json.loads(line) for line in self.must(["--json", "store", "list"], 0)[1].splitlines()]
        listed = {event["path"]: event for event in listed if event["event"] == "holding"}
        missing = set().union(*self.noted) - set(listed)
        if missing:
            raise Wrong(f"lost: {' '.join(sorted(missing))}")
        own = sum(event["bytes_held"] for event in listed.values() if event["own"])
        self.must(["store", "gc"], 0)
        again = [json.loads(line) for line in self.must(["--json", "store", "list"], 0)[1].splitlines()]
        lost = own - sum(event["bytes_held"] for event in again if event["event"] == "holding" and event["own"])
        if lost > 0:
            raise Wrong(f"{lost} bytes of own objects were claimed and not there")

    def figure(self):
        return (f"{self['runs']} runs of {WORKERS} processes at a time in one store, {self['kills']} of them killed, in {self['seconds']} s: "
                f"{self['wrong']} wrong; integrity_check at the end, no noted file lost, all that is claimed is there")
