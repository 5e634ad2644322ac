#!/usr/bin/env python3
"""A second implementation of the Sapwood library, written from manifest-spec/library.md alone.

    sapwood_library.py write FOLDER [--name N] [--sequence N] ...   writes library.sapwood and what belongs to it
    sapwood_library.py read library.sapwood                         checks an index, and prints each entry as JSON
    sapwood_library.py verify FOLDER                                checks that a folder has what its library lists
    sapwood_library.py verify-state FOLDER                          the same for what `sapwood sync` noted of it

Ends with 3 and the row of the table when something is refused.
"""
import json, os, re, stat, struct, sys
from dataclasses import dataclass
from pathlib import Path
from sapwood_ref import (
    KIB, Commands, Refused, add_particulars, blake3, default_block_size, file_regions, name_is_allowed, read_bytes, read_manifest,
    region_pieces, regions_of, scan, write_bytes, write_manifest)

MAGIC = b"\x89SAPWLIB"
HEADER = struct.Struct("<8sHHIQQQ24s")
# After the size of the entry: flags, length, root, modified, size of the path.
FIELDS = struct.Struct("<BQ32sqH")
INDEX, MANIFEST, FOLDER = "library.sapwood", "library.sapwood.sapwood", "library.sapwood.d"
STATE = "library.sapwood.sync"
INDEX_BLOCK_SIZE = 16384
# An object of at most so many bytes has no manifest, but pieces in the index.
SMALL = 65536
LENGTH_MAX, ENTRIES_MAX, PATH_MAX = 1 << 48, 1 << 24, 4095
NOTHING = blake3(b"")
OWN_SUFFIXES = (b".part", b".part.journal", b".quarantined")


@dataclass
class Entry:
    path: bytes
    length: int
    root: bytes
    modified: int = 0
    executable: bool = False
    pieces: bytes = b""                 # those of a small object
    later: bytes = b""                  # what a later version put behind the path


def pieces_bytes(length):
    return 2 * -(-length // KIB) if length <= SMALL else 0


def order(path):
    return path.split(b"/")


def path_is_allowed(path):
    """Section 3."""
    segments = order(path)
    return (1 <= len(path) <= PATH_MAX and all(map(bool, segments)) and all(map(name_is_allowed, segments))
            and not any(segment.lower().endswith(OWN_SUFFIXES) for segment in segments)
            and not segments[0].lower().startswith(INDEX.encode()))


# ---- Writing (2) ----------------------------------------------------------------------------------------------------

def encode_entry(entry):
    fields = FIELDS.pack(entry.executable, entry.length, entry.root, entry.modified, len(entry.path))
    body = fields + entry.path + entry.later
    return struct.pack("<H", len(body)) + body


def assemble(entries, pieces, count=None, total=None):
    """An index of encoded entries and pieces; `count` and `total` may be false."""
    return HEADER.pack(MAGIC, 1, 0, count, total, len(entries), len(pieces), bytes(24)) + entries + pieces


def write_index(entries):
    entries = sorted(entries, key=lambda entry: order(entry.path))
    encoded = b"".join(map(encode_entry, entries))
    return assemble(encoded, b"".join(e.pieces for e in entries), len(entries), sum(e.length for e in entries))


# ---- Reading (4) ----------------------------------------------------------------------------------------------------

def decode_entries(data, count):
    """Row 4: takes the entries apart and judges no values."""
    entries, at = [], 0
    for _ in range(count):
        if len(data) - at < 2:
            raise Refused(4, "the entries end early")
        size, = struct.unpack_from("<H", data, at)
        at += 2
        if size < FIELDS.size or size > len(data) - at:
            raise Refused(4, f"an entry of {size} bytes")
        flags, length, root, modified, path_size = FIELDS.unpack_from(data, at)
        path_at = at + FIELDS.size
        if path_size > size - FIELDS.size:
            raise Refused(4, "an entry that is shorter than its path")
        path = data[path_at:path_at + path_size]
        entries.append((flags, Entry(path, length, root, modified, bool(flags & 1), later=data[path_at + path_size:at + size])))
        at += size
    if at != len(data):
        raise Refused(4, f"{count} entries take {at} bytes, not {len(data)}")
    return entries


def read_index(data):
    """The entries of an index, with the pieces of the small ones."""
    if len(data) < HEADER.size or data[:8] != MAGIC:
        raise Refused(1, "fewer than 64 bytes, or a wrong magic")
    _, version, zeros, count, total, entries_size, pieces_size, more_zeros = HEADER.unpack_from(data)
    if version != 1:
        raise Refused(2, f"version {version}")
    if zeros or any(more_zeros) or HEADER.size + entries_size + pieces_size != len(data) or count > ENTRIES_MAX:
        raise Refused(3, "zeros that are none, sizes that are not that of the index, or too many entries")
    end = HEADER.size + entries_size
    decoded = decode_entries(data[HEADER.size:end], count)
    lengths, before = {}, None
    for flags, entry in decoded:
        if flags > 1 or entry.length > LENGTH_MAX or (entry.length == 0) != (entry.root == NOTHING):
            raise Refused(5, f"flags {flags}, length {entry.length}")
        if not path_is_allowed(entry.path):
            raise Refused(6, f"the path {entry.path!r}")
        segments = order(entry.path)
        if before is not None and (segments <= before or segments[:len(before)] == before):
            raise Refused(7, f"the path {entry.path!r} after another one")
        if lengths.setdefault(entry.root, entry.length) != entry.length:
            raise Refused(8, "two lengths of one root")
        before = segments
    entries = [entry for _, entry in decoded]
    if total != sum(e.length for e in entries) or pieces_size != sum(pieces_bytes(e.length) for e in entries):
        raise Refused(9, "a sum of lengths, or pieces, that the entries do not give")
    at = end
    for entry in entries:
        entry.pieces = data[at:at + pieces_bytes(entry.length)]
        at += len(entry.pieces)
    return entries


def show(entry):
    return {"path": entry.path.decode(), "length": entry.length, "root": entry.root.hex(), "modified": entry.modified,
            "executable": entry.executable}


# ---- Folders (1) ----------------------------------------------------------------------------------------------------

def listed_files(folder):
    """Path (bytes) and status of each file that a library lists, and how many were left out."""
    found, left_out = [], 0
    for place, folders, names in os.walk(os.fsencode(folder)):
        inside = os.path.relpath(place, os.fsencode(folder))
        if inside == b".":
            folders[:] = [name for name in folders if not name.lower().startswith(INDEX.encode())]
        for name in names:
            path = name if inside == b"." else inside + b"/" + name
            status = os.lstat(os.path.join(place, name))
            if inside == b"." and name.lower().startswith(INDEX.encode()):
                continue
            is_manifest = name.endswith(b".sapwood") and name[:-len(b".sapwood")] in names
            is_unfinished = re.fullmatch(rb"\.sapwood-\d+-u?\d+", name)
            if stat.S_ISREG(status.st_mode) and path_is_allowed(path) and not is_manifest and not is_unfinished:
                found.append((path, status))
            else:
                left_out += 1
    return found, left_out


def write_library(folder, name=None, sequence=0, published=0, expires=0):
    folder = Path(folder)
    entries, manifests = [], {}
    found, left_out = listed_files(folder)
    for path, status in found:
        file = os.path.join(os.fsencode(folder), path)
        block_size = default_block_size(status.st_size)
        facts = scan(file_regions(file), block_size)
        small = facts.length <= SMALL
        if not small:
            manifests[facts.root.hex()] = write_manifest(facts)
        entries.append(Entry(path, facts.length, facts.root, status.st_mtime_ns, bool(status.st_mode & 0o100),
                             facts.pieces.tobytes() if small else b""))
    if manifests:
        (folder / FOLDER).mkdir(exist_ok=True)
    for root, manifest in manifests.items():
        write_bytes(folder / FOLDER / f"{root}.sapwood", manifest)
    index = write_index(entries)
    read_index(index)
    name = os.fsencode(folder.resolve().name if name is None else name)
    described = scan(regions_of(index), INDEX_BLOCK_SIZE)
    write_bytes(folder / INDEX, index)
    write_bytes(folder / MANIFEST, write_manifest(described, True, name if name_is_allowed(name) else b"", sequence, published, expires))
    return left_out


def check_files(folder, entries, has_manifests):
    """Refuses a folder in which a file differs from its entry."""
    wrong = 0
    for entry in entries:
        file = os.path.join(os.fsencode(folder), entry.path)
        facts = scan(file_regions(file), default_block_size(entry.length))
        small = entry.length <= SMALL
        same = facts.root == entry.root and (not small or facts.pieces.tobytes() == entry.pieces)
        if same and has_manifests and not small:
            manifest = folder / FOLDER / f"{entry.root.hex()}.sapwood"
            same = read_manifest(read_bytes(manifest)).header.root == entry.root
        if not same:
            print(f"{entry.path.decode()}: differs", file=sys.stderr)
            wrong += 1
    if wrong:
        raise Refused(0, f"{wrong} files differ")


def verify_library(folder):
    folder = Path(folder)
    index = read_bytes(folder / INDEX)
    if blake3(index) != read_manifest(read_bytes(folder / MANIFEST)).header.root:
        raise Refused(0, "the index is not the object of its manifest")
    check_files(folder, read_index(index), True)


def verify_state(folder):
    """What `sync` noted: an index of the files that it proved, beside no manifests."""
    folder = Path(folder)
    entries = read_index(read_bytes(folder / STATE))
    check_files(folder, entries, False)
    for entry in entries:
        status = os.lstat(os.path.join(os.fsencode(folder), entry.path))
        if (status.st_size, status.st_mtime_ns) != (entry.length, entry.modified):
            raise Refused(0, f"{entry.path.decode()}: another length or time")


# ---- Command line ---------------------------------------------------------------------------------------------------

def command_write(a):
    print(f"{write_library(a.folder, a.name, a.sequence, a.published, a.expires)} left out")


def command_read(a):
    for entry in read_index(read_bytes(a.index)):
        print(json.dumps(show(entry), ensure_ascii=False))


def main():
    commands = Commands(__doc__)
    add_particulars(commands.add("write", command_write, "folder"))
    commands.add("read", command_read, "index")
    commands.add("verify", lambda a: verify_library(a.folder), "folder")
    commands.add("verify-state", lambda a: verify_state(a.folder), "folder")
    commands.main()


if __name__ == "__main__":
    main()
