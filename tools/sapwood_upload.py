#!/usr/bin/env python3
"""A second implementation of the sizes of parts and of records of staged parts, written from manifest-spec/upload.md alone.

    sapwood_upload.py record FILE SESSION INDEX START END OUT [--block-size N]
    sapwood_upload.py check RECORD
    sapwood_upload.py plan LENGTH [--part-size N] [--block-size N]

LENGTH is a number or `unknown`. Ends with 3 when something is refused.
"""
import hashlib, json, os, struct, uuid
import numpy as np
from sapwood_ref import (
    KIB, Commands, Facts, Refused, blake3, block_count, check_anchors, default_block_size, file_regions, read_bytes, scan,
    write_bytes)

MAGIC = b"\x89SAPWUPL"
HEADER = struct.Struct("<8sHHIQQI4s16s32s8s")
MIB = 1 << 20
PART_MIN, PART_DEFAULT, PART_MAX, PARTS_MAX, GROUP = 5 * MIB, 8 * MIB, 4 << 30, 10_000, 500
EQUAL_GROUPS = 10
BLOCKS_MAX = 1 << 24


class Plan:
    """Where the parts of an object lie; `length` is None while it is not known."""

    def __init__(self, length, part_size=None, block_size=None):
        self.grows, self.length = length is None, length
        self.block_size = block_size or (256 * KIB if self.grows else default_block_size(length))
        least = max(-(-PART_MIN // self.block_size) * self.block_size, 2 * self.block_size if self.grows else 0)
        self.part_size = part_size or max(PART_DEFAULT, least)
        if self.part_size % self.block_size or not least <= self.part_size <= PART_MAX:
            raise Refused(0, f"parts of {self.part_size} bytes")
        while not self.grows and length > self.length_max():
            if self.part_size * 2 > PART_MAX:
                raise Refused(0, f"{length} bytes")
            self.part_size *= 2

    def size(self, group):
        size = self.part_size
        for _ in range(max(0, group + 1 - EQUAL_GROUPS) if self.grows else 0):
            size = size * 2 if size * 2 <= PART_MAX else size
        return size

    def start(self, index):
        groups, rest = divmod(index, GROUP)
        return sum(GROUP * self.size(group) for group in range(groups)) + rest * self.size(groups)

    def length_max(self):
        return min(self.start(PARTS_MAX), BLOCKS_MAX * self.block_size)

    def parts(self):
        """(start, end) of each part; of the longest object while the length is not known."""
        length = self.length_max() if self.length is None else self.length
        if length > self.length_max():
            raise Refused(0, f"{length} bytes")
        starts = [0] + [at for at in map(self.start, range(1, PARTS_MAX)) if at < length]
        return list(zip(starts, starts[1:] + [length]))


def write_record(facts, sha256, session, index, start, end):
    """`facts` are those of the object, or of its first bytes up to `end` if it goes on."""
    size, whole = facts.block_size, len(facts.leaves) == 1
    first, last = start // size, max(start // size + 1, -(-end // size))
    header = HEADER.pack(MAGIC, 1, whole, size, start, end - start, index, bytes(4), session.bytes, sha256, bytes(8))
    data = (header + facts.leaves[first:last].tobytes() + facts.anchors[first:last].tobytes()
            + facts.pieces[start // KIB:-(-end // KIB)].tobytes())
    return data + blake3(data)


def read_record(data):
    if len(data) < HEADER.size or data[:8] != MAGIC:
        raise Refused(0, "not a record")
    _, version, flags, size, start, length, index, zeros, session, sha256, more = HEADER.unpack_from(data)
    if version != 1 or flags > 1 or any(zeros + more) or size not in [1 << e for e in range(14, 25)]:
        raise Refused(0, "a header that is not allowed")
    session = uuid.UUID(bytes=session)
    if session.version != 4:
        raise Refused(0, "a session that is none")
    alone = index == 0 and length <= size
    if flags and not alone or not flags and length == 0 or (index == 0) != (start == 0):
        raise Refused(0, "a part that is not allowed")
    if index >= PARTS_MAX or length > PART_MAX or start % size or start + length >= 1 << 64:
        raise Refused(0, "a part that is not allowed")
    count, kibs = block_count(length, size), -(-length // KIB)
    if len(data) != HEADER.size + 40 * count + 2 * kibs + 32 or blake3(data[:-32]) != data[-32:]:
        raise Refused(0, "a wrong size or hash")
    anchors = np.frombuffer(data, "<u8", count, HEADER.size + 32 * count)
    check_anchors(Facts(length, size, b"", None, anchors, None))
    return {"session": str(session), "index": index, "block_size": size, "start": start, "end": start + length,
            "whole": flags == 1, "sha256": sha256.hex()}


def command_record(a):
    facts = scan(file_regions(a.file), a.block_size or default_block_size(os.path.getsize(a.file)))
    part = read_bytes(a.file)[a.start:a.end]
    record = write_record(facts, hashlib.sha256(part).digest(), uuid.UUID(a.session), a.index, a.start, a.end)
    write_bytes(a.out, record)


def command_check(a):
    print(json.dumps(read_record(read_bytes(a.record))))


def command_plan(a):
    plan = Plan(None if a.length == "unknown" else int(a.length), a.part_size, a.block_size)
    print(json.dumps({"part_size": plan.part_size, "block_size": plan.block_size, "parts": len(plan.parts())}))


def main():
    commands = Commands(__doc__)
    record = commands.add("record", command_record, "file", "session")
    for number in ("index", "start", "end"):
        record.add_argument(number, type=int)
    record.add_argument("out")
    commands.add("check", command_check, "record")
    plan = commands.add("plan", command_plan, "length")
    plan.add_argument("--part-size", type=int)
    for command in (record, plan):
        command.add_argument("--block-size", type=int)
    commands.main()


if __name__ == "__main__":
    main()
