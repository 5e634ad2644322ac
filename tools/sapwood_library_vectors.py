"""The test vectors of libraries (fixtures/vectors/libraries.json), made with sapwood_library.py; sapwood_vectors.py writes them."""
from dataclasses import replace
import struct
from sapwood_library import (
    FIELDS, HEADER, LENGTH_MAX, SMALL, Entry, Refused, assemble, blake3, encode_entry, path_is_allowed, read_index, show,
    write_index)
from sapwood_ref import paint, region_pieces

# Objects that are painted; of a larger one only the root is in an index.
LENGTHS = (0, 1, 1024, 1025, SMALL, SMALL + 1)
ALLOWED = ["a", "a/b", "-", "~", "...", "a b", ".hidden", "%2e%2e%2f", "gemälde", "gema\u0308lde", "CON", "aux.txt", "COM1",
           "a:b", "C:x", "trailing.", "trailing ", "x.parts", "a.sapwood", "sub/library.sapwood",
           "a" * 255, "/".join(["a" * 255] * 16), "/".join("a" * 2048)]
REFUSED = ["", "/", "/abs", "//x", "a//b", "a/", "./a", "a/.", ".", "..", "../x", "a/../../x", "a\\b", "C:\\x", "\\\\srv\\share",
           "a\\..\\..\\b", "nul\0", "line\nbreak", "escape\x1b[31m", "delete\x7f", "next\x85line", "turned\u202ename",
           "mark\u200f", "x.part", "X.PART", "x.part.journal", "x.quarantined", "x.part/y", "library.sapwood",
           "LIBRARY.sapwood.d/x", "library.sapwood2", "a" * 256, "b/" + "a" * 256, "/".join("a" * 2048) + "/a",
           "/".join("a" * 2047) + "/aa"]
REFUSED_BYTES = [b"\xff", b"a/\xc3", b"\xed\xa0\x80"]

# Not in the order of an index.
ORDER = ["a", "a b", "a-b/c", "a.b", "A", "b/c", "b-c", "b/c.d", "ä", "b/c-d/e", "~", "b/cd"]


def painted(path, length, **more):
    data = paint(0, length)
    pieces = region_pieces(data).tobytes() if length <= SMALL else b""
    return Entry(path.encode(), length, blake3(data), pieces=pieces, **more)


def plain():
    """Objects of all lengths, in an order in which `/` comes before every other byte."""
    names = ["a", "b/c", "b/c-d", "b/c.e/f", "b-c", "gemälde.bin"]
    entries = [painted(name, length) for name, length in zip(names, LENGTHS, strict=True)]
    entries[1] = replace(entries[1], executable=True, modified=1_700_000_000_123_456_789)
    entries[2] = replace(entries[2], modified=-1)
    return entries


def rule_of(data):
    try:
        read_index(data)
    except Refused as refused:
        return refused.rule
    return None


def with_entries(entries, **sums):
    """An index of entries as they are, in this order."""
    encoded = b"".join(map(encode_entry, entries))
    totals = {"count": len(entries), "total": sum(entry.length for entry in entries)} | sums
    return assemble(encoded, b"".join(entry.pieces for entry in entries), **totals)


def patched(data, at, new):
    return data[:at] + new + data[at + len(new):]


def damaged():
    """What is refused: the row, what it is, the index."""
    entries = plain()
    good = write_index(entries)
    yield 1, "63 bytes", good[:63]
    yield 1, "another magic", patched(good, 0, b"\x88")
    yield 1, "a manifest's magic", patched(good, 0, b"\x89SAPWOOD")
    yield 2, "version 2", patched(good, 8, b"\2")
    for at in (10, 11, 40, 63):
        yield 3, f"byte {at} is not zero", patched(good, at, b"\1")
    yield 3, "a byte is missing", good[:-1]
    yield 3, "a byte too many", good + b"\0"
    yield 3, "2^24 + 1 entries", patched(good, 12, struct.pack("<I", (1 << 24) + 1))
    yield 3, "2^64 - 1 bytes of entries", patched(good, 24, b"\xff" * 8)
    yield 4, "an entry less than said", patched(good, 12, struct.pack("<I", 7))
    yield 4, "an entry more than said", patched(good, 12, struct.pack("<I", 5))
    yield 4, "an entry of 50 bytes", patched(good, HEADER.size, struct.pack("<H", 50))
    yield 4, "an entry that is longer than the entries", patched(good, HEADER.size, b"\xff\xff")
    yield 4, "a path that is longer than its entry", patched(good, HEADER.size + 2 + FIELDS.size - 2, b"\2")
    yield 5, "flags of 2", patched(good, HEADER.size + 2, b"\2")
    yield 5, "a length over 2^48", with_entries([replace(painted("a", SMALL + 1), length=LENGTH_MAX + 1)])
    yield 5, "no bytes, another root", with_entries([replace(painted("a", 0), root=bytes(32))])
    yield 5, "the root of no bytes, one byte", with_entries([replace(painted("a", 1), root=blake3(b""))])
    for path in REFUSED_BYTES + [path.encode() for path in REFUSED]:
        yield 6, f"the path {path[:40]!r}", with_entries([replace(painted("a", 1), path=path)])
    for first, then in (("b", "a"), ("a", "a"), ("a-b", "a/b"), ("a", "a/b"), ("a/b", "a/b/c"), ("b", "B"), ("aa", "a")):
        yield 7, f"{first} before {then}", with_entries([painted(first, 1), painted(then, 2)])
    yield 8, "two lengths of one root", with_entries([painted("a", 2), replace(painted("b", 2), length=1)])
    yield 9, "another sum of lengths", with_entries(entries, total=1)
    yield 9, "a sum of lengths of 0", with_entries(
        [replace(painted(f"{i:03}", SMALL + 1), length=LENGTH_MAX, root=bytes([i]) * 32) for i in range(4)], total=0)
    yield 9, "pieces of an entry are missing", with_entries([replace(painted("a", 1025), pieces=b"")])
    yield 9, "pieces of a large object", with_entries([replace(painted("a", SMALL + 1), pieces=bytes(130))])


def library_vectors():
    later = [replace(entry, later=b"later"[:i]) for i, entry in enumerate(plain())]
    cases = [("no entry", []), ("objects of all lengths", plain()), ("bytes behind paths, which a reader skips", later),
             ("one object under two paths", [painted("a", 5), painted("b", 5)])]
    accepted = []
    for what, entries in cases:
        data = write_index(entries)
        if [show(entry) for entry in read_index(data)] != [show(entry) for entry in entries]:
            raise SystemExit(f"library vector {what!r}: it reads back as something else")
        accepted.append({"what": what, "index": data.hex(), "entries": [show(entry) for entry in entries],
                         "pieces": [entry.pieces.hex() for entry in entries]})
    refused = []
    for rule, what, data in damaged():
        if (found := rule_of(data)) != rule:
            raise SystemExit(f"library vector {what!r}: refused by row {found}, not {rule}")
        refused.append({"what": what, "rule": rule, "index": data.hex()})
    for path in ALLOWED:
        if not path_is_allowed(path.encode()) or rule_of(with_entries([painted(path, 1)])) is not None:
            raise SystemExit(f"the path {path!r} is refused")
    return {"accepted": accepted, "refused": refused, "allowed_paths": ALLOWED,
            "order": [entry.path.decode() for entry in read_index(write_index([painted(path, 1) for path in ORDER]))]}

