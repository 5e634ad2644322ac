#!/usr/bin/env python3
"""Writes the test vectors of fixtures/vectors with the second implementation: `sapwood_vectors.py DIRECTORY`.

Every change of a manifest is applied and judged by the reader of sapwood_ref.py before it is written down.
"""
import base64, json, os, struct, sys
from dataclasses import replace
import numpy as np
from sapwood_library_vectors import library_vectors
from sapwood_pack_vectors import pack_vectors
from sapwood_ref import (
    CELL, DIGEST_KINDS, GEAR, NO_WINDOW, ORDER, PAGE, PIECES, SECTIONS_AT, STATEMENT, Header, Refused, Section,
    blake3, block_count, check_statement, compare, default_block_size, encode_header, flipped, is_signed_by,
    level_sizes, merge_groups, merge_root, node_anchor_levels, node_levels, paint, painted_regions, public_key,
    read_journal, read_manifest, region_pieces, regions_of, rule_of, scan, seal, section_lengths, show,
    signature_area, tag_of, window_hashes, write_groups, write_journal, write_leaves, write_manifest)
from sapwood_upload_vectors import upload_vectors

# ---- Vectors: the parts (8) -----------------------------------------------------------------------------------------

def u64(value):
    return f"{int(value):016x}"


def parts_vectors():
    hashed = [0, 1, 2, 1 << 33, (1 << 34) - 1, 1 << 34, (1 << 34) + 1, (1 << 35) - 1, 1 << 35, (1 << 35) + 1,
              (1 << 35) + 2, 1 << 63, (1 << 63) + (1 << 29) - 1, (1 << 63) + (1 << 29), 0x0123456789ABCDEF,
              (1 << 64) - 1]
    windows = [bytes(64), b"\xff" * 64, bytes(range(64)), b"\x01" + bytes(63), bytes(63) + b"\x01"]
    windows += [paint(64 * i, 64 * i + 64) for i in range(8)]

    def hash_of(window):
        return int(window_hashes(np.frombuffer(window, "u1").reshape(1, 64))[0, 0])

    def anchor_of(data):
        return u64(scan(regions_of(data), 1 << 24).anchors[0])

    # Two windows of the painted object, found by search: their tags are equal, and the first one has the larger hash.
    near_tie = paint(42201416, 42201488)[1:65] + paint(67216808, 67216872)
    ties = [("16384 zero bytes: all windows are equal", bytes(CELL)),
            ("65536 zero bytes: four equal cells", bytes(4 * CELL)),
            ("paint of 100 bytes, twice, in one cell", 2 * paint(0, 100)),
            ("paint of 16384 bytes, twice: two equal cells", 2 * paint(0, CELL)),
            ("two windows with one tag, the second one with the smaller hash", near_tie)]
    nodes, facts = [], scan(painted_regions(600 * CELL - 5), CELL)
    levels = [facts.leaves] + node_levels(facts.leaves)
    anchors = [facts.anchors] + node_anchor_levels(facts.anchors, CELL, len(levels) - 1)
    for k, j in ((0, 0), (0, 1), (0, 255), (0, 256), (0, 305), (0, 599), (1, 0), (1, 1), (1, 2)):
        where = {"length": facts.length, "block_size": CELL, "level": k, "index": j}
        hint = {"anchor": u64(anchors[0][j])} if k == 0 else {
            "anchor_tag": u64(anchors[k][j][0]), "anchor_place": u64(anchors[k][j][1])}
        nodes.append(where | {"cv": levels[k][j].tobytes().hex()} | hint)
    lengths = [0, 1, 63, 64, 65, 1023, 1024, 1025, 2048, 2049, 3072, 3073, 16383, 16384, 16385, 65536, 102400,
               1048576, 1048577]
    digests = scan(painted_regions(100000), 65536, False, DIGEST_KINDS).digests
    return {
        "paint": [{"length": n, "hex": paint(0, n).hex()} for n in (0, 1, 8, 29)],
        "blake3": [{"length": n, "root": blake3(paint(0, n)).hex()} for n in lengths],
        "digests": {"length": 100000, "digests": {DIGEST_KINDS[k][0]: v.hex() for k, v in digests}},
        "default_block_size": [{"length": n, "block_size": default_block_size(n)} for n in (
            0, 1 << 36, (1 << 36) + 1, 1 << 37, 1 << 43, (1 << 43) + 1, 1 << 44, (1 << 44) + 1, 1 << 48)],
        "gear": [{"i": i, "g": u64(GEAR[i])} for i in (0, 1, 127, 255)],
        "tags": [{"h": u64(h), "tag": f"{tag_of(h):010x}"} for h in hashed],
        "windows": [{"window": w.hex(), "h": u64(hash_of(w)), "tag": f"{tag_of(hash_of(w)):010x}"} for w in windows],
        "anchors": [{"length": n, "anchor": anchor_of(paint(0, n))} for n in
                    (0, 63, 64, 65, 16383, 16384, 16385, 16447, 16448, 65536, 1 << 20, (1 << 20) + 16384)],
        "equal_tags": [{"what": what, "hex" if len(data) < 300 else "blake3": data.hex() if len(data) < 300 else
                        blake3(data).hex(), "anchor": anchor_of(data)} for what, data in ties],
        "pieces": [{"length": n, "pieces": [f"{p:04x}" for p in region_pieces(paint(0, n)).tolist()]}
                   for n in (0, 1, 1023, 1024, 1025, 4096, 5000)],
        "nodes": nodes,
        "many_blocks": many_blocks(),
        "signed": signed_vector(),
        "leaves_file": leaves_file_vector()}


def many_blocks():
    """A manifest without hints of the most blocks there can be: leaf i is bytes [32i, 32i + 32) of the paint."""
    n = 1 << 24
    # 65,536 leaves a step, so that memory stays small.
    pages = [merge_groups(np.frombuffer(paint(at, at + (2 << 20)), "<u4").reshape(-1, 8), 8)
             for at in range(0, 32 * n, 2 << 20)]
    pages = np.concatenate(pages)
    top = merge_groups(pages, 8)
    tree, length = write_groups(top, None) + write_groups(pages, None), (n << 14) - 5
    sizes = section_lengths(length, CELL, False)
    hashes = [blake3(tree), scan(painted_regions(32 * n), 1 << 20, False).root]
    sections = [Section(1, 1, SECTIONS_AT, sizes[0], hashes[0]),
                Section(2, 1, SECTIONS_AT + sizes[0], sizes[1], hashes[1])]
    root = merge_root(top)
    header = Header(length, CELL, root, sections=sections)
    return {"length": length, "block_size": CELL, "blocks": n, "root": root.hex(), "tree_blake3": hashes[0].hex(),
            "pages_blake3": hashes[1].hex(), "statement": seal(encode_header(header)).hex()}


def signed_vector():
    seed, other, key_id = blake3(b"vector"), blake3(b"other"), bytes(range(8))
    data = write_manifest(scan(painted_regions(2 * CELL - 5), CELL, False), False, b"painted", 7, 1700000000, 1800000000)
    comment = "timestamp:1700000000\tfile:gemälde".encode()

    def signed(seed, key_id, comment=comment, data=data):
        return data[:STATEMENT] + signature_area(seed, key_id, comment, data[:STATEMENT]) + data[SECTIONS_AT:]

    good, public = signed(seed, key_id), public_key(seed)
    twin = good[:STATEMENT + 42] + (int.from_bytes(good[STATEMENT + 42:STATEMENT + 74], "little") + ORDER).to_bytes(
        32, "little") + good[STATEMENT + 74:]
    unknown = good[:STATEMENT] + b"ML" + bytes(4) + good[STATEMENT + 6:]
    bad = [("unsigned", data), ("another key", signed(other, bytes(8))),
           ("another key under this id", signed(other, key_id)), ("this key under another id", signed(seed, bytes(8))),
           ("an unknown kind", unknown),
           ("a changed comment", good[:STATEMENT + 140] + b"T" + good[STATEMENT + 141:]),
           ("s plus the order of the group", twin)]
    bad += [(f"a bit of byte {at}", good[:at] + bytes([good[at] ^ 1]) + good[at + 1:]) for at in
            (STATEMENT + 10, STATEMENT + 73, STATEMENT + 74, STATEMENT + 137)]
    statement = seal(encode_header(replace(check_statement(data), sequence=8)))
    bad.append(("another statement", statement + good[STATEMENT:]))
    for what, changed in [("", good), *bad]:
        read_manifest(changed)
        if is_signed_by(changed, public, key_id) != (changed == good):
            raise SystemExit(f"signed vector {what!r} is wrong")
    text = base64.b64encode(b"Ed" + key_id + public).decode()
    return {"seed": seed.hex(), "key_id": key_id.hex(), "public_key": text, "comment": comment.decode(),
            "manifest": good.hex(), "refused": [edits(good, changed) | {"what": what} for what, changed in bad]}


def leaves_file_vector():
    """The second of three leaves is not known, the last one behind the end of the file."""
    facts = scan(painted_regions(3 * CELL - 5), CELL, False)
    texts = ["http://host.example:8080", "", "gemälde.bin", "http://host.example:8080/g"]
    leaves = [facts.leaves[0].tobytes(), None]
    data = write_leaves(facts.root, facts.length, CELL, [text.encode() for text in texts], leaves)
    origin, key_id, name, url = texts
    return {"root": facts.root.hex(), "length": facts.length, "block_size": CELL, "origin": origin, "key_id": key_id,
            "name": name, "url": url, "leaves": [leaves[0].hex(), None, None], "file_length": len(data),
            "patch": edits(bytes(len(data)), data)["patch"]}


# ---- Vectors: journals ----------------------------------------------------------------------------------------------

def journal_vectors():
    def text(value):
        return struct.pack("<Q", len(value)) + value

    def begin(root=None, length=10 * 65536, size=65536, etag=b"", modified=b"", url=b"http://h/f"):
        option = b"\0" if root is None else b"\1" + root
        return struct.pack("<I", 0) + option + struct.pack("<QI", length, size) + text(etag) + text(modified) + text(url)

    def run(boot=1, device=2, inode=3, local=1):
        return struct.pack("<I16sQQBQ", 1, bytes([boot]) * 16, device, inode, local, 1700000000)

    def listed(kind, *ranges):
        return struct.pack("<IQ", kind, len(ranges)) + b"".join(struct.pack("<II", *pair) for pair in ranges)

    def leaves(first, *values):
        return struct.pack("<IIQ", 4, first, len(values)) + b"".join(values)

    def barrier(records):
        return struct.pack("<IQ", 6, records)

    def here(boot=1, device=2, inode=3, local=True):
        return {"boot_id": (bytes([boot]) * 16).hex(), "device": device, "inode": inode, "local": local}

    made = []

    def case(what, data, place=None):
        place = place or here()
        seen = bytes.fromhex(place["boot_id"]), place["device"], place["inode"], place["local"]
        claims = read_journal(data, seen)
        made.append({"what": what, "here": place, "journal": data.hex(), "claims": claims and {
            key: value for key, value in claims.items() if value or key == "claimed"}})

    def records(what, *payloads, place=None, start=(begin(), run())):
        case(what, write_journal([*start, *payloads]), place)

    two = (listed(2, (0, 2)), barrier(3), listed(2, (5, 1)))
    for what, place in (("a kill", here()), ("another boot", here(boot=9)), ("another device", here(device=7)),
                        ("another inode", here(inode=7)), ("not local now", here(local=False))):
        records(f"a barrier between two claims; {what}", *two, place=place)
    records("not local", *two, start=(begin(), run(local=0)), place=here(local=False))
    records("an unknown boot", *two, start=(begin(), run(boot=0)), place=here(boot=0))
    again = (*two, run(boot=9), listed(2, (7, 1)))
    records("two boots", *again, place=here(boot=9))
    records("two boots, and a third", *again, place=here(boot=5))
    records("two boots, and back to the first", *again)
    records("a barrier does not bring back what a boot discarded", *again, barrier(9), place=here(boot=9))
    records("two runs in one boot", *two, run(), listed(2, (7, 1)))
    records("all that a record can have", leaves(4, b"a" * 32, b"b" * 32), start=(
        begin(b"r" * 32, etag='"é"'.encode(), modified=b"Mon, 02 Nov 2026 10:00:00 GMT"), run()))
    records("a barrier covers the records before its number", listed(2, (0, 2)), listed(2, (5, 1)), barrier(3),
            place=here(boot=9))
    records("a barrier counts more records than there are", listed(2, (0, 2)), barrier(99), listed(2, (5, 1)),
            place=here(boot=9))
    dropped = (listed(2, (0, 6)), listed(5, (2, 2)), barrier(9))
    records("dropped", *dropped)
    records("dropped, and another boot", *dropped, place=here(boot=9))
    records("dropped and claimed again", *dropped, listed(2, (3, 1)))
    records("dropped and claimed again, with a barrier for the first claim", *dropped[:2], listed(2, (3, 1)), barrier(3),
            place=here(boot=9))
    top = (1 << 32) - 1
    records("a range partly outside, and one outside", listed(2, (8, 9), (50, 60)))
    records("a range up to block 2^32 - 2", listed(2, (9, top - 9)))
    records("a range with block 2^32 - 1", listed(2, (0, 1)), listed(2, (9, top - 8)), listed(2, (2, 1)))
    records("leaves partly outside", leaves(9, b"a" * 32, b"b" * 32))
    records("leaves with block 2^32 - 1", listed(2, (0, 1)), leaves(top, b"a" * 32))
    records("empty lists", listed(2), listed(5), leaves(0), listed(2, (3, 0)))
    for kind in (3, 7, 1 << 31):
        records(f"the unknown kind {kind}", listed(2, (0, 1)), struct.pack("<I", kind), listed(2, (2, 1)))
    records("another begin", listed(2, (0, 1)), begin(), listed(2, (2, 1)))
    records("a claim before a run", listed(2, (0, 1)), run(), start=(begin(),))
    records("a barrier before a run", barrier(0), run(), start=(begin(),))
    records("no run", start=(begin(),))
    records("no begin", listed(2, (0, 1)), start=(run(),))
    records("a run with the flag 2", listed(2, (0, 1)), run(local=2), listed(2, (2, 1)))
    records("an option with the flag 2", start=(b"\0\0\0\0\2" + begin()[5:], run()))
    records("an entity tag that is not UTF-8", start=(begin(etag=b'"\xe9"'), run()))
    records("a block size of 48 KiB", start=(begin(size=3 << 14), run()))
    records("too many blocks", start=(begin(length=1 << 63), run()))
    records("a byte after the fields", listed(2, (0, 1)), barrier(2) + b"\0", listed(2, (2, 1)))
    records("a payload of three bytes", listed(2, (0, 1)), b"\6\0\0", listed(2, (2, 1)))
    records("a list that is longer than its record", listed(2, (0, 1)), struct.pack("<IQ", 2, (1 << 64) - 1))
    whole = write_journal([begin(), run(), *two])
    for what, data in (("the last byte is missing", whole[:-1]), ("a byte more", whole + b"\0"),
                       ("a bit of the third record", flipped(whole, len(write_journal([begin(), run()])) + 9, 3)),
                       ("a size over 1 MiB", whole + struct.pack("<I", (1 << 20) + 1)),
                       ("another magic", flipped(whole, 3, 0)), ("version 0", flipped(whole, 8, 0)), ("a byte of the zeros", flipped(whole, 15, 7)),
                       ("nothing but a header", whole[:16]), ("empty", b"")):
        case(what, data)
    return made


# ---- Vectors: manifests and what must be refused --------------------------------------------------------------------

class Draft:
    """A manifest taken apart, to be changed and sealed again."""
    def __init__(self, data):
        self.header, self.signature = check_statement(data), bytearray(data[STATEMENT:SECTIONS_AT])
        self.parts = [bytearray(data[s.offset:s.offset + s.length]) for s in self.header.sections]
        self.stated_length, self.edits, self.tail = None, [], b""

    def change(self, **values):
        self.__dict__.update(values)

    def set(self, **values):
        self.header.__dict__.update(values)

    def entry(self, i, **values):
        self.header.sections[i].__dict__.update(values)

    def write(self, at, data):                          # in the statement, under its checksum
        self.edits.append((at, data))

    def sign(self, at, data):
        self.signature[at:at + len(data)] = data

    def put(self, i, at, data):                         # in a section, with a new hash
        self.parts[i][at:at + len(data)] = data
        self.entry(i, blake3=blake3(bytes(self.parts[i])))

    def flip(self, i, at):
        self.put(i, at, bytes([self.parts[i][at] ^ 1]))

    def add(self, *kinds, critical=0, content=b"sapwood"):
        for kind in kinds:
            end = self.header.sections[-1].offset + self.header.sections[-1].length
            self.header.sections.append(Section(kind, critical, end, len(content), blake3(content)))
            self.parts.append(content)

    def bytes(self):
        statement = bytearray(seal(encode_header(self.header), self.stated_length))
        for at, data in self.edits:
            statement[at:at + len(data)] = data
        statement[992:] = blake3(bytes(statement[:992]))
        return bytes(statement + self.signature) + b"".join(self.parts) + self.tail


def do(*steps):
    """A change of several steps: each is the name of a method of Draft, its arguments, and its named arguments."""
    def change(draft):
        for name, *values in steps:
            named = values.pop() if values and isinstance(values[-1], dict) else {}
            getattr(draft, name)(*values, **named)
    return change


def statement_fields(h):
    sizes = [("magic", 8), ("version", 2), ("header length", 2), ("length", 8), ("block size", 4), ("root", 32),
             ("name size", 8), ("name", len(h.name)), ("sequence", 8), ("published", 8), ("expires", 8),
             ("digest count", 8)]
    for kind, value in h.digests:
        sizes += [(f"digest kind {kind}", 1), (f"digest length {kind}", 1), (f"digest {kind}", len(value))]
    sizes.append(("section count", 8))
    for s in h.sections:
        sizes += [(f"section {s.kind} {word}", size) for word, size in
                  (("kind", 1), ("critical", 1), ("offset", 8), ("length", 8), ("blake3", 32))]
    sizes += [("zeros", 980 - len(encode_header(h))), ("checksum", 32)]
    at = 0
    for name, size in sizes:
        if size:
            yield name, at, size
        at += size


def flips(data):
    """One byte in each field; `rule` is what a whole reader must name."""
    h = check_statement(data)
    found = [(at + size // 2, 1 << i % 8, {"magic": 1, "version": 2}.get(name, 3), name)
             for i, (name, at, size) in enumerate(statement_fields(h))]
    found += [(STATEMENT + at, 0x10, 9, name) for at, name in
              ((0, "signature kind"), (9, "key id"), (10, "signature"), (137, "global signature"),
               (139, "comment length"), (140, "comment"), (511, "signature area end"))]
    for s in h.sections:
        if s.length:
            # A section ends with an anchor or a piece, which only its hash shows, or, without hints, with a value.
            last = 12 if len(h.sections) == 3 else 11
            found += [(s.offset, 0x80, 12 if s.kind == PIECES else 11, f"section {s.kind} first byte"),
                      (s.offset + s.length - 1, 0x01, last, f"section {s.kind} last byte")]
    return [{"offset": at, "xor": xor, "rule": rule, "field": name} for at, xor, rule, name in found]


def header_changes(data):
    """Rules 1 to 12 as far as a small change of statement, signature or size breaks them: (rule, what, change)."""
    h = check_statement(data)
    size, b, end = len(encode_header(h)), h.block_size, len(data)
    at = {name: place for name, place, _ in statement_fields(h)}
    huge = b"\xff" * 8
    sha, md5 = (1, bytes(32)), (4, bytes(16))
    yield 1, "wrong magic, and version 2", do(("write", 0, b"\x88"), ("write", 8, b"\2"))
    yield 2, "version 2", do(("write", 8, b"\2"))
    yield 2, "version 257", do(("write", 9, b"\1"))
    yield 3, "header length 981", do(("write", 10, struct.pack("<H", 981)))
    for what, stated in (("one more", size + 1), ("one less", size - 1), ("0", 0), ("980", 980)):
        yield 4, f"header length {what}", do(("write", 10, struct.pack("<H", stated)))
    yield 4, "a byte after the header", do(("write", 12 + size, b"\1"))
    yield 4, "the byte before the checksum", do(("write", 991, b"\1"))
    for word in ("name size", "digest count", "section count"):
        yield 4, f"{word} 2^64 - 1", do(("write", at[word], huge))
    yield 4, "section count one more than there are", do(("write", at["section count"], bytes([len(h.sections) + 1])))
    for bad in (0, 1, 8192, 16385, 3 << 14, 1 << 25, 1 << 31):
        yield 5, f"block size {bad}", do(("set", {"block_size": bad}))
    for bad in ((b << 24) + 1, (1 << 64) - 1):
        yield 5, f"length {bad}", do(("set", {"length": bad}))
    # As long as the name, so that the patches are short.
    letters = "\\\t\n\x7f\x80\x9f\u061c\u200e\u202a\u202e\u2066\u2069"
    texts = [letter.encode().rjust(len(h.name), b"a") for letter in letters]
    for bad in (b"a" * 256, b"a/b", b"/", b"a\0b", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80",
                b".", b"..", *texts):
        yield 6, f"name {bad[:8].hex()}, {len(bad)} bytes", do(("set", {"name": bad}))
    yield 4, "digest kind 8 of many, and a wrong block size", do(
        ("set", {"block_size": 1, "digests": [(8, b"")]}), ("write", at["digest count"], huge))
    yield 4, "a digest that is longer than the header", do(
        ("set", {"digests": [(8, b"")]}), ("write", at["digest count"] + 9, b"\xff"))
    yield 7, "digest kind 0", do(("set", {"digests": [(0, bytes(32))]}))
    for kind, length in ((1, 32), (6, 8), (7, 32)):
        yield 7, f"a digest of kind {kind} and {length + 1} bytes", do(("set", {"digests": [(kind, bytes(length + 1))]}))
    yield 7, "a digest of kind 1 and 0 bytes", do(("set", {"digests": [(1, b"")]}))
    yield 7, "unknown digests out of order", do(("set", {"digests": [(9, b"a"), (8, b"a")]}))
    yield 7, "an unknown digest twice", do(("set", {"digests": [(200, b"a"), (200, b"b")]}))
    yield 7, "an unknown digest before a known one", do(("set", {"digests": [(8, bytes(32)), sha]}))
    many = (975 - size + sum(2 + len(value) for _, value in h.digests)) // 6
    yield 7, f"{many} digests of one kind", do(("set", {"digests": [(5, bytes(4))] * many}))
    yield 7, "digests out of order", do(("set", {"digests": [md5, sha]}))
    yield 7, "a digest twice", do(("set", {"digests": [md5, md5]}))
    yield 7, "a blake3 digest that is not the root", do(("set", {"digests": [(7, bytes(32))]}))
    known = h.sections
    yield 8, "no sections", do(("set", {"sections": []}))
    yield 8, "only the tree", do(("set", {"sections": known[:1]}))
    yield 8, "pages before tree", do(("set", {"sections": [known[1], known[0], *known[2:]]}))
    yield 8, "the tree twice", do(("set", {"sections": [known[0], *known]}))
    yield 8, "pages twice", do(("set", {"sections": [*known[:2], known[1], *known[2:]]}))
    unknown = replace(known[0], kind=9, critical=0)
    yield 8, "an unknown section before the others", do(("set", {"sections": [unknown, *known]}))
    for i, s in enumerate(known):
        for flag in (1 - s.critical, 2, 255):
            yield 8, f"section {s.kind} with the flag {flag}", do(("entry", i, {"critical": flag}))
        yield 8, f"section {s.kind} offset", do(("entry", i, {"offset": s.offset + 1}))
        yield 8, f"section {s.kind} length", do(("entry", i, {"length": s.length + 2}))
        yield 8, f"section {s.kind} length 2^64 - 1", do(("entry", i, {"length": (1 << 64) - 1}))
    yield 8, "length of one more block", do(("set", {"length": h.length + b}))
    yield 8, "twice the block size and too many blocks", do(("set", {"block_size": 2 * b, "length": 6 * b * 257}))
    yield 8, "an unknown critical section", do(("add", 4, {"critical": 1}))
    yield 8, "an unknown section with the flag 2", do(("add", 4, {"critical": 2}))
    yield 8, "section kind 0", do(("add", 0))
    yield 8, "section kind 1 again, at the end", do(("add", 1))
    yield 8, "an unknown kind twice", do(("add", 200, 200))
    yield 8, "nine sections", do(("add", *range(100, 109 - len(known))))
    yield 8, "an unknown section whose end is over 2^64", do(
        ("add", 77), ("entry", len(known), {"length": (1 << 64) - 1}))
    if len(known) == 3:
        yield 8, "pieces after an unknown section", do(("set", {"sections": known[:2]}), ("add", 50, 3))
        yield 8, "pieces not listed, their bytes still there", do(("set", {"sections": known[:2]}))
    comment = b"ED" + bytes(range(1, 137))
    areas = [("kind 0 with a key id", bytes(2) + comment[2:]), ("no kind, last byte not zero", bytes(511) + b"\1"),
             ("an unknown kind and zeros", b"ML"), ("kind Ed and zeros", b"Ed"),
             ("last byte not zero", comment.ljust(511, b"\0") + b"\1"),
             ("comment length 373", comment + struct.pack("<H", 373)),
             ("a byte after the comment", comment + b"\2\0abc"), ("a control character", comment + b"\2\0a\n"),
             ("DEL in the comment", comment + b"\2\0a\x7f"), ("NUL in the comment", comment + b"\2\0\0a"),
             ("comment not UTF-8", comment + b"\2\0a\xff")]
    for what, area in areas:
        yield 9, what, do(("sign", 0, area))
    yield 10, "one byte more", do(("change", {"tail": b"\0"}))
    yield 10, "an unknown section that is listed but not there", do(
        ("add", 77), ("change", {"parts": [], "tail": data[SECTIONS_AT:]}))
    for i, s in enumerate(known):
        yield 12, f"section {s.kind}: a wrong hash in the header", do(("entry", i, {"blake3": bytes(32)}))
    yield 5, "wrong block size, name and digests", do(("set", {"block_size": 1, "name": b"/", "digests": [md5, md5]}))
    yield 6, "wrong name, digests and sections", do(("set", {"name": b"/", "digests": [md5, md5], "sections": []}))
    yield 7, "wrong digests and sections", do(("set", {"digests": [md5, md5], "sections": []}))
    yield 8, "an unknown critical section of a private kind", do(("add", 128, {"critical": 1}))
    yield 8, "wrong sections and signature", do(("set", {"sections": []}), ("sign", 9, b"X"))
    yield 9, "wrong signature and size", do(("sign", 9, b"X"), ("change", {"tail": b"\0"}))
    trailer = b"ML" + struct.pack("<I", 9) + b"x"
    yield 10, "a trailer that is not there", do(("sign", 0, trailer))
    yield 10, "a trailer that is cut", do(("sign", 0, trailer), ("change", {"tail": bytes(8)}))
    yield 10, "a byte after the trailer", do(("sign", 0, trailer), ("change", {"tail": bytes(10)}))
    yield 10, "a trailer of 2^32 - 1 bytes that is not there", do(("sign", 0, b"ML\xff\xff\xff\xff"))
    yield 10, "a minisign signature has no trailer", do(("sign", 0, comment), ("change", {"tail": bytes(3)}))
    yield 11, "a wrong leaf, and a signature of an unknown kind", do(("sign", 0, b"ML" + bytes(4) + b"x"), ("flip", 1, 0))
    yield 11, "a wrong leaf, and a wrong hash of its section", do(
        ("flip", 1, 0), ("entry", 1, {"blake3": bytes(32)}))
    yield 12, "a wrong hash of the tree, and a wrong leaf", do(
        ("entry", 0, {"blake3": bytes(32)}), ("flip", 1, 0))
    yield 12, "an unknown section: a wrong hash in the header", do(
        ("add", 77), ("entry", len(known), {"blake3": bytes(32)}))
    yield 10, "wrong size and section hash", do(("entry", 1, {"blake3": bytes(32)}), ("change", {"tail": b"\0"}))


def section_changes(data):
    """Rules 11, 13 and 14: the hashes of the changed sections are made again."""
    m = read_manifest(data)
    h, facts = m.header, m.facts
    n, b, hints = len(facts.leaves), h.block_size, facts.anchors is not None

    def place(count, index, width):                     # (value, anchor) in groups of `count`, anchors of `width` bytes
        page, m = index // PAGE, min(PAGE, count - index // PAGE * PAGE)
        at = page * PAGE * (32 + width * hints)
        return at + index % PAGE * 32, at + m * 32 + index % PAGE * width

    def put_anchor(i, value):
        return ("put", 1, place(n, i, 8)[1], int(value).to_bytes(8, "little"))

    def last_size(i):
        return min(b, h.length - i * b)

    for i in sorted({0, n - 1}):
        yield 11, f"leaf {i}", do(("flip", 1, place(n, i, 8)[0]))
    yield 7 if 7 in dict(h.digests) else 11, "root", do(("set", {"root": bytes([h.root[0] ^ 1]) + h.root[1:]}))
    if n > 1:
        yield 11, "the last two leaves change places", do(
            ("put", 1, place(n, n - 2, 8)[0], facts.leaves[n - 1].tobytes()),
            ("put", 1, place(n, n - 1, 8)[0], facts.leaves[n - 2].tobytes()))
    nodes, base, sizes = [], 0, level_sizes(n)
    for k in range(len(sizes), 0, -1):
        nodes += [(k, j, base + place(sizes[k - 1], j, 16)[0], base + place(sizes[k - 1], j, 16)[1])
                  for j in sorted({0, sizes[k - 1] - 1})]
        base += sizes[k - 1] * (32 + 16 * hints)
    for k, j, value, _ in nodes:
        yield 11, f"node ({k}, {j})", do(("flip", 0, value + 31))
    if not hints:
        return
    yield 11, "leaf 0 and anchor 0", do(("flip", 1, 0), put_anchor(0, 0xFFFFFF))
    for i in sorted({0, n - 1}):
        tag = int(facts.anchors[i]) >> 24 << 24
        if last_size(i) < 64:
            yield 13, f"anchor {i}: a window in a block without one", do(put_anchor(i, 0))
            continue
        yield 13, f"anchor {i}: all ones", do(put_anchor(i, NO_WINDOW))
        yield 13, f"anchor {i}: a window that ends one byte after the block", do(put_anchor(i, tag | last_size(i) - 63))
        if last_size(i) > CELL + 1:
            yield 13, f"anchor {i}: a window over the edge of a cell", do(put_anchor(i, tag | CELL - 63))
    for k, j, _, at in nodes:
        base = h.sections[0].offset + at
        tag, where = struct.unpack("<QQ", data[base:base + 16])
        for word, pair in (("tag", ((tag + 1) % (1 << 64), where)), ("place", (tag, (where + 1) % (1 << 64)))):
            yield 14, f"{word} of node ({k}, {j})", do(("put", 0, at, struct.pack("<QQ", *pair)))
    if nodes:
        yield 14, "a smaller tag in block 1", do(put_anchor(1, 5))
        yield 13, "anchor 0 all ones, and a wrong node anchor", do(put_anchor(0, NO_WINDOW), ("flip", 0, nodes[0][3]))


def harmless_changes(data, rich):
    """What a whole reader must accept: (verify, what, change). `verify`: whether a reader that has the object accepts,
    too; None: only as long as it does not check the hints."""
    h = check_statement(data)
    top = (1 << 64) - 1
    comment = b"ED" + bytes(range(1, 137))
    yield True, "sequence, published, expires", do(("set", {"sequence": top, "published": 1, "expires": 2}))
    yield True, "published alone", do(("set", {"published": top}))
    if h.name:
        yield True, "no name", do(("set", {"name": b""}))
    yield True, "a name of 255 bytes", do(("set", {"name": ("é" * 127 + "n").encode()}))
    if rich:
        yield from harmless_unknown(h, comment)
    yield True, "an unknown section", do(("add", 200))
    yield True, "an unknown empty section", do(("add", 4, {"content": b""}))
    yield True, "two unknown sections", do(("add", 4, 255))
    yield True, "unknown sections that do not ascend", do(("add", 255, 4))
    yield True, "a signature without comment", do(("sign", 0, comment))
    longest = comment + struct.pack("<H", 372) + b"~" * 372
    yield True, "a signature with a comment of 372 bytes", do(("sign", 0, longest))
    if len(h.sections) == 3 and h.length >= 64 and not level_sizes(block_count(h.length, h.block_size)):
        # 2^33 + 1: under 2^34 a hash has no 34 bits below its leading one, so its tag ends with zeros.
        at = 32 * block_count(h.length, h.block_size)
        yield None, "a tag that no hash has", do(("put", 1, at, struct.pack("<Q", ((33 << 34) + 1) << 24)))
    if h.digests:
        other = (h.digests[0][0], bytes(len(h.digests[0][1])))
        yield False, "a false digest", do(("set", {"digests": [other, *h.digests[1:]]}))
    if h.length % CELL == CELL - 5:
        yield False, "a false length", do(("set", {"length": h.length + 1}))
    if len(h.sections) == 3 and h.sections[2].length:
        yield None, "a false piece", do(("flip", 2, 0))
    if len(h.sections) == 3 and 64 < h.length <= 256 * h.block_size:
        at = 32 * block_count(h.length, h.block_size) + 7
        yield None, "the tag of a block anchor, without nodes above it", do(("flip", 1, at))


def harmless_unknown(h, comment):
    """The same, of what later versions may add, and of the neighbours of what is not allowed."""
    yield True, "a name of odd characters", do(("set", {"name": "... :\u00a0~\u200d\u202f\u2065\u206a".encode()}))
    yield True, "a comment with tabs", do(("sign", 0, comment + struct.pack("<H", 3) + b"a\t\t"))
    yield True, "a signature of an unknown kind", do(("sign", 0, b"ML" + bytes(4) + b"x" * 506))
    yield True, "minisign's old kind, which is unknown here", do(("sign", 0, b"Ed" + bytes(4) + b"x"))
    yield True, "a kind that begins with zero", do(("sign", 0, b"\0\1" + bytes(4) + b"x"))
    yield True, "a signature of an unknown kind with a trailer", do(
        ("sign", 0, b"ML\3"), ("change", {"tail": b"abc"}))
    yield True, "a section and a digest of unknown kinds, and a trailer", do(
        ("add", 9), ("set", {"digests": [*h.digests, (8, b"")]}), ("sign", 0, b"ML\1"), ("change", {"tail": b"a"}))
    yield True, "digests of unknown kinds", do(("set", {"digests": [*h.digests, (8, bytes(64)), (255, b"a")]}))


def edits(old, new):
    """What makes `new` of `old`: the bytes at each offset are replaced, bytes after the end are added; then the file is
    cut to `truncate` bytes if that is there."""
    shared = min(len(old), len(new))
    places = np.nonzero(np.frombuffer(old, "u1", shared) != np.frombuffer(new, "u1", shared))[0].tolist()
    runs = []
    for at in places + list(range(shared, len(new))):
        if runs and at - runs[-1][1] < 8:
            runs[-1][1] = at + 1
        else:
            runs.append([at, at + 1])
    made = {"patch": [{"offset": a, "hex": new[a:z].hex()} for a, z in runs]}
    return made if len(new) >= len(old) else made | {"truncate": len(new)}


def apply(data, item):
    data = bytearray(data)
    for edit in item.get("patch", []):
        new = bytes.fromhex(edit["hex"])
        data[edit["offset"]:edit["offset"] + len(new)] = new
    if "xor" in item:
        data[item["offset"]] ^= item["xor"]
    return bytes(data[:item.get("truncate", len(data))])


def accepts(facts, said, hints):
    try:
        compare(facts, said, hints)
    except Refused:
        return False
    return True


def manifest_vector(facts, hints, options):
    data = write_manifest(facts, hints, **options)
    m = read_manifest(data)
    compare(facts, m.facts, hints)
    changed = []
    n = len(facts.leaves)
    rich = (facts.length, hints) in ((2 * CELL - 5, True), (2 * CELL - 5, False), (257 * CELL - 5, True)) and (
        facts.block_size == CELL and (hints or not facts.digests))
    for rule, what, change in [*(header_changes(data) if rich else ()), *section_changes(data)]:
        draft = Draft(data)
        change(draft)
        changed.append(edits(data, draft.bytes()) | {"rule": rule, "what": what})
    changed += [{"patch": [], "truncate": size, "rule": rule, "what": f"{size} bytes of the file"}
                for size, rule in ((0, 1), (1535, 1), (SECTIONS_AT, 10), (len(data) - 1, 10))]
    single = flips(data)
    for item in single + changed:
        if (rule := rule_of(apply(data, item))) != item["rule"]:
            raise SystemExit(f"{facts.length} {hints} {item}: refused by rule {rule}")
    accepted = []
    for true, what, change in harmless_changes(data, rich) if n < 65537 else ():
        draft = Draft(data)
        change(draft)
        said = read_manifest(draft.bytes()).facts
        found, strict = accepts(facts, said, False), accepts(facts, said, True)
        if (found, strict) != (true is not False, true is True):
            raise SystemExit(f"{facts.length} {hints} {what}: verify is wrong")
        hinted = {"verify_hints": strict} if strict != found else {}
        accepted.append(edits(data, draft.bytes()) | {"verify": found} | hinted | {"what": what})
    sections = {f"{word}_blake3": m.header.sections[i].blake3.hex() if i < len(m.header.sections) else None
                for i, word in enumerate(("tree", "pages", "pieces"))}
    shown = show(m)
    made = {"length": facts.length, "block_size": facts.block_size, "blocks": n, "hints": hints}
    made |= {key: shown[key] for key in ("name", "sequence", "published", "expires", "digests", "root")}
    made |= {"manifest_length": len(data), "manifest_blake3": blake3(data).hex(),
             "statement": data[:STATEMENT].hex(), **sections}
    return made | ({"manifest": data.hex()} if len(data) < 2000 else {}) | {
        "corruption": single, "resealed": changed, "accepted": accepted}


def manifest_vectors():
    b, plain = CELL, {"name": b"painted"}
    full = {"name": "gemälde.bin".encode(), "sequence": 7, "published": 1700000000, "expires": 1800000000}
    cases = [(length, b, plain, ()) for length in (
        0, 1, 40, 64, b - 5, b, b + 40, 2 * b - 5, 2 * b, 255 * b - 5, 256 * b - 5, 256 * b, 256 * b + 40, 257 * b - 5,
        257 * b, 65536 * b + 40)]
    cases += [(length, size, plain, ()) for length, size in (
        (b + 40, 2 * b), (2 * b - 5, 2 * b), (2 * b + 40, 2 * b), (4 * b - 5, 2 * b), (257 * b - 5, 2 * b),
        (257 * b - 5, 1 << 24), ((1 << 24) + 70, 1 << 24))]
    cases += [(2 * b - 5, b, full, tuple(DIGEST_KINDS)), (2 * b, b, {}, (1, 6))]
    made = []
    for length, block_size, options, digests in cases:
        facts = scan(painted_regions(length), block_size, True, digests)
        made += [manifest_vector(facts, hints, options) for hints in (True, False)]
    return made


def lay_out(value, indent=0):
    """JSON with short things on one line, so that a difference can be read."""
    line = json.dumps(value, ensure_ascii=False)
    if len(line) <= 118 - indent or not isinstance(value, (dict, list)):
        return line
    inner = " " * (indent + 1)
    if isinstance(value, list):
        return "[\n" + ",\n".join(inner + lay_out(v, indent + 1) for v in value) + "\n" + " " * indent + "]"
    parts = (f"{inner}{json.dumps(k)}: {lay_out(v, indent + 1)}" for k, v in value.items())
    return "{\n" + ",\n".join(parts) + "\n" + " " * indent + "}"


def write_vectors(directory):
    os.makedirs(directory, exist_ok=True)
    for name, make in (("parts.json", parts_vectors), ("journals.json", journal_vectors),
                       ("libraries.json", library_vectors), ("manifests.json", manifest_vectors),
                       ("packs.json", pack_vectors), ("uploads.json", upload_vectors)):
        with open(os.path.join(directory, name), "w", encoding="utf-8", newline="\n") as file:
            file.write(lay_out(make()) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__.splitlines()[0])
    write_vectors(sys.argv[1])
