#!/usr/bin/env python3
"""A second implementation of parts of manifests, written from manifest-spec/part.md alone.

    sapwood_part.py part FILE START END OUT [--block-size N] [--no-hints]
    sapwood_part.py join PART... OUT [--name N] ...

Ends with 3 when something is refused.
"""
import os, struct
from dataclasses import dataclass
import numpy as np
from sapwood_ref import (
    KIB, Commands, Facts, Refused, blake3, block_count, default_block_size, file_regions, merge_root, read_bytes, scan, write_bytes,
    write_manifest)

MAGIC = b"\x89SAPWPRT"
HEADER = struct.Struct("<8sHHIQQQ24s")


@dataclass
class Part:
    hints: bool
    block_size: int
    length: int
    start: int
    end: int
    leaves: bytes
    anchors: bytes
    pieces: bytes


def blocks(length, block_size, start, end):
    """The first block of a range and the one after its last."""
    aligned = start % block_size == 0 and (end % block_size == 0 or end == length) and end <= length
    if not aligned or start > end or (start == end) != (length == 0):
        raise Refused(0, f"bytes {start} to {end}")
    return start // block_size, max(1, -(-end // block_size))


def write_part(facts, start, end):
    first, last = blocks(facts.length, facts.block_size, start, end)
    hints = facts.anchors is not None
    header = HEADER.pack(MAGIC, 1, hints, facts.block_size, facts.length, start, end, bytes(24))
    data = header + facts.leaves[first:last].tobytes()
    if hints:
        data += facts.anchors[first:last].tobytes() + facts.pieces[start // KIB:-(-end // KIB)].tobytes()
    return data + blake3(data)


def read_part(data):
    if len(data) < HEADER.size or data[:8] != MAGIC:
        raise Refused(0, "not a part")
    _, version, flags, block_size, length, start, end, zeros = HEADER.unpack_from(data)
    if version != 1 or flags > 1 or any(zeros) or block_size not in [1 << e for e in range(14, 25)]:
        raise Refused(0, "a header that is not allowed")
    if block_count(length, block_size) > 1 << 24:
        raise Refused(0, "too many blocks")
    first, last = blocks(length, block_size, start, end)
    count = last - first
    sizes = [32 * count, 8 * count * flags, 2 * -(-(end - start) // KIB) * flags]
    if len(data) != HEADER.size + sum(sizes) + 32 or blake3(data[:-32]) != data[-32:]:
        raise Refused(0, "a wrong size or hash")
    sections, at = [], HEADER.size
    for size in sizes:
        sections.append(data[at:at + size])
        at += size
    return Part(flags == 1, block_size, length, start, end, *sections)


def join(parts):
    parts = sorted(parts, key=lambda part: part.start)
    one, next_byte = parts[0], 0
    for part in parts:
        if (part.hints, part.block_size, part.length) != (one.hints, one.block_size, one.length) or part.start != next_byte:
            raise Refused(0, "parts that are not of one manifest")
        next_byte = part.end
    if next_byte != one.length or (one.length == 0 and len(parts) > 1):
        raise Refused(0, "parts that are not all of a manifest")
    leaves = np.frombuffer(b"".join(part.leaves for part in parts), "<u4").reshape(-1, 8)
    root = leaves[0].tobytes() if len(leaves) == 1 else merge_root(leaves)
    anchors = np.frombuffer(b"".join(part.anchors for part in parts), "<u8") if one.hints else None
    pieces = np.frombuffer(b"".join(part.pieces for part in parts), "<u2") if one.hints else None
    return Facts(one.length, one.block_size, root, leaves, anchors, pieces)


def command_part(a):
    block_size = a.block_size or default_block_size(os.path.getsize(a.file))
    write_bytes(a.out, write_part(scan(file_regions(a.file), block_size, not a.no_hints), a.start, a.end))


def command_join(a):
    *parts, out = a.files
    facts = join([read_part(read_bytes(path)) for path in parts])
    write_bytes(out, write_manifest(facts, facts.anchors is not None, os.fsencode(a.name)))


def main():
    commands = Commands(__doc__)
    part = commands.add("part", command_part, "file")
    for bound in ("start", "end"):
        part.add_argument(bound, type=int)
    part.add_argument("out")
    part.add_argument("--block-size", type=int)
    part.add_argument("--no-hints", action="store_true")
    joined = commands.add("join", command_join)
    joined.add_argument("files", nargs="+")
    joined.add_argument("--name", default="")
    commands.main()


if __name__ == "__main__":
    main()
