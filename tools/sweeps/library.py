"""Folders that change from version to version, an origin that serves them as libraries, and what `sapwood sync` may make of a copy."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from urllib.parse import quote

from .origin import Origin
from .scene import MIB, Ended, Runs, Wrong, environment

OWN = "library.sapwood"
# What a run that was killed may leave of its own.
LEFT = {OWN, f"{OWN}.sapwood", f"{OWN}.sync", f"{OWN}.staging", f"{OWN}.trash"}
# And one that ended.
LASTING = LEFT - {f"{OWN}.staging"}
# A file in the folder that gets its name when it is complete.
TEMPORARY = re.compile(r"\.sapwood-(\d+)-u?\d+")
SMALL_LENGTHS = (0, 1, 1023, 1024, 1025, 65_536, 65_537)
TIME_NS = 1_700_000_000_123_456_789


@dataclass(frozen=True)
class File:
    content: bytes
    time_ns: int = TIME_NS
    executable: bool = False


def first_tree(random, small=50, large=4):
    """Paths and their files."""
    tree = {f"{folder_of(random)}file {number}.dat": new_file(random) for number in range(small)}
    tree |= {f"films/film-{number}.mov": new_file(random, large=True) for number in range(large)}
    return tree


def folder_of(random):
    return random.choice(("", "a/", "a/b/", "a/b/deep/er/", "gemälde/", "c d/"))


def new_file(random, large=False):
    length = random.randrange(MIB, 2 * MIB) if large else random.choice((*SMALL_LENGTHS, *(random.randrange(40_000) for _ in range(14))))
    return File(random.randbytes(length), TIME_NS + random.randrange(10**15), random.random() < 0.1)


def next_tree(tree, random):
    """Some of everything: files deleted, changed in place and in length, touched, moved, swapped, turned in a circle, copied, new."""
    tree, paths = dict(tree), sorted(path for path in tree if not path.startswith("turned"))
    random.shuffle(paths)
    take = lambda share: [paths.pop() for _ in range(max(1, int(len(tree) * share)))]
    for path in take(0.1):
        del tree[path]
    for path in take(0.15):
        content = bytearray(tree[path].content) or bytearray(b"no longer empty")
        content[random.randrange(len(content))] ^= 1 + random.randrange(255)
        if random.random() < 0.3:
            content = content[: len(content) // 2] + random.randbytes(random.randrange(2000)) + content[len(content) // 2 :]
        tree[path] = File(bytes(content), tree[path].time_ns + 10**9, tree[path].executable)
    for path in take(0.05):
        tree[path] = replace(tree[path], time_ns=tree[path].time_ns + 10**9, executable=not tree[path].executable)
    for path in take(0.15):
        tree[f"{folder_of(random)}moved {random.randrange(10**9)}.dat"] = tree.pop(path)
    for path in take(0.05):
        tree[f"{folder_of(random)}copy {random.randrange(10**9)}.dat"] = replace(tree[path], time_ns=tree[path].time_ns + random.randrange(2))
    for circle in (paths[:2], paths[2:5]):
        for path, file in zip(circle, [tree[path] for path in circle[1:] + circle[:1]]):
            tree[path] = file
    for _ in range(6):
        tree[f"{folder_of(random)}new {random.randrange(10**9)}.dat"] = new_file(random)
    tree[f"films/new-{random.randrange(10**9)}.mov"] = new_file(random, large=True)
    # A file where a folder was, or the other way round.
    turned = {"turned": "turned/inside.dat", "turned/inside.dat": "turned"}
    was = next((path for path in turned if path in tree), "turned")
    tree.pop(was, None)
    tree[turned[was]] = new_file(random)
    # Large ones do not grow in number.
    for path in sorted(path for path in tree if path.startswith("films/"))[:-5]:
        del tree[path]
    return tree


def write_tree(tree, folder):
    for path, file in tree.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.content)
        place.chmod(0o755 if file.executable else 0o644)
        os.utime(place, ns=(file.time_ns, file.time_ns))


class Copy(Runs):
    """A folder that is kept in step with the library of an origin. `at` may be moved to another file system."""

    def __init__(self, program, folder):
        self.program, self.folder = program, folder
        self.origin = Origin()
        self.at = folder / "copy"
        # Nothing below may change: the copy has links to it.
        self.outside = folder / "outside"
        self.outside.mkdir()
        (self.outside / "canary").write_bytes(b"canary")
        self.kept = {}

    def publish(self, tree):
        self.origin.objects = self.published(tree)

    def published(self, tree):
        """The objects of an origin that has this tree as a library."""
        folder = self.folder / "published"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        write_tree(tree, folder)
        done = subprocess.run([self.program, "--quiet", "manifest", folder, "--name", "media"], env=environment(self.folder),
                              capture_output=True, text=True)
        Ended(done.returncode, done.stdout, done.stderr).must(0)
        before, self.origin.objects = self.origin.objects, {}
        for path in folder.rglob("*"):
            if path.is_file():
                self.origin.put("media/" + quote(str(path.relative_to(folder))), path.read_bytes())
        made, self.origin.objects = self.origin.objects, before
        return made

    def command(self, *more):
        return [self.program, "--json", "sync", self.origin.url("media/"), self.at, "--delete", *more]

    def sync(self, *more, before=()):
        return self.ended(self.start(*more, before=before))

    def prepare(self, old):
        """The copy is this version, and links in it lead out of it."""
        shutil.rmtree(self.at / f"{OWN}.trash", ignore_errors=True)
        # The last run left them to processes that had not ended yet.
        for temporary in self.at.glob(".sapwood-*"):
            temporary.unlink()
        self.check_finished(old)
        link = self.at / "away"
        if not link.is_symlink():
            link.symlink_to(self.outside)
        self.kept = {"canary": b"canary"}
        for number, path in enumerate(sorted(old)[::9]):
            second = self.outside / f"{number}"
            second.unlink(missing_ok=True)
            try:
                os.link(self.at / path, second)
            except OSError:
                # The copy is on another file system.
                continue
            self.kept[second.name] = old[path].content

    def found(self):
        """Paths of the regular files, without our own."""
        paths = {}
        for place, folders, names in os.walk(self.at):
            inside = os.path.relpath(place, self.at)
            if inside == ".":
                own = {name for name in [*folders, *names] if name.startswith(OWN)}
                if not own <= LEFT:
                    raise Wrong(f"left in the copy: {' '.join(sorted(own - LEFT))}")
                folders[:] = [name for name in folders if name not in own]
                names = [name for name in names if name not in own]
            for name in names:
                path = os.path.join(place, name)
                if not os.path.islink(path):
                    paths[os.path.relpath(path, self.at)] = path
        return paths

    def trashed(self):
        """Contents in the trash, by path."""
        trashed = {}
        for run in (self.at / f"{OWN}.trash").glob("*"):
            trashed |= {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}
        return trashed

    def check(self, old, new):
        """At any moment between two versions. Returns the paths that are not new yet."""
        # What a run was writing when it was killed; the next one removes it.
        found = {path: file for path, file in self.found().items() if not TEMPORARY.fullmatch(path)}
        if strange := set(found) - set(old) - set(new):
            raise Wrong(f"in neither version: {sorted(strange)}")
        waiting = [path for path in new if not self.is_placed(path, found, old, new)]
        gone = [path for path in old if path not in found]
        here, coming = ({new[path].content for path in paths} for paths in (set(new) - set(waiting), new))
        for path in gone:
            if old[path].content in coming and old[path].content not in here:
                raise Wrong(f"{path} is gone, and its content has no other name yet")
        deleted = [path for path in gone if old[path].content not in coming]
        # Deletions are last; only what they make room for comes later.
        early = [path for path in waiting if not any(is_below(path, other) or is_below(other, path) for other in set(old) - set(new))]
        if deleted and early:
            raise Wrong(f"{deleted[0]} is gone before {early[0]} is here")
        trashed = self.trashed()
        for path in deleted:
            if trashed.get(path) != old[path].content:
                raise Wrong(f"{path} was deleted, and is not in the trash")
        for path in set(found) - set(new):
            if read(found[path]) != old[path].content:
                raise Wrong(f"{path} is neither version")
        self.check_outside()
        return waiting

    def is_placed(self, path, found, old, new):
        """Whether this path has its new content; if not, what is there must be whole and old."""
        if path not in found:
            if path in old:
                raise Wrong(f"{path} is missing, and is in both versions")
            return False
        content = read(found[path])
        if content != new[path].content:
            if path not in old or content != old[path].content:
                raise Wrong(f"{path} has {len(content)} bytes that are neither version")
            return False
        # Attributes come with the content; only where that stays they may follow.
        if (path not in old or old[path].content != content) and attributes(found[path]) != attributes_of(new[path]):
            raise Wrong(f"{path} has the new content and another time or mode: {attributes(found[path])}")
        return True

    def check_outside(self):
        found = {path.name: path.read_bytes() for path in self.outside.iterdir()}
        if found != self.kept:
            raise Wrong("something outside of the copy was touched")

    def check_finished(self, tree):
        # What a killed run was writing goes, unless its number is that of another process now.
        found = {path: file for path, file in self.found().items() if not is_of_running(path)}
        if set(found) != set(tree):
            raise Wrong(f"finished with other files: {sorted(set(found) ^ set(tree))}")
        for path, file in tree.items():
            if read(found[path]) != file.content or attributes(found[path]) != attributes_of(file):
                raise Wrong(f"finished, and {path} is not as published")
        left = {name for name in os.listdir(self.at) if name.startswith(OWN)} - LASTING
        if left:
            raise Wrong(f"left behind: {' '.join(sorted(left))}")

    def must_finish(self, old, new):
        """The same command, and all is as it should be; once more, and nothing is to be done."""
        self.sync().must(0)
        self.check(old, new)
        self.check_finished(new)
        synced = self.sync().must(0).event("synced")
        if (synced["unchanged"], synced["fetched"], synced["deleted"]) != (len(new), 0, 0):
            raise Wrong(f"nothing changed, and it did something: {synced}")


def is_of_running(path):
    temporary = TEMPORARY.fullmatch(path)
    return temporary is not None and os.path.exists(f"/proc/{temporary[1]}")


def is_below(path, folder):
    return path.startswith(f"{folder}/")


def read(path):
    with open(path, "rb") as file:
        return file.read()


def attributes(path):
    status = os.stat(path)
    return status.st_mtime_ns, bool(status.st_mode & 0o100)


def attributes_of(file):
    return file.time_ns, file.executable
