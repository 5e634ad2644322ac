#!/usr/bin/env python3
"""A second implementation of the Sapwood manifest, version 1, its journal and store files, written from manifest-spec alone.

It exists to be compared with: it shares no code with the program, not even a BLAKE3. Needs Python 3.11 and numpy.
`sapwood_vectors.py` beside it writes the test vectors with what is here.
The words are those of the specification; "(3.2)" in a comment names the section that a rule comes from.
"""
import argparse, hashlib, json, os, random, struct, sys, unicodedata
from dataclasses import dataclass, field, replace
from functools import lru_cache
import numpy as np

REGION = 1 << 20        # objects are streamed in regions of this size: 64 cells, 1024 chunks, 1024 pieces
CELL, KIB, PAGE = 16384, 1024, 256
STATEMENT, SIGNATURE, SECTIONS_AT = 1024, 512, 1536
MAGIC = b"\x89SAPWOOD"
TREE, PAGES, PIECES = 1, 2, 3
NO_WINDOW = 0xFFFFFFFFFFFFFFFF
# Characters that change the direction of text (3.2).
TURNING = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
DIGEST_KINDS = {1: ("sha-256", 32), 2: ("sha-512", 64), 3: ("sha-1", 20), 4: ("md5", 16), 5: ("crc32c", 4),
                6: ("crc64nvme", 8), 7: ("blake3", 32)}
KIND_OF = {name: kind for kind, (name, _) in DIGEST_KINDS.items()}


class Refused(Exception):
    """`rule` is the row of the table in section 5; 0 means that the manifest differs from the object (verify)."""
    def __init__(self, rule, reason):
        super().__init__(f"rule {rule}: {reason}" if rule else f"verify: {reason}")
        self.rule = rule


# ---- BLAKE3 (2) -----------------------------------------------------------------------------------------------------
# A list of CVs is an array (m, 8) of u32, so that its bytes are the CVs one after another. `compress` works on many
# inputs at once: the 16 words of the state are four arrays (4, m), and one numpy call does a step of four G functions.

IV = np.array([0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19], "<u4")
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8
PERMUTATION = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8]


def message_schedule():
    order, rounds = list(range(16)), []
    for _ in range(7):
        rounds.append((order[0:8:2], order[1:8:2], order[8::2], order[9::2]))
        order = [order[p] for p in PERMUTATION]
    return rounds


SCHEDULE = message_schedule()


def compress(cv, words, counter, length, flags):
    """cv (8, m), words (16, m), counter a number or (m,): the new (8, m)."""
    a, b = cv[0:4].copy(), cv[4:8].copy()
    c = np.repeat(IV[0:4, None], a.shape[1], axis=1)
    d = np.empty_like(c)
    counter = np.atleast_1d(np.asarray(counter, "<u8"))
    d[0], d[1], d[2], d[3] = counter & 0xFFFFFFFF, counter >> 32, length, flags
    spare = np.empty_like(c)

    def turn(x, y, right):                                  # x = (x xor y) rotated right
        np.bitwise_xor(x, y, out=x)
        np.left_shift(x, 32 - right, out=spare)
        np.right_shift(x, right, out=x)
        np.bitwise_or(x, spare, out=x)

    def mix_columns(x, y):
        np.add(a, b, out=a); np.add(a, words[x], out=a); turn(d, a, 16)
        np.add(c, d, out=c); turn(b, c, 12)
        np.add(a, b, out=a); np.add(a, words[y], out=a); turn(d, a, 8)
        np.add(c, d, out=c); turn(b, c, 7)

    for x, y, z, w in SCHEDULE:
        mix_columns(x, y)
        b, c, d = b[[1, 2, 3, 0]], c[[2, 3, 0, 1]], d[[3, 0, 1, 2]]     # the diagonals become columns
        mix_columns(z, w)
        b, c, d = b[[3, 0, 1, 2]], c[[2, 3, 0, 1]], d[[1, 2, 3, 0]]
    return np.concatenate([a ^ c, b ^ d])


@lru_cache(4096)                        # a chunk alone is slow, and the same statements are hashed again and again
def chunk(data, counter, root=0):
    """The CV (or, with ROOT, the hash) of one chunk of at most 1024 bytes, as a list of one."""
    cv, last = IV[:, None], max(0, (len(data) - 1) // 64)
    for i in range(last + 1):
        part = data[64 * i:64 * i + 64]
        flags = (CHUNK_START if i == 0 else 0) | (CHUNK_END | root if i == last else 0)
        cv = compress(cv, np.frombuffer(part.ljust(64, b"\0"), "<u4")[:, None], counter, len(part), flags)
    return np.ascontiguousarray(cv.T)


def chunk_cvs(data, first):
    """The CVs of all chunks of `data`, of which the first one has the chunk counter `first`."""
    full, cvs = len(data) // 1024, []
    if full:
        words = np.frombuffer(data, "<u4", full * 256).reshape(full, 16, 16).transpose(1, 2, 0)
        counters, cv = first + np.arange(full, dtype="<u8"), np.repeat(IV[:, None], full, axis=1)
        for i in range(16):
            flags = CHUNK_START if i == 0 else CHUNK_END if i == 15 else 0
            cv = compress(cv, np.ascontiguousarray(words[i]), counters, 64, flags)
        cvs.append(np.ascontiguousarray(cv.T))
    if len(data) % 1024 or not full:
        cvs.append(chunk(data[full * 1024:], first + full))
    return np.concatenate(cvs)


def merge_pairs(cvs, flags=PARENT):
    """Neighbours become parents, a last odd CV stays. Done again and again this is `merge` of section 2: what lies left
    of the largest power of two is whole pairs at every step, so the same parents are made (selftest compares both)."""
    pairs = len(cvs) // 2
    if not pairs:
        return cvs
    words = np.ascontiguousarray(cvs[:2 * pairs].reshape(pairs, 16).T)
    parents = compress(np.repeat(IV[:, None], pairs, axis=1), words, 0, 64, flags)
    return np.concatenate([parents.T, cvs[2 * pairs:]])


def merge_groups(cvs, levels):
    """`merge` of each group of 2^levels neighbours, the last group may be smaller."""
    for _ in range(levels):
        cvs = merge_pairs(cvs)
    return np.ascontiguousarray(cvs)


def merge_root(cvs):
    """`merge` over at least two CVs, with the ROOT flag in the last parent."""
    while len(cvs) > 2:
        cvs = merge_pairs(cvs)
    return np.ascontiguousarray(merge_pairs(cvs, PARENT | ROOT)).tobytes()


def blake3(data):
    if len(data) <= 1024:
        return chunk(data, 0, ROOT).tobytes()
    if len(data) <= REGION:
        return merge_root(chunk_cvs(data, 0))
    return merge_root(np.concatenate([merge_groups(chunk_cvs(data[at:at + REGION], at // 1024), 10)
                                      for at in range(0, len(data), REGION)]))


def levels_between(small, large):
    return (large // small).bit_length() - 1


# ---- Gear hash, tag, anchors (4) ------------------------------------------------------------------------------------

def gear_table():
    words = np.zeros((16, 256), "<u4")
    for i in range(256):
        words[:, i] = np.frombuffer((b"sapwood gear" + bytes([i])).ljust(64, b"\0"), "<u4")
    cv = compress(np.repeat(IV[:, None], 256, axis=1), words, 0, 13, CHUNK_START | CHUNK_END | ROOT)
    return np.ascontiguousarray(cv.T[:, 0:2]).view("<u8").reshape(256)


GEAR = gear_table()


def window_hashes(cells):
    """The hashes of all windows of each row of `cells` (u8). A window of 2k bytes is two windows of k bytes:
    the left one was shifted k times more."""
    h, k = GEAR[cells], 1
    spare = np.empty_like(h)
    while k < 64:
        width = cells.shape[1] - 2 * k + 1
        np.left_shift(h[:, :width], k, out=spare[:, :width])
        np.add(spare[:, :width], h[:, k:k + width], out=spare[:, :width])
        h, spare, k = spare, h, 2 * k
    return h[:, :cells.shape[1] - 63]


def tag_of(h):
    h = h or 1
    e = h.bit_length() - 1
    below = h - (1 << e)
    return e << 34 | (below >> e - 34 if e >= 34 else below << 34 - e)


def last_hash_like(h):
    """The largest hash that has the tag of `h`: the tag keeps the order, so equal tags are a range of hashes."""
    h = h or 1
    return h | ((1 << max(0, h.bit_length() - 1 - 34)) - 1)


def cell_anchors(data):
    """For each cell of `data` (which begins with a cell): tag << 24 | place of the window in the cell, or NO_WINDOW."""
    found, full = [], len(data) // CELL
    cells = np.frombuffer(data, "u1")
    groups = [cells[CELL * i:CELL * min(i + 4, full)].reshape(-1, CELL) for i in range(0, full, 4)]    # fits the cache
    if len(data) % CELL:
        groups.append(cells[CELL * full:].reshape(1, -1))
    for group in groups:
        if group.shape[1] < 64:
            found.append(NO_WINDOW)
            continue
        for h in window_hashes(group):
            smallest = int(h.min())
            place = int(np.argmax(h <= np.uint64(last_hash_like(smallest))))    # the first one with the smallest tag
            found.append(tag_of(smallest) << 24 | place)
    return np.array(found, "<u8")


def block_anchors(cells, n, block_size):
    """Cells to blocks: `tag << 24 | offset` orders as (tag, offset) does, and NO_WINDOW is larger than any."""
    per_block = block_size // CELL
    table = np.full(n * per_block, NO_WINDOW, "<u8")
    table[:len(cells)] = cells
    table = table.reshape(n, per_block)
    moved = table + np.arange(per_block, dtype="<u8") * np.uint64(CELL)
    return np.where(table == NO_WINDOW, table, moved).min(axis=1)


def node_anchor_levels(anchors, block_size, levels):
    """Level 1, level 2, ... of node anchors, each an array (m, 2) of tag and place in the object."""
    none = anchors == NO_WINDOW
    places = np.arange(len(anchors), dtype="<u8") * np.uint64(block_size) + (anchors & np.uint64(0xFFFFFF))
    pairs = np.stack([np.where(none, anchors, anchors >> np.uint64(24)), np.where(none, anchors, places)], axis=1)
    made = []
    for _ in range(levels):
        groups = -(-len(pairs) // PAGE)
        table = np.full((groups * PAGE, 2), NO_WINDOW, "<u8")
        table[:len(pairs)] = pairs
        table = table.reshape(groups, PAGE, 2)
        first = table[:, :, 0].argmin(axis=1)       # the first of equal tags is the one with the smallest place
        pairs = np.ascontiguousarray(table[np.arange(groups), first])
        made.append(pairs)
    return made


# ---- CRCs (3.2, 3.4) ------------------------------------------------------------------------------------------------

class Crc:
    """A reflected CRC with all ones before and after. It is linear: without the ones, the CRC of a KiB is the XOR of
    what each of its bytes gives at its place, so a table per place makes all pieces of a region at once."""

    def __init__(self, polynomial, size):
        self.ones, self.size, dtype = (1 << 8 * size) - 1, size, f"<u{size}"
        byte = np.arange(256, dtype=dtype)
        for _ in range(8):
            byte = np.where(byte & 1, byte >> 1 ^ np.array(polynomial, dtype), byte >> 1)
        self.table, self.places = byte.tolist(), np.empty((KIB, 256), dtype)
        self.places[KIB - 1] = byte
        for place in range(KIB - 2, -1, -1):        # one more byte follows: one more step with a zero byte
            later = self.places[place + 1]
            self.places[place] = later >> 8 ^ byte[later & 0xFF]
        self.start = [self.places[i].tolist() for i in range(size)]

    def pieces_alone(self, data):
        """For each full KiB of `data` its CRC that begins with zeros and ends without the XOR."""
        columns = np.ascontiguousarray(np.frombuffer(data, "u1", len(data) // KIB * KIB).reshape(-1, KIB).T)
        total = np.zeros(columns.shape[1], self.places.dtype)
        for place in range(KIB):
            total ^= self.places[place][columns[place]]
        return total

    def over_piece(self, state, alone):
        """The state after a KiB: the state acts like bytes that are XORed to the first ones of the KiB."""
        for row in self.start:
            alone ^= row[state & 0xFF]
            state >>= 8
        return alone

    def over_bytes(self, state, data):
        for byte in data:
            state = state >> 8 ^ self.table[(state ^ byte) & 0xFF]
        return state


CRC32C, CRC64NVME = Crc(0x82F63B78, 4), Crc(0x9A6C9329AC4BC9B5, 8)


class CrcDigest:
    """The CRC of a whole object, with the calls of hashlib."""
    def __init__(self, crc):
        self.crc, self.state = crc, crc.ones

    def update(self, region):                       # only the last region may be no multiple of a KiB
        for alone in self.crc.pieces_alone(region).tolist():
            self.state = self.crc.over_piece(self.state, alone)
        self.state = self.crc.over_bytes(self.state, region[len(region) // KIB * KIB:])

    def digest(self):
        return (self.state ^ self.crc.ones).to_bytes(self.crc.size, "big")


def region_pieces(data):
    full = CRC32C.pieces_alone(data) ^ np.uint32(CRC32C.over_piece(CRC32C.ones, 0) ^ CRC32C.ones)
    rest = data[len(data) // KIB * KIB:]
    if rest:
        full = np.append(full, np.uint32(CRC32C.over_bytes(CRC32C.ones, rest) ^ CRC32C.ones))
    return (full & np.uint32(0xFFFF)).astype("<u2")


# ---- An object, read once -------------------------------------------------------------------------------------------

@dataclass
class Facts:
    """What a manifest says about an object at one block size."""
    length: int
    block_size: int
    root: bytes
    leaves: np.ndarray                  # (n, 8) u32
    anchors: np.ndarray | None          # (n,) u64, only with hints
    pieces: np.ndarray | None           # u16, only with hints
    digests: list = field(default_factory=list)


def block_count(length, block_size):
    return max(1, -(-length // block_size))


def scan(regions, block_size, hints=True, digest_kinds=()):
    """`regions` are the bytes of the object in parts of exactly REGION bytes, the last one may be shorter."""
    hashers = {k: CrcDigest(CRC32C) if k == 5 else CrcDigest(CRC64NVME) if k == 6 else
               hashlib.new(DIGEST_KINDS[k][0].replace("-", "")) for k in sorted(set(digest_kinds)) if k != 7}
    span = min(block_size, REGION)
    cvs, cells, pieces, length, first = [], [], [], 0, b""
    for region in regions:
        first = region if length == 0 else first
        cvs.append(merge_groups(chunk_cvs(region, length // 1024), levels_between(1024, span)))
        if hints:
            cells.append(cell_anchors(region))
            pieces.append(region_pieces(region))
        for hasher in hashers.values():
            hasher.update(region)
        length += len(region)
    if length <= span:                  # one subtree: it has the ROOT flag, and is leaf 0 too
        root = blake3(first)
        leaves = np.frombuffer(root, "<u4").reshape(1, 8)
    else:
        cvs = np.concatenate(cvs)
        root = merge_root(cvs)
        leaves = merge_groups(cvs, levels_between(span, block_size))
        if len(leaves) == 1:
            leaves = np.frombuffer(root, "<u4").reshape(1, 8)
    facts = Facts(length, block_size, root, leaves, None, None)
    if hints:
        cells = np.concatenate(cells or [np.empty(0, "<u8")])
        facts.anchors = block_anchors(cells, len(leaves), block_size)
        facts.pieces = np.concatenate(pieces or [np.empty(0, "<u2")])
    facts.digests = [(k, root if k == 7 else hashers[k].digest()) for k in sorted(set(digest_kinds))]
    return facts


def coarser(facts):
    """The same object at twice the block size, from the manifest alone (2, 4.2)."""
    leaves = np.ascontiguousarray(merge_pairs(facts.leaves))
    if len(leaves) == 1:
        leaves = np.frombuffer(facts.root, "<u4").reshape(1, 8)
    anchors = facts.anchors
    if anchors is not None:
        anchors, pairs = anchors.copy(), len(anchors) // 2
        left, right = anchors[0:2 * pairs:2], anchors[1:2 * pairs:2]
        moved = right + np.uint64(facts.block_size)
        chosen = np.where(right >> np.uint64(24) < left >> np.uint64(24), moved, left)
        anchors = np.concatenate([chosen, anchors[2 * pairs:]])
    return replace(facts, block_size=2 * facts.block_size, leaves=leaves, anchors=anchors)


def file_regions(path):
    with open(path, "rb") as file:
        while region := file.read(REGION):
            yield region


def paint(start, stop):
    """Bytes [start, stop) of a painted object (8); start is a multiple of 8."""
    z = np.arange(start // 8 + 1, -(-stop // 8) + 1, dtype="<u8") * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))).tobytes()[:stop - start]


def painted_regions(length):
    for at in range(0, length, REGION):
        yield paint(at, min(at + REGION, length))


def regions_of(data):
    return (data[at:at + REGION] for at in range(0, len(data), REGION))


# ---- Header, statement, sections (3) --------------------------------------------------------------------------------

@dataclass
class Section:
    kind: int
    critical: int
    offset: int
    length: int
    blake3: bytes


@dataclass
class Header:
    length: int
    block_size: int
    root: bytes
    name: bytes = b""
    sequence: int = 0
    published: int = 0
    expires: int = 0
    digests: list = field(default_factory=list)         # (kind, bytes), of unknown kinds too
    sections: list = field(default_factory=list)


def encode_header(h):
    return b"".join([struct.pack("<QI32sQ", h.length, h.block_size, h.root, len(h.name)), h.name,
                     struct.pack("<QQQQ", h.sequence, h.published, h.expires, len(h.digests)),
                     *(bytes([kind, len(value)]) + value for kind, value in h.digests),
                     struct.pack("<Q", len(h.sections)),
                     *(struct.pack("<BBQQ32s", s.kind, s.critical, s.offset, s.length, s.blake3) for s in h.sections)])


def decode_header(data):
    """Takes the fields apart and judges no values: those that are out of their rule are left to the later rules."""
    at = 0

    def take(count):
        nonlocal at
        if count > len(data) - at:
            raise Refused(4, "the header ends inside a field")
        at += count
        return data[at - count:at]

    def number(size):
        return int.from_bytes(take(size), "little")

    h = Header(number(8), number(4), take(32), take(number(8)), number(8), number(8), number(8))
    for _ in range(number(8)):
        h.digests.append((number(1), take(number(1))))
    for _ in range(number(8)):
        h.sections.append(Section(number(1), number(1), number(8), number(8), take(32)))
    if at != len(data):
        raise Refused(4, f"the header decodes to {at} bytes, not to {len(data)}")
    return h


def seal(header_bytes, stated_length=None):
    stated = len(header_bytes) if stated_length is None else stated_length
    body = (MAGIC + struct.pack("<HH", 1, stated) + header_bytes).ljust(992, b"\0")
    return body + blake3(body)


def level_sizes(n):
    """How many nodes level 1, level 2, ... have."""
    sizes = []
    while n > PAGE:
        n = -(-n // PAGE)
        sizes.append(n)
    return sizes


def node_levels(leaves):
    levels = []
    for _ in level_sizes(len(leaves)):
        leaves = merge_groups(leaves, 8)
        levels.append(leaves)
    return levels


def section_lengths(length, block_size, hints):
    n = block_count(length, block_size)
    return [sum(level_sizes(n)) * (48 if hints else 32), n * (40 if hints else 32)] + [2 * -(-length // KIB)] * hints


def write_groups(values, anchors):
    parts = []
    for at in range(0, len(values), PAGE):
        parts.append(values[at:at + PAGE].tobytes())
        if anchors is not None:
            parts.append(anchors[at:at + PAGE].tobytes())
    return b"".join(parts)


def read_groups(data, count, anchor_words, hints):
    """`count` values and, with hints, as many anchors of `anchor_words` u64 each."""
    values, anchors, at = [], [np.empty((0, anchor_words), "<u8")], 0
    for first in range(0, count, PAGE):
        m = min(PAGE, count - first)
        values.append(np.frombuffer(data, "<u4", 8 * m, at).reshape(m, 8))
        at += 32 * m
        if hints:
            anchors.append(np.frombuffer(data, "<u8", anchor_words * m, at).reshape(m, anchor_words))
            at += 8 * anchor_words * m
    return np.concatenate(values), np.concatenate(anchors) if hints else None


def write_manifest(facts, hints=True, name=b"", sequence=0, published=0, expires=0):
    levels = node_levels(facts.leaves)
    anchor_levels = node_anchor_levels(facts.anchors, facts.block_size, len(levels)) if hints else [None] * len(levels)
    tree = b"".join(write_groups(v, a) for v, a in reversed(list(zip(levels, anchor_levels))))
    parts = [tree, write_groups(facts.leaves, facts.anchors if hints else None)]
    parts += [facts.pieces.tobytes()] if hints else []
    header = Header(facts.length, facts.block_size, facts.root, name, sequence, published, expires, facts.digests)
    offset = SECTIONS_AT
    for kind, part in enumerate(parts, 1):
        header.sections.append(Section(kind, int(kind != PIECES), offset, len(part), blake3(part)))
        offset += len(part)
    return seal(encode_header(header)) + bytes(SIGNATURE) + b"".join(parts)


def default_block_size(length):
    size = 65536
    while 32 * block_count(length, size) > 32 << 20 and size < 1 << 24:
        size *= 2
    return size


def name_is_allowed(name):
    """Row 6, of the bytes of a name."""
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return len(name) <= 255 and text not in (".", "..") and not any(
        letter in "/\\" or unicodedata.category(letter) == "Cc" or letter in TURNING for letter in text)


# ---- The whole reader (5) -------------------------------------------------------------------------------------------

def check_statement(data):
    """Rules 1 to 8, from bytes 0 - 1023."""
    if len(data) < SECTIONS_AT or data[0:8] != MAGIC:
        raise Refused(1, "fewer than 1536 bytes, or a wrong magic")
    version, size = struct.unpack("<HH", data[8:12])
    if version != 1:
        raise Refused(2, f"version {version}")
    if size > 980 or blake3(data[:992]) != data[992:1024]:
        raise Refused(3, "header length over 980, or a wrong checksum of the statement")
    h = decode_header(data[12:12 + size])
    if any(data[12 + size:992]):
        raise Refused(4, "a byte that is not zero follows the header")
    b = h.block_size
    if b & (b - 1) or not 1 << 14 <= b <= 1 << 24 or block_count(h.length, b) > 1 << 24:
        raise Refused(5, f"block size {b}, length {h.length}")
    if not name_is_allowed(h.name):
        raise Refused(6, "the name is not allowed")
    kinds = [kind for kind, _ in h.digests]
    if kinds != sorted(set(kinds)) or 0 in kinds or dict(h.digests).get(7, h.root) != h.root:
        raise Refused(7, "digests: a wrong order, kind 0, or a blake3 that is not the root")
    if any(len(value) != DIGEST_KINDS[kind][1] for kind, value in h.digests if kind in DIGEST_KINDS):
        raise Refused(7, "a digest of a wrong length")
    check_sections(h)
    return h


def check_sections(h):
    kinds = [s.kind for s in h.sections]
    hints = kinds[2:3] == [PIECES]
    known = [TREE, PAGES, PIECES] if hints else [TREE, PAGES]
    unknown = kinds[len(known):]
    if len(kinds) > 8 or kinds[:len(known)] != known or min(unknown, default=4) < 4 or len(set(unknown)) < len(unknown):
        raise Refused(8, f"section kinds {kinds}")
    offset = SECTIONS_AT
    for s in h.sections:
        if s.critical not in (0, 1) or (s.critical == 1) != (s.kind in (TREE, PAGES)):
            raise Refused(8, f"section kind {s.kind} with the flag {s.critical}")     # also an unknown critical kind
        if s.offset != offset or offset + s.length >= 1 << 64:
            raise Refused(8, f"section kind {s.kind} at offset {s.offset}")
        offset += s.length
    if [s.length for s in h.sections[:len(known)]] != section_lengths(h.length, h.block_size, hints):
        raise Refused(8, "a section length that does not follow from length and block size")


def trailer_length(area):
    """Of a signature of a kind that is not known here (3.3)."""
    return 0 if area[0:2] in (b"\0\0", b"ED") else int.from_bytes(area[2:6], "little")


def check_signature(area):
    """Rule 9: the key id, or None for an unsigned manifest. Whether the signature is true is asked by check_key."""
    if not any(area):
        return None
    if area[0:2] == b"\0\0" or not any(area[2:]):
        raise Refused(9, "the signature area has a kind alone, or none and is not zero")
    if area[0:2] != b"ED":
        return None
    size = int.from_bytes(area[138:140], "little")
    if size > 372 or any(area[140 + size:]):
        raise Refused(9, "the signature area is not a signature")
    try:
        comment = area[140:140 + size].decode("utf-8")
    except UnicodeDecodeError:
        raise Refused(9, "the trusted comment is not UTF-8") from None
    if any(unicodedata.category(letter) == "Cc" and letter != "\t" for letter in comment):
        raise Refused(9, "a control character in the trusted comment")
    return area[2:10]


def check_values(values, above, root, level):
    """Rule 11 for the values of one level: they merge to those of the level above, the highest ones to the root."""
    if above is None:
        if (values.tobytes() if len(values) == 1 else merge_root(values)) != root:
            raise Refused(11, f"the values of level {level} do not merge to the root")
    elif (j := first_difference(merge_groups(values, 8), above)) is not None:
        raise Refused(11, f"node ({level + 1}, {j}) is not what its children merge to")


def check_anchors(facts):
    """Rule 13."""
    index = np.arange(len(facts.anchors), dtype="<u8")
    sizes = np.minimum(facts.length - index * np.uint64(facts.block_size), np.uint64(facts.block_size))
    none, offset = facts.anchors == NO_WINDOW, facts.anchors & np.uint64(0xFFFFFF)
    fits = (offset + np.uint64(64) <= sizes) & (offset % np.uint64(CELL) + np.uint64(64) <= CELL)
    wrong = np.where(sizes < 64, ~none, none | ~fits)
    if wrong.any():
        raise Refused(13, f"the anchor of block {int(wrong.argmax())}")


def first_difference(found, wanted):
    different = found != wanted
    different = different.any(axis=1) if different.ndim > 1 else different
    return int(different.argmax()) if different.any() else None


@dataclass
class Manifest:
    header: Header
    key_id: bytes | None
    facts: Facts


def read_manifest(data):
    """The whole reader: everything that section 5 refuses, in its order."""
    h = check_statement(data)
    key_id = check_signature(data[STATEMENT:SECTIONS_AT])
    if len(data) != h.sections[-1].offset + h.sections[-1].length + trailer_length(data[STATEMENT:SECTIONS_AT]):
        raise Refused(10, f"the file has {len(data)} bytes")
    parts = [data[s.offset:s.offset + s.length] for s in h.sections]
    hints = len(h.sections) > 2 and h.sections[2].kind == PIECES
    sizes, at, above, stored = level_sizes(block_count(h.length, h.block_size)), 0, None, []

    def check_hash(section, part):
        if blake3(part) != section.blake3:
            raise Refused(12, f"section kind {section.kind} does not match its hash")

    for k in range(len(sizes), 0, -1):                      # rules 11 and 12, section after section
        values, pairs = read_groups(parts[0][at:], sizes[k - 1], 2, hints)
        check_values(values, above, h.root, k)
        stored.insert(0, pairs)
        at, above = at + sizes[k - 1] * (48 if hints else 32), values
    check_hash(h.sections[0], parts[0])
    leaves, anchors = read_groups(parts[1], block_count(h.length, h.block_size), 1, hints)
    check_values(leaves, above, h.root, 0)
    for s, part in zip(h.sections[1:], parts[1:]):
        check_hash(s, part)
    facts = Facts(h.length, h.block_size, h.root, leaves, None, None, h.digests)
    if hints:
        facts.anchors, facts.pieces = anchors.reshape(len(leaves)), np.frombuffer(parts[2], "<u2")
        check_anchors(facts)
        anchor_levels = node_anchor_levels(facts.anchors, h.block_size, len(stored))
        for k, (made, pairs) in enumerate(zip(anchor_levels, stored), 1):
            if (j := first_difference(made, pairs)) is not None:
                raise Refused(14, f"the anchor of node ({k}, {j}) is not the smallest of its children's")
    return Manifest(h, key_id, facts)


def known_digests(digests):
    return [(kind, value) for kind, value in digests if kind in DIGEST_KINDS]


def compare(true, said, hints=False):
    """What an object is against what its manifest says (5)."""
    if true.length != said.length:
        raise Refused(0, f"the object has {true.length} bytes, not {said.length}")
    pairs = [("leaf", true.leaves, said.leaves)]
    if hints and said.anchors is not None:
        pairs += [("anchor of block", true.anchors, said.anchors), ("piece", true.pieces, said.pieces)]
    for word, found, wanted in pairs:
        if (i := first_difference(found, wanted)) is not None:
            raise Refused(0, f"{word} {i} differs")
    for kind, wanted in known_digests(said.digests):
        if dict(true.digests)[kind] != wanted:
            raise Refused(0, f"digest {DIGEST_KINDS[kind][0]} differs")


def verify(regions, manifest, hints=False):
    """A reader that has the object (5)."""
    said = manifest.facts
    kinds = [kind for kind, _ in known_digests(said.digests)]
    compare(scan(regions, said.block_size, hints and said.anchors is not None, kinds), said, hints)


def show(m):
    h = m.header
    return {"root": h.root.hex(), "bytes_total": h.length, "block_size": h.block_size, "blocks": len(m.facts.leaves),
            "name": h.name.decode(), "sequence": h.sequence, "published": h.published, "expires": h.expires,
            "digests": {DIGEST_KINDS[kind][0]: value.hex() for kind, value in known_digests(h.digests)},
            "key_id": None if m.key_id is None else f"{int.from_bytes(m.key_id, 'little'):016X}",
            "sections": [{"kind": s.kind, "critical": s.critical == 1, "offset": s.offset, "length": s.length,
                          "blake3": s.blake3.hex()} for s in h.sections]}


# ---- The journal (journal.md) and the store's leaves (store.md) -------------------------------------------------------

JOURNAL_HEADER = b"\x89SAPWJRN" + struct.pack("<H", 1) + bytes(6)
JOURNAL_MAX, PAYLOAD_MAX = 64 << 20, 1 << 20


def write_journal(payloads):
    data = check = JOURNAL_HEADER
    for payload in payloads:
        size = struct.pack("<I", len(payload))
        check = blake3(check + size + payload)[:16]
        data += size + payload + check
    return data


class Undecodable(Exception):
    pass


def decode_record(payload):
    """(kind, fields), with ranges as (first, end)."""
    at = 0

    def take(count):
        nonlocal at
        at += count
        if at > len(payload):
            raise Undecodable("the payload ends inside a field")
        return payload[at - count:at]

    def number(size):
        return int.from_bytes(take(size), "little")

    def flag():
        if (value := number(1)) > 1:
            raise Undecodable(f"a flag of {value}")
        return value == 1

    def string():
        try:
            return take(number(8)).decode("utf-8")
        except UnicodeDecodeError:
            raise Undecodable("a string that is not UTF-8") from None

    def blocks(first, count):
        if first + count >= 1 << 32:
            raise Undecodable("a block that no object has")
        return first, first + count

    kind = number(4)
    if kind == 0:
        fields = (take(32) if flag() else None, number(8), number(4), string(), string(), string())
        length, b = fields[1:3]
        if b & (b - 1) or not 1 << 14 <= b <= 1 << 24 or block_count(length, b) > 1 << 24:
            raise Undecodable("an impossible block size")
    elif kind == 1:
        fields = (take(16), number(8), number(8), flag(), number(8))
    elif kind in (2, 5):
        fields = [blocks(number(4), number(4)) for _ in range(number(8))]
    elif kind == 4:
        first = number(4)
        leaves = [take(32) for _ in range(number(8))]
        fields = blocks(first, len(leaves)), leaves
    elif kind == 6:
        fields = number(8)
    else:
        raise Undecodable(f"kind {kind}")
    if at != len(payload):
        raise Undecodable("bytes after the fields")
    return kind, fields


def read_records(data):
    """Each record with the end of its bytes, up to the first one that does not count."""
    data = data[:JOURNAL_MAX]
    check, at = data[:16], 16
    if check != JOURNAL_HEADER:
        return
    while at + 4 <= len(data):
        size = int.from_bytes(data[at:at + 4], "little")
        end = at + 4 + size + 16
        if size > PAYLOAD_MAX or end > len(data) or blake3(check + data[at:end - 16])[:16] != data[end - 16:end]:
            return
        try:
            record = decode_record(data[at + 4:end - 16])
        except Undecodable:
            return
        check, at = data[end - 16:end], end
        yield record, end


def read_journal(data, here):
    """What a journal claims for a part that is `here` (boot id, device, inode, local); None: nothing."""
    begin, place, claimed, durable, dropped, unsynced, leaves, end = None, None, set(), set(), set(), {}, {}, 0

    def moved(to):
        if place != to or not to[3] or to[0] == bytes(16):
            claimed.intersection_update(durable)
            unsynced.clear()
            dropped.clear()

    for number, ((kind, fields), stop) in enumerate(read_records(data)):
        if begin is None:
            if kind != 0:
                return None
            begin, n = fields, block_count(*fields[1:3])
        elif kind == 0:
            break
        elif kind == 1:
            if place is not None:
                moved(fields[:4])
            place = fields[:4]
        elif place is None:
            return None
        elif kind in (2, 4):
            for first, last in fields if kind == 2 else [fields[0]]:
                for block in range(first, min(last, n)):
                    claimed.add(block)
                    dropped.discard(block)
                    unsynced.setdefault(block, number)          # the first record that claims it since it was dropped
                    if kind == 4:
                        leaves[block] = fields[1][block - first]
        elif kind == 5:
            for block in (block for first, last in fields for block in range(first, min(last, n))):
                claimed.discard(block)
                durable.discard(block)
                unsynced.pop(block, None)
                dropped.add(block)
        else:
            covered = [block for block, record in unsynced.items() if record < fields]
            durable.update(covered)
            for block in covered:
                del unsynced[block]
        end = stop
    if place is None:
        return None
    moved(here)
    root, length, block_size, etag, modified, url = begin
    return {"root": root and root.hex(), "length": length, "block_size": block_size, "etag": etag,
            "last_modified": modified, "url": url, "claimed": ranges(claimed), "durable": ranges(durable), "dropped": ranges(dropped),
            "leaves": {str(block): leaf.hex() for block, leaf in sorted(leaves.items())}, "end": end}


def ranges(blocks):
    """[first, count] of each run of blocks."""
    found = []
    for block in sorted(blocks):
        if found and sum(found[-1]) == block:
            found[-1][1] += 1
        else:
            found.append([block, 1])
    return found


def write_leaves(root, length, block_size, texts, leaves):
    """`objects/ROOT.leaves`; a leaf that is not known is None."""
    head = b"\x89SAPWLVS" + struct.pack("<H6x32sQQ", 1, root, length, block_size)
    for text in texts:
        text = text if len(head) + 2 + len(text) <= 4064 else b""
        head += struct.pack("<H", len(text)) + text
    head = head.ljust(4064, b"\0")
    return head + merge_groups(chunk_cvs(head, 0), 2).tobytes() + b"".join(leaf or bytes(32) for leaf in leaves)


# ---- minisign: Ed25519 (RFC 8032) over BLAKE2b-512 (3.3) ---------------------------------------------------------------

P, ORDER = (1 << 255) - 19, (1 << 252) + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P


def add_points(p, q):
    (x, y), (u, v) = p, q
    k = D * x * u * y * v
    return (x * v + y * u) * pow(1 + k, -1, P) % P, (y * v + x * u) * pow(1 - k, -1, P) % P


def times(scalar, point):
    total = (0, 1)
    while scalar:
        if scalar & 1:
            total = add_points(total, point)
        point, scalar = add_points(point, point), scalar >> 1
    return total


def recover_x(y, odd):
    """The x of a point, None if there is none."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if (x * x - square) % P or (x == 0 and odd):
        return None
    return P - x if x % 2 != odd else x


BASE_Y = 4 * pow(5, -1, P) % P
BASE = recover_x(BASE_Y, 0), BASE_Y


def encode_point(point):
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def decode_point(data):
    value = int.from_bytes(data, "little")
    y, odd = value & (1 << 255) - 1, value >> 255
    x = recover_x(y, odd) if y < P else None
    return None if x is None else (x, y)


def sha512_number(*parts):
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little")


def secret_scalar(seed):
    return int.from_bytes(hashlib.sha512(seed).digest()[:32], "little") & (1 << 254) - 8 | 1 << 254


def public_key(seed):
    return encode_point(times(secret_scalar(seed), BASE))


def ed25519_sign(seed, message):
    public = public_key(seed)
    r = sha512_number(hashlib.sha512(seed).digest()[32:], message) % ORDER
    point = encode_point(times(r, BASE))
    s = (r + sha512_number(point, public, message) * secret_scalar(seed)) % ORDER
    return point + s.to_bytes(32, "little")


def ed25519_is_valid(public, message, signature):
    point, key, s = decode_point(signature[:32]), decode_point(public), int.from_bytes(signature[32:], "little")
    if point is None or key is None or s >= ORDER:
        return False
    k = sha512_number(signature[:32], public, message) % ORDER
    return times(s, BASE) == add_points(point, times(k, key))


def signature_area(seed, key_id, comment, statement):
    signature = ed25519_sign(seed, hashlib.blake2b(statement).digest())
    above = ed25519_sign(seed, signature + comment)
    return (b"ED" + key_id + signature + above + struct.pack("<H", len(comment)) + comment).ljust(SIGNATURE, b"\0")


def is_signed_by(data, public, key_id):
    """Whether a manifest, which read_manifest accepts, is signed by this key."""
    area = data[STATEMENT:SECTIONS_AT]
    comment = area[140:140 + int.from_bytes(area[138:140], "little")]
    return area[:2] == b"ED" and area[2:10] == key_id and ed25519_is_valid(
        public, hashlib.blake2b(data[:STATEMENT]).digest(), area[10:74]) and ed25519_is_valid(
        public, area[10:74] + comment, area[74:138])


# ---- Its own checks -------------------------------------------------------------------------------------------------

def flipped(data, at, bit):
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1:]


def rule_of(data):
    try:
        read_manifest(data)
    except Refused as refused:
        return refused.rule
    return None


def selftest():
    def check(true, what):
        if not true:
            raise SystemExit(f"selftest: {what}")

    # The published BLAKE3 test vectors: byte i of the input is i mod 251.
    official = {0: "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
                1: "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
                1023: "10108970eeda3eb932baac1428c7a2163b0e924c9a9e25b35bba72b28f70bd11",
                1024: "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
                1025: "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444",
                2049: "5f4d72f40d7a5f82b15ca2b2e44b1de3c2ef86c426c95c1af0b6879522563030",
                3072: "b98cb0ff3623be03326b373de6b9095218513e64f1ee2edd2525c7ad1e5cffd2",
                3073: "7124b49501012f81cc7f11ca069ec9226cecb8a2c850cfe644e327d22d3e1cd3",
                7169: "a003fc7a51754a9b3c7fae0367ab3d782dccf28855a03d435f8cfe74605e7817",
                102400: "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085"}
    for length, wanted in official.items():
        data = (bytes(range(251)) * (length // 251 + 1))[:length]
        check(blake3(data).hex() == wanted, f"BLAKE3 of {length} bytes")

    def parent(left, right, flags=PARENT):
        words = np.concatenate([left, right])[:, None]
        return np.ascontiguousarray(compress(IV[:, None], words, 0, 64, flags)[:, 0])

    def merge(cvs, flags=PARENT):                       # the words of section 2
        if len(cvs) == 1:
            return cvs[0]
        p = 1 << ((len(cvs) - 1).bit_length() - 1)
        return parent(merge(cvs[:p]), merge(cvs[p:]), flags)

    some = np.frombuffer(paint(0, 37 * 32), "<u4").reshape(37, 8)
    for m in (2, 3, 5, 8, 11, 37):
        check(merge_groups(some[:m], 6)[0].tobytes() == merge(some[:m]).tobytes(), f"merge of {m}")
        check(merge_root(some[:m]) == merge(some[:m], PARENT | ROOT).tobytes(), f"root of {m}")
    for crc, wanted in ((CRC32C, "e3069283"), (CRC64NVME, "ae8b14860a799888")):
        digest = CrcDigest(crc)
        digest.update(b"123456789")
        check(digest.digest().hex() == wanted, "check value of a CRC")
        digest, data = CrcDigest(crc), paint(0, 5000)
        digest.update(data)
        slow = crc.over_bytes(crc.ones, data) ^ crc.ones
        check(int.from_bytes(digest.digest(), "big") == slow, "CRC over pieces")
    data = paint(0, 3000)
    slow = [CRC32C.over_bytes(CRC32C.ones, data[at:at + KIB]) ^ CRC32C.ones for at in range(0, 3000, KIB)]
    check(region_pieces(data).tolist() == [value & 0xFFFF for value in slow], "pieces")

    def hash_of(window):                                # the words of 4.1
        h = 0
        for x in window:
            h = ((h << 1) + int(GEAR[x])) % (1 << 64)
        return h

    for length in (63, 64, 65, 200, CELL, CELL + 63, CELL + 64, CELL + 200):
        data = (bytes(50) + paint(0, length))[:length]
        places = [at for at in range(max(0, length - 63)) if at % CELL + 64 <= CELL]
        tag, at = min(((tag_of(hash_of(data[at:at + 64])), at) for at in places), default=((1 << 40) - 1, 0xFFFFFF))
        check(int(scan([data], 2 * CELL).anchors[0]) == tag << 24 | at, f"anchor of {length} bytes")
    hashes = sorted([0, 1, 2, 3, *(1 << e for e in range(64)), *((1 << e) - 1 for e in range(1, 65)), *GEAR.tolist()])
    check(all(tag_of(x) <= tag_of(y) for x, y in zip(hashes, hashes[1:])), "tags keep the order")
    check(all(tag_of(last_hash_like(h)) == tag_of(h) < tag_of(last_hash_like(h) + 1) for h in hashes if h < NO_WINDOW
              and last_hash_like(h) < NO_WINDOW), "the range of a tag")

    b = CELL
    for length in (0, 1, 63, 64, 1023, 1024, 1025, b - 1, b, b + 1, 2 * b - 1, 2 * b, 2 * b + 1, 255 * b, 256 * b,
                   257 * b + 5):
        facts, regions = scan(painted_regions(length), b), lambda: painted_regions(length)
        for hints in (True, False):
            m = read_manifest(write_manifest(facts, hints))
            verify(regions(), m, hints=True)
            while m.facts.block_size < 1 << 24:
                m.facts = coarser(m.facts)
                wide = write_manifest(scan(regions(), m.facts.block_size, hints), hints)
                check(write_manifest(m.facts, hints) == wide, f"coarser: {length}, {m.facts.block_size}")
                if length > 4 * b and m.facts.block_size == 4 * b:
                    break
        if length:
            for at in {0, length // 2, length - 1}:
                data = bytearray(paint(0, length))
                data[at] ^= 4
                try:
                    verify(regions_of(bytes(data)), read_manifest(write_manifest(facts)))
                    check(False, f"byte {at} of {length} differs")
                except Refused:
                    pass
    data = write_manifest(scan(painted_regions(b + 1), b), True, b"painted")
    for at in [*range(0, SECTIONS_AT, 7), *range(SECTIONS_AT, len(data))]:
        check(rule_of(flipped(data, at, at % 8)), f"byte {at} of a manifest")
    check([default_block_size(length).bit_length() - 1 for length in (0, 1 << 36, (1 << 36) + 1, 1 << 44, (1 << 44) + 1,
                                                                      1 << 48)] == [16, 16, 17, 24, 24, 24],
          "default block size")
    for size in [*range(0, len(data), 97), len(data) - 1]:
        check(rule_of(data[:size]) in (1, 10), f"{size} bytes of a manifest")
    # The example of section 10.
    new = paint(0, 600 * b - 5)
    old = bytearray(bytes(1000) + new)
    old[5001000] ^= 0xFF
    old, facts = bytes(old), scan(regions_of(new), b)
    anchor = [int(word) for word in node_anchor_levels(facts.anchors, b, 1)[0][0]]
    window = np.frombuffer(old[1257378:1257378 + 64], "u1").reshape(1, 64)
    check([tag_of(int(window_hashes(window)[0, 0])), 1256378] == anchor == [0xA09596C4A4, 1256378], "the anchor")
    moved = merge_groups(chunk_cvs(old[1000:1000 + len(new)], 0), 4)
    check(np.nonzero((moved != facts.leaves).any(axis=1))[0].tolist() == [305], "the blocks at the shift")
    found = region_pieces(old[1000 + 305 * b:1000 + 306 * b])
    differ = np.nonzero(found != facts.pieces[305 * 16:306 * 16])[0].tolist()
    check(differ == [4882 - 305 * 16] and (found[2], facts.pieces[4882]) == (0xF93B, 0xA2E5), "the pieces at the shift")
    # RFC 8032, 7.1, test 2.
    seed = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    signature = ed25519_sign(seed, b"\x72")
    check(signature.hex().startswith("92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"), "Ed25519")
    check(ed25519_is_valid(public_key(seed), b"\x72", signature), "Ed25519: true")
    check(not ed25519_is_valid(public_key(seed), b"\x73", signature), "Ed25519: false")
    print("selftest: all is well")


def check_damage(data, all_bits, seed):
    """How many manifests were tried that differ from this one in one bit, or end too early. All must be refused."""
    read_manifest(data)
    chosen = random.Random(seed)
    bits = [(at, bit) for at in range(len(data)) for bit in (range(8) if all_bits else [chosen.randrange(8)])]
    for at, bit in bits:
        if rule_of(flipped(data, at, bit)) is None:
            raise SystemExit(f"bit {bit} of byte {at} was changed, and the manifest is accepted (seed {seed})")
    for size in range(len(data)):
        if rule_of(data[:size]) is None:
            raise SystemExit(f"the manifest is accepted when it is cut to {size} bytes")
    return len(bits) + len(data)


# ---- Command line ---------------------------------------------------------------------------------------------------

def read_bytes(path):
    with open(path, "rb") as file:
        return file.read()


def write_bytes(path, data):
    with open(path, "wb") as file:
        file.write(data)


def default_name(path):
    name = os.fsencode(os.path.basename(path))
    return name if name_is_allowed(name) else b""


def command_write(a):
    length = os.path.getsize(a.file)
    block_size = default_block_size(length) if a.block_size is None else a.block_size
    if block_size not in [1 << e for e in range(14, 25)] or block_count(length, block_size) > 1 << 24:
        raise SystemExit(f"block size {block_size} is not allowed for {length} bytes")
    name = default_name(a.file) if a.name is None else os.fsencode(a.name)
    facts = scan(file_regions(a.file), block_size, not a.no_hints, [KIND_OF[d] for d in a.digest])
    data = write_manifest(facts, not a.no_hints, name, a.sequence, a.published, a.expires)
    read_manifest(data)                     # so that no option makes a manifest that readers refuse
    write_bytes(a.out, data)


def command_read(a):
    m = read_manifest(read_bytes(a.manifest))
    if not a.leaves:
        print(json.dumps(show(m), ensure_ascii=False))
        return
    b, length = m.facts.block_size, m.facts.length
    for i, leaf in enumerate(m.facts.leaves):
        print(i, i * b, min(b, length - i * b), leaf.tobytes().hex())


def command_verify(a):
    verify(file_regions(a.file), read_manifest(read_bytes(a.manifest)), a.hints)


def command_coarsen(a):
    m = read_manifest(read_bytes(a.manifest))
    if m.facts.block_size == 1 << 24:
        raise SystemExit("the block size is the largest one already")
    h = m.header        # unknown sections and the signature are about the finer manifest, so they stay behind
    hints = m.facts.anchors is not None
    write_bytes(a.out, write_manifest(coarser(m.facts), hints, h.name, h.sequence, h.published, h.expires))


def command_b3sum(a):
    for path in a.files:
        print(f"{scan(file_regions(path), 1 << 20, False).root.hex()}  {path}")


def command_paint(a):
    for region in painted_regions(a.length):
        sys.stdout.buffer.write(region)


def command_damage(a):
    tried = check_damage(read_bytes(a.manifest), a.all_bits, a.seed)
    print(f"{tried} damaged manifests, all refused")


class Commands:
    """The commands of a program, each with its function."""

    def __init__(self, about):
        self.parser = argparse.ArgumentParser(description=about.splitlines()[0])
        self.added = self.parser.add_subparsers(required=True, metavar="COMMAND")

    def add(self, name, run, *arguments):
        command = self.added.add_parser(name)
        command.set_defaults(run=run)
        for argument in arguments:
            command.add_argument(argument)
        return command

    def run(self, words):
        arguments = self.parser.parse_args(words)
        arguments.run(arguments)

    def main(self):
        """Runs the command line; ends with 3 when something is refused."""
        try:
            self.run(sys.argv[1:])
        except Refused as refused:
            print(f"refused: {refused}", file=sys.stderr)
            sys.exit(3)
        except OSError as error:
            sys.exit(f"{os.fsdecode(error.filename)}: {error.strerror}")


def add_particulars(command):
    """What is said of a manifest beside its object."""
    command.add_argument("--name")
    for option in ("--sequence", "--published", "--expires"):       # --seq is short for the first one
        command.add_argument(option, *(["--seq"] if option == "--sequence" else []), type=int, default=0)


def main():
    commands = Commands(__doc__)
    write = commands.add("write", command_write, "file", "out")
    write.add_argument("--block-size", type=int)
    write.add_argument("--no-hints", action="store_true")
    add_particulars(write)
    write.add_argument("--digest", action="append", default=[], choices=list(KIND_OF))
    commands.add("read", command_read, "manifest").add_argument("--leaves", action="store_true")
    verified = commands.add("verify", command_verify, "file", "manifest")
    verified.add_argument("--hints", action="store_true")
    commands.add("coarsen", command_coarsen, "manifest", "out")
    commands.add("b3sum", command_b3sum).add_argument("files", nargs="+")
    commands.add("paint", command_paint).add_argument("length", type=int)
    damage = commands.add("damage", command_damage, "manifest")     # one bit of each byte, or all of them; every truncation
    damage.add_argument("--all-bits", action="store_true")
    damage.add_argument("--seed", type=int, default=0)
    commands.add("selftest", lambda _: selftest())
    # One command a line on standard input, each a JSON list of its words.
    commands.add("batch", lambda _: [commands.run(json.loads(line)) for line in sys.stdin])
    commands.main()


if __name__ == "__main__":
    main()
