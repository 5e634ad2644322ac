"""An origin, a folder, the program that fetches from the one into the other, and what must hold at every moment."""

import json
import os
import random
import shutil
import signal
import subprocess

from .origin import Origin

MIB = 1 << 20
NAME = "object.bin"
# Nothing here takes so long, however slow the machine is.
LONG_ENOUGH_S = 300


class Wrong(Exception):
    """What must hold did not."""


class Ended:
    """A run that is over."""

    def __init__(self, exit_code, stdout, stderr):
        self.exit, self.stdout, self.stderr = exit_code, stdout, stderr
        if "panicked" in stderr:
            raise Wrong(f"a panic: {stderr[-2000:]}")

    def events(self):
        """Without a line that a kill cut short."""
        for line in self.stdout.splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue

    def event(self, name):
        """The last event of this name."""
        return next((event for event in reversed(list(self.events())) if event["event"] == name), None)

    def must(self, *exits):
        if self.exit not in exits:
            raise Wrong(f"exit {self.exit} instead of {' or '.join(map(str, exits))}: {self.stderr[-1000:]}")
        return self


class Runs:
    """The program in a folder, with a home of its own. A subclass says the words of a run."""

    def command(self, *more):
        raise NotImplementedError

    def start(self, *more, before=(), preexec=None):
        # Files, because nobody reads while it runs, and a full pipe would stop it.
        stdout, stderr = open(self.folder / "stdout", "wb"), open(self.folder / "stderr", "wb")
        try:
            return subprocess.Popen([*before, *self.command(*more)], cwd=self.folder, env=environment(self.folder),
                                    stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, preexec_fn=preexec,
                                    start_new_session=True)
        finally:
            stdout.close()
            stderr.close()

    def ended(self, child):
        """Waits for it: a run that is gone has let go of its lock."""
        try:
            child.wait(LONG_ENOUGH_S)
        except subprocess.TimeoutExpired as error:
            child.kill()
            child.wait()
            raise Wrong("it hangs") from error
        read = lambda name: (self.folder / name).read_text(errors="replace")
        return Ended(child.returncode, read("stdout"), read("stderr"))

    def kill(self, child):
        # With all that it started: under strace the program is a child of the child.
        os.killpg(child.pid, signal.SIGKILL)
        return self.ended(child)

    def killed_after(self, seconds):
        """A run that is killed then; None if it had ended by itself before, as it must end."""
        child = self.start()
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill(child)
            return True
        self.ended(child).must(0)
        return None


class Scene(Runs):
    """One object. `target` may be moved to another file system."""

    def __init__(self, program, folder, length, seed=1):
        self.program, self.folder = program, folder
        self.origin = Origin()
        self.target = folder / "out"
        self.content = painted(length, seed)
        # An older version: some of it is in the new one, at another place.
        self.old = painted(length // 4 + 7, seed + 1) + self.content[length // 2 : length // 4 * 3]
        self.manifest, self.has_manifest = b"", True
        self.serve(self.content)

    def serve(self, content, version=0):
        """This object, with its manifest."""
        self.content = content
        made = self.folder / NAME
        made.write_bytes(content)
        done = subprocess.run([self.program, "--quiet", "manifest", made], env=environment(self.folder),
                              capture_output=True, text=True)
        if done.returncode != 0:
            raise Wrong(f"no manifest: {done.stderr}")
        self.manifest = made.with_name(NAME + ".sapwood").read_bytes()
        made.unlink()
        self.origin.put(NAME, content, version)
        self.origin.put(NAME + ".sapwood", self.manifest, version)

    def with_manifest(self, there):
        self.has_manifest = there
        if there:
            self.origin.put(NAME + ".sapwood", self.manifest)
        else:
            self.origin.remove(NAME + ".sapwood")

    @property
    def part(self):
        return self.target.with_name(self.target.name + ".part")

    @property
    def journal(self):
        return self.target.with_name(self.target.name + ".part.journal")

    def reset(self, old):
        """Nothing is there, or an old version."""
        for path in (self.target, self.part, self.journal):
            remove(path)
        if old:
            self.target.write_bytes(self.old)
        self.origin.forget()

    def command(self, *more):
        return [self.program, "--json", "fetch", self.origin.url(NAME), "-o", self.target, *more]

    def fetch(self, *more, before=(), preexec=None):
        return self.ended(self.start(*more, before=before, preexec=preexec))

    def state(self):
        """Of the final name: absent, old or new. Anything else is what must never be."""
        try:
            found = self.target.read_bytes()
        except FileNotFoundError:
            return "absent"
        except OSError as error:
            raise Wrong(f"the final name cannot be read: {error.strerror}") from error
        if found == self.content:
            return "new"
        if found == self.old:
            return "old"
        raise Wrong(f"the final name holds {len(found)} bytes that are neither version")

    def must_be(self, *states):
        state = self.state()
        if state not in states:
            raise Wrong(f"the final name is {state}, not {' or '.join(states)}")

    def must_finish(self, *more):
        """The same command, and all is as it should be."""
        ended = self.fetch(*more).must(0)
        self.must_be_finished()
        return ended

    def must_be_finished(self):
        self.must_be("new")
        left = [path.name for path in (self.part, self.journal) if os.path.lexists(path)]
        if left:
            raise Wrong(f"left behind: {' '.join(left)}")


def painted(length, seed):
    source = random.Random(seed)
    return b"".join(source.randbytes(min(MIB, length - at)) for at in range(0, length, MIB))


def environment(folder):
    """No proxies and no configuration of the user's."""
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder), "LC_ALL": "C.UTF-8"}


def remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
