"""Pairs of an old and a new version: packages that registries keep, and data that programs write."""

import filecmp
import json
import random
import shutil
from pathlib import Path

from .delta import PAGE, VIDEO, DeltaData, DeltaPackages, change_pages, film
from .programs import run
from .versions import Pair

# Of the packages of Babel the newest that are not newer; those that came later have no such version.
BABEL = ("7.23.0", "7.23.5")
BABEL_TOP = tuple(f"@babel/{name}" for name in (
    "core", "preset-env", "preset-react", "preset-typescript", "preset-flow", "cli", "node", "register", "standalone", "runtime",
    "runtime-corejs3", "plugin-transform-runtime", "plugin-proposal-decorators"))
BABEL_LATER = ("@babel/helper-globals", "@babel/plugin-bugfix-v8-static-class-fields-redefine-readonly")
# Packages of others that had new versions between the two.
BABEL_OTHERS = {"caniuse-lite": ("1.0.30001538", "1.0.30001565"), "electron-to-chromium": ("1.4.528", "1.4.596"),
                "core-js-compat": ("3.32.2", "3.33.3"), "core-js-pure": ("3.32.2", "3.33.3"),
                "browserslist": ("4.21.11", "4.22.1")}
SQLITE_CRATES = ("0.38.0", "0.38.1")
LINUX = "linux-source-6.1"
LINUX_FOLDERS = ("arch/x86", "block", "crypto", "drivers/net", "fs", "include", "kernel", "lib", "mm", "net", "security", "sound")
EXT4_FOLDERS = ("arch/x86", "fs", "include", "kernel", "lib", "mm", "net")
EXT4_BYTES, EXT4_UUID = 200 << 20, "11111111-2222-3333-4444-555555555555"
CHANGED = 0.05
CSV_ROWS = 640_000
LOG_BYTES = 60_000_000
VIDEO_S = 15


def tar_of(folder, *names):
    """A tar beside the folder, with nothing of the time and the user of today."""
    made = folder.with_name(f"{folder.name}.tar")
    same = ("--format=gnu", "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner")
    run("tar", "--create", "--file", made, *same, "--directory", folder, *names)
    return made


def written(path, text):
    path.write_text(text)
    return path


def babel(_, scratch):
    """An installed tree of npm."""
    def install(folder, versions, overrides):
        folder.mkdir()
        (folder / "package.json").write_text(json.dumps({"private": True, "dependencies": versions, "overrides": overrides}))
        run("npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", cwd=folder)
    install(scratch / "names", {name: f">=7.0.0 <={BABEL[1]}" for name in BABEL_TOP}, {})
    folders = (scratch / "names" / "node_modules" / "@babel").iterdir()
    names = {f"@babel/{folder.name}" for folder in folders
             if json.loads((folder / "package.json").read_text())["version"].startswith("7.")} - {*BABEL_LATER}
    for number, which in enumerate(("old", "new")):
        versions = {name: f">=7.0.0 <={BABEL[number]}" for name in sorted(names)}
        versions |= {name: f"<={newest[number]}" for name, newest in BABEL_OTHERS.items()}
        install(scratch / which, versions, {name: f"${name}" for name in versions})
        yield tar_of(scratch / which, "node_modules")


def numpy(section, scratch):
    """The files of a wheel."""
    for wheel in kept(DeltaData, section, Pair("wheel", 1.0)):
        shutil.unpack_archive(wheel, scratch / wheel.stem, "zip")
        yield tar_of(scratch / wheel.stem, ".")


def sqlite(_, scratch):
    """A crate with the source of SQLite."""
    for version in SQLITE_CRATES:
        project = scratch / version
        (project / "src").mkdir(parents=True)
        (project / "src" / "lib.rs").touch()
        (project / "Cargo.toml").write_text(
            f'[package]\nname = "of"\nversion = "0.0.0"\n[workspace]\n[dependencies]\nlibsqlite3-sys = "={version}"\n')
        run("cargo", "vendor", "--quiet", cwd=project)
        yield tar_of(project, "--transform=s,^vendor/,,", "vendor/libsqlite3-sys")


def csv(_, scratch):
    """The same rows in another order."""
    chance = random.Random(3)
    first, last = "Ann Ben Cora Dan Eva Finn Gus Hana".split(), "Abel Brand Cole Dorn Ehlers Frank Grau Holm".split()
    towns = [side + kind for side in "North South East West New Old Upper Lower".split()
             for kind in "ford bridge haven field mouth ton ham wick".split()]
    rows = [(
        number, f"{chance.choice(first)} {chance.choice(last)}", chance.choice(towns),
        f"20{chance.randrange(10, 25)}-{chance.randrange(1, 13):02}-{chance.randrange(1, 29):02}",
        f"{chance.uniform(-1e4, 1e4):.2f}", chance.randrange(10**6), f"{chance.getrandbits(64):016x}",
        chance.choice(("open", "paid", "void", "late")),
    ) for number in range(CSV_ROWS)]
    for which in ("old", "new"):
        lines = [("id", "name", "town", "date", "amount", "points", "reference", "state"), *rows]
        yield written(scratch / which, "".join(",".join(map(str, line)) + "\n" for line in lines))
        rows.sort(key=lambda row: (row[2], row[3], row[0]))


def logs(_, scratch):
    """A log of requests: 5 % appended, and as many rotated away."""
    chance = random.Random(4)
    agents = ("Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0", "curl/8.9.1",
              "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
              "Mozilla/5.0 (compatible; ExampleBot/2.1)")
    hosts = [".".join(str(chance.randrange(1, 255)) for _ in range(4)) for _ in range(4_000)]
    words = "api static img users items v1 v2 search cart docs".split()
    paths = ["/" + "/".join(chance.choice(words) for _ in range(chance.randrange(1, 5))) for _ in range(600)]
    statuses = (200, 200, 200, 200, 304, 404, 301, 500)
    lines, size, time_s = [], 0, 0
    while size < LOG_BYTES * (1 + CHANGED):
        time_s += chance.randrange(3)
        day, second = divmod(time_s, 86_400)
        time = f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
        lines.append(
            f"{chance.choice(hosts)} - - [{1 + day % 28:02}/Oct/2026:{time} +0000] "
            f'"GET {chance.choice(paths)}?id={chance.randrange(10**6)} HTTP/1.1" {chance.choice(statuses)} '
            f'{chance.randrange(10 ** chance.randrange(2, 7))} "-" "{chance.choice(agents)}"\n')
        size += len(lines[-1])
    rotated = round(len(lines) * CHANGED / (1 + CHANGED))
    yield written(scratch / "old", "".join(lines[:-rotated]))
    yield written(scratch / "new", "".join(lines[rotated:]))


def of_data(pair):
    def make(section, _):
        """As delta-data has it."""
        return kept(DeltaData, section, pair)
    return make


def of_packages(package):
    def make(section, _):
        """As delta-packages has it."""
        return kept(DeltaPackages, section, Pair(package, 1.0))
    return make


def kept(kind, section, pair):
    other = kind(section.bench)
    other.begin()
    return other.make(pair)


def linux(section, scratch):
    """The larger half of the source of Linux."""
    packages = DeltaPackages(section.bench)
    packages.begin()
    # What only the packaging changed is no other version.
    releases = {}
    for version in packages.versions_of(LINUX):
        releases.setdefault(version.rsplit("-", 1)[0], version)
    for version in reversed([*releases.values()][:2]):
        folder = scratch / version
        folder.mkdir()
        run("tar", "--extract", "--file", packages.tar(f"{LINUX}={version}"), "--directory", folder)
        (source,) = folder.glob(f"usr/src/{LINUX}.tar.xz")
        run("tar", "--extract", "--file", source, "--directory", folder, *(f"{LINUX}/{name}" for name in LINUX_FOLDERS))
        yield tar_of(folder, LINUX)


def ext4(section, scratch):
    """A file system with sources of Linux, of which 5 % are replaced by those of the newer version."""
    (pair,) = (pair for pair in section.PAIRS if pair.name == "linux")
    trees = []
    for number, tar in enumerate(section.make(pair)):
        trees.append(scratch / str(number))
        trees[-1].mkdir()
        run("tar", "--extract", "--file", tar, "--directory", trees[-1], "--strip-components=1",
            *(f"{LINUX}/{name}" for name in EXT4_FOLDERS))
    files = sorted(path.relative_to(trees[0]) for path in trees[0].rglob("*") if path.is_file() and not path.is_symlink())
    changed = [path for path in files
               if (trees[1] / path).is_file() and not filecmp.cmp(*(tree / path for tree in trees), shallow=False)]
    chosen = random.Random(5).sample(changed, min(len(changed), round(len(files) * CHANGED)))
    old, new, script = scratch / "old", scratch / "new", scratch / "script"
    run("mke2fs", "-q", "-t", "ext4", "-b", PAGE, "-O", "^has_journal", "-U", EXT4_UUID,
        "-E", f"hash_seed={EXT4_UUID},lazy_itable_init=0,root_owner=0:0", "-d", trees[0], old, f"{EXT4_BYTES >> 10}k")
    shutil.copyfile(old, new)
    script.write_text("".join(f"rm /{path}\nwrite {trees[1] / path} /{path}\n" for path in chosen))
    run("debugfs", "-w", "-f", script, new)
    return old, new


def moov(_, scratch):
    """A film whose index moved to the front."""
    old, new = scratch / "old.mp4", scratch / "new.mp4"
    film(VIDEO.format(seed=1, seconds=VIDEO_S), old)
    film(f"-i {old} -c copy -fflags +bitexact -movflags +faststart", new)
    return old, new


def pages(_, scratch):
    """A film of which 1 % of the pages changed."""
    old, new = scratch / "old.mp4", scratch / "new.mp4"
    film(VIDEO.format(seed=1, seconds=VIDEO_S), old)
    new.write_bytes(change_pages(old.read_bytes()))
    return old, new


# By the name of the pair: what makes its two files, the old one first, in a folder that goes away.
MAKERS = {"babel": babel, "numpy": numpy, "sqlite": sqlite, "csv": csv, "json": of_data(Pair("json", 1.0, suffix=".json")),
          "jsonl": of_data(Pair("lines", 1.0, suffix=".jsonl")), "logs": logs, "libreoffice": of_packages("libreoffice-core"),
          "linux": linux, "ext4": ext4, "chromium": of_packages("chromium"), "moov": moov, "pages": pages}
