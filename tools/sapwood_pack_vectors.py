"""The test vectors of packs (fixtures/vectors/packs.json), made with sapwood_pack.py; sapwood_vectors.py writes them.

No compressor has a part in it: zstd frames are made by hand (RFC 8878) or are constants, so every machine writes the same.
"""
import struct
from sapwood_pack import (
    CLUSTER, FRAME, HEAD, PAGE_FRAMES, ZSTD_MAGIC, Refused, blake3, count, read_index, table_end, unpack, write_index)
from sapwood_ref import KIB, paint

PAGE_BYTES, LONGEST = PAGE_FRAMES * FRAME, 1023
LENGTHS = (1, KIB, CLUSTER, CLUSTER + 1, FRAME, FRAME + 1, PAGE_BYTES, PAGE_BYTES + 1)
RAW, RLE, COMPRESSED, RESERVED = range(4)
BLOCK_MAX = 128 * KIB

# Made once with libzstd 1.5.4 at level 19: bytes 0 to 700 of the lines, and bytes 1024 to 2048 with those before as prefix.
LINES = "".join(f"{n}: {n * 7919 % 1009} pears\n" for n in range(200)).encode()
PACKED_LINES = bytes.fromhex(
    "0000ad0600a6d32a1390a5a03ae8813a77a72124b5255b4e636b0a102600240024001d23ba825837442adcacbc8b57794ff286aab97649b7c2ec12c5dd"
    "098657040302038080e346b50a74ebc42ec5853b3478255cde9818b9493717c3d4bd3cbb61e8ae19e2ad732e0dca01454aba17ca6ec80cd7c6f056845c"
    "ca923b1374c5ac6e1046b829e12e96e4bdd16e109903325337ccce6ee2dc4541bc6773039e5c13a25b8575e928dc89bc2b5479a30e6f46cd0132a8115c"
    "91bb6f802f741046f90174186cadbf0993b95f2268c63941bb196efcf39d5187106415")
PACKED_PIECE = bytes.fromhex(
    "00084d0800b699330fa0a53aa35515b990ed2e8925a862352e002e002e002339416ea4d5dc9019eaa6d9c5c07b96d724e256995cc2a03b575750ee061e"
    "de802137e9e2e2c9dc0b48d7c66e617343d8d1cd14bb2878f76af25ade2d19b954387770ea4aa4dd20c21b4264de0c8a8b9472ef88ae05bb557729e40d"
    "7531e9ee49c86b46b732e392d4dca95057b0ec4604de20647913435c0c937b1474edac6e05b94b737847c2c58d9140b0595cca983b7274a5c46ee0dd0d"
    "149337eb2ea2c8bdc0b94653b70eed5220bc3399576ee24648b96186e8a66548a820840899ed01b05b0e1010a1813e9c69f063af29bece8da21e095404"
    "b2085c3f420c95a2160600f67524bde758fcc9a8ded2c048ba01")
# The checksum of 1,000 bytes 7.
CHECKSUM_OF_SEVENS = bytes.fromhex("e9b9e835")


# ---- Indices --------------------------------------------------------------------------------------------------------

def limits(length):
    """The longest that each packed frame, and the packed pieces of each cluster, may be (rule e)."""
    frames = [min(FRAME, length - at) + 64 for at in range(0, length, FRAME)]
    return frames, [LONGEST * count(min(CLUSTER, length - at), KIB) for at in range(0, length, CLUSTER)]


def some_lengths(length):
    """Lengths that compress well; every fifth frame and every seventh cluster is not packed."""
    frames, clusters = limits(length)
    return ([min(most, most // 9 + f) if f % 5 != 3 else 0 for f, most in enumerate(frames)],
            [most // 5 + c % 100 if c % 7 != 5 else 0 for c, most in enumerate(clusters)])


def index_of(length, frames, clusters):
    return write_index(length, table_end(length) + sum(frames) + sum(clusters), blake3(b"a pack"), frames, clusters)


def accepted_vector(what, length, frames, clusters):
    data = index_of(length, frames, clusters)
    index = read_index(data, length)
    if (index.frames, index.clusters) != (frames, clusters):
        raise SystemExit(f"pack vector {what!r}: it reads back as something else")
    made = {"what": what, "length": length, "frames": frames, "clusters": clusters, "pack_length": index.length,
            "blake3": index.blake3.hex(), "index_length": len(data)}
    return made | ({"index": data.hex()} if len(data) < 2000 else {"index_blake3": blake3(data).hex()})


def accepted_vectors():
    for length in LENGTHS:
        yield accepted_vector("some parts are packed", length, *some_lengths(length))
    for length in (1, CLUSTER + 1, FRAME + 1, FRAME + KIB + 1):
        yield accepted_vector("all parts are as long as they may be", length, *limits(length))
    frames, clusters = limits(2 * FRAME + 5)
    yield accepted_vector("a whole pack: its frames are 26, 64 and 5 bytes longer", 2 * FRAME + 5, [FRAME + 26, FRAME + 64, 10],
                          [0] * len(clusters))
    yield accepted_vector("only pieces", 2 * FRAME + 5, [0] * len(frames), clusters)
    yield accepted_vector("no part is packed", 1, [0], [0])


def patched(data, at, new):
    return data[:at] + new + data[at + len(new):]


def plus(data, at, difference):
    """A u64 that is so much more."""
    return patched(data, at, struct.pack("<Q", (struct.unpack_from("<Q", data, at)[0] + difference) % (1 << 64)))


def toggled(data, at):
    """The lowest bit of a number is another one."""
    return patched(data, at, bytes([data[at] ^ 1]))


def with_length(length, frames=(), clusters=()):
    """An index with true sums, in which some parts have other lengths: `(number, length)`."""
    made = some_lengths(length)
    for lengths, changes in zip(made, (frames, clusters), strict=True):
        for number, changed in changes:
            lengths[number] = changed
    return index_of(length, *made)


def bad_forms():
    one, two = FRAME + 1, PAGE_BYTES + 1
    good = index_of(one, *some_lengths(one))
    for what, data in (("no byte", b""), ("47 bytes", good[:HEAD.size - 1]), ("no pages", good[:HEAD.size]),
                       ("a byte is missing", good[:-1]), ("a byte too many", good + b"\0")):
        yield "a", what, one, data
    yield "a", "one cluster less", FRAME, good
    yield "a", "one cluster more", one + CLUSTER, good
    yield "a", "two pages for one", PAGE_BYTES, index_of(two, *some_lengths(two))
    yield "a", "one page for two", two, index_of(PAGE_BYTES, *some_lengths(PAGE_BYTES))
    yield "a", "an object of no bytes", 0, good[:HEAD.size]
    for at in range(1, 8):
        yield "a", f"byte {at} is not zero", one, patched(good, at, b"\1")
    yield "a", "byte 7 is 128", one, patched(good, 7, b"\x80")


def bad_offsets():
    one, two = FRAME + 1, PAGE_BYTES + 1
    first, second = HEAD.size, HEAD.size + 16 + PAGE_FRAMES * 4 + PAGE_FRAMES * FRAME // CLUSTER * 2
    good, large = index_of(one, *some_lengths(one)), index_of(two, *some_lengths(two))
    for difference in (-1, 1, 1 << 32, 1 << 63):
        yield "b", f"frames begin {difference} later", one, plus(good, first, difference)
        yield "b", f"pieces begin {difference} later", one, plus(good, first + 8, difference)
        yield "c", f"frames of the second page begin {difference} later", two, plus(large, second, difference)
        yield "c", f"pieces of the second page begin {difference} later", two, plus(large, second + 8, difference)
    yield "b", "frames begin at 0", one, patched(good, first, bytes(8))
    yield "b", "all begins one byte later, and ends there", one, plus(plus(plus(good, first, 1), first + 8, 1), 8, 1)
    yield "b", "a frame has another length", one, toggled(good, first + 16)
    yield "b", "pieces of the first of two pages begin 1 later", two, plus(large, first + 8, 1)
    yield "c", "the second page begins like the first", two, patched(large, second, large[first:first + 16])
    yield "c", "the last cluster of the first page has another length", two, toggled(large, second - 2)


def bad_ends():
    for length in (1, FRAME + 1, PAGE_BYTES + 1):
        good = index_of(length, *some_lengths(length))
        for difference in (-1, 1, 1 << 63):
            yield "d", f"the pack is {difference} longer", length, plus(good, 8, difference)
        yield "d", "the last cluster has another length", length, toggled(good, len(good) - 2)
    yield "d", "a pack of no bytes", length, patched(good, 8, bytes(8))
    yield "d", "a pack of 2^64 - 1 bytes", length, patched(good, 8, b"\xff" * 8)


def bad_lengths():
    two = PAGE_BYTES + 1
    yield "e", "a frame of one byte is 65 bytes longer", 1, with_length(1, [(0, 66)])
    yield "e", "a frame is 65 bytes longer", FRAME, with_length(FRAME, [(0, FRAME + 65)])
    yield "e", "the last frame, of one byte, is 65 bytes longer", FRAME + 1, with_length(FRAME + 1, [(1, 66)])
    yield "e", "the last frame is as long as others may be", FRAME + 1, with_length(FRAME + 1, [(1, FRAME)])
    yield "e", "frames of 2^32 - 1 bytes", 3 * FRAME, with_length(3 * FRAME, [(f, (1 << 32) - 1) for f in range(3)])
    yield "e", "the frame of the second page is 65 bytes longer", two, with_length(two, [(PAGE_FRAMES, 66)])
    for length, most in ((1, LONGEST), (KIB, LONGEST), (KIB + 1, 2 * LONGEST), (CLUSTER - KIB, 63 * LONGEST),
                         (CLUSTER, 64 * LONGEST)):
        what = f"pieces of {length} bytes have {most + 1} packed"
        yield "e", what, length, with_length(length, clusters=[(0, most + 1)])
    yield "e", "pieces of 65536 bytes have 65535 packed", CLUSTER, with_length(CLUSTER, clusters=[(0, 65535)])
    yield "e", "the last piece, of one byte, has 1024", CLUSTER + 1, with_length(CLUSTER + 1, clusters=[(1, 1024)])
    yield "e", "the piece of the second page has 1024", two, with_length(two, clusters=[(1024, 1024)])


def unknown_codecs():
    good = index_of(FRAME + 1, *some_lengths(FRAME + 1))
    for codec in (0, 2, 255):
        yield None, f"codec {codec}", FRAME + 1, patched(good, 0, bytes([codec]))
    yield None, "codec 2, all else is unknown", FRAME + 1, b"\2" + b"\xff" * 99


def rule_of(data, length):
    """None: it has an unknown codec."""
    try:
        index = read_index(data, length)
    except Refused as refused:
        return refused.rule
    if index is not None:
        raise SystemExit("an index that is to be refused is accepted")
    return None


def refused_vectors():
    for cases in (bad_forms, bad_offsets, bad_ends, bad_lengths, unknown_codecs):
        for rule, what, length, data in cases():
            if (found := rule_of(data, length)) != rule:
                raise SystemExit(f"pack vector {what!r}: refused by rule {found}, not {rule}")
            yield {"what": what, "length": length, "rule": rule, "index": data.hex()}


# ---- Frames: zstd by hand -------------------------------------------------------------------------------------------

def block(kind, size, content=b"", last=True):
    return (size << 3 | kind << 1 | last).to_bytes(3, "little") + content


def raw(data, last=True):
    return block(RAW, len(data), data, last)


def rle(length, last=True, byte=7):
    return block(RLE, length, bytes([byte]), last)


def window(exponent, eighths=0, flags=0):
    """A header that asks for a window of 2^(10 + exponent) bytes, and eighths more."""
    return bytes([flags, exponent << 3 | eighths])


def sized(length, width):
    """The header of a frame that is a single segment, with its size in so many bytes."""
    return bytes([0x20 | {1: 0, 2: 0x40, 4: 0x80, 8: 0xC0}[width]]) + (length - 256 * (width == 2)).to_bytes(width, "little")


def matched(literals, offset_value, length, last=True):
    """A compressed block: fewer than 16 literals, then one match of 3 to 34 or 515 to 1026 bytes. The tables have one symbol
    each, so the bits are those of the offset and of the length alone. Offset values 1 to 3 are repeated offsets, others 3 more
    than the offset."""
    offset_code = offset_value.bit_length() - 1
    length_code, length_bits, base = (45, 9, 515) if length >= 515 else (length - 3, 0, length)
    bits = 1 << offset_code | offset_value - (1 << offset_code)
    bits = bits << length_bits | length - base
    content = bytes([len(literals) << 3]) + literals + bytes([1, 0x54, len(literals), offset_code, length_code])
    content += bits.to_bytes(count(bits.bit_length(), 8), "little")
    return block(COMPRESSED, len(content), content, last)


def good_frames():
    """What decodes: what it is, packed, prefix, plain. A prefix that is a number is that many painted bytes. All of them keep
    to RFC 8878: no block is longer than the window, and no match goes further back than it, but into the prefix."""
    piece, sevens, small = paint(0, KIB), b"\7" * 1000, window(0)
    yield "a raw block of one byte", small + raw(b"a"), b"", b"a"
    yield "a raw block of a piece", small + raw(piece), b"", piece
    yield "an RLE block", small + rle(KIB), b"", b"\7" * KIB
    yield "a raw block, with a prefix that it does not need", small + raw(piece), 3 * KIB, piece
    yield "raw and RLE blocks", small + raw(b"abc", False) + rle(9, False, 0) + raw(b"", False) + rle(1), b"", (
        b"abc" + bytes(9) + b"\7")
    yield "an empty last block", small + rle(1000, False) + raw(b""), b"", sevens
    yield "an empty RLE block", small + rle(0, False) + rle(1000), b"", sevens
    yield "a single segment, its size in 1 byte", sized(255, 1) + rle(255), b"", b"\7" * 255
    for width in (2, 4, 8):
        yield f"a single segment, its size in {width} bytes", sized(1000, width) + rle(1000), b"", sevens
    yield "a size, not a single segment", window(0, flags=0x40) + bytes([0xE8, 2]) + rle(1000), b"", sevens
    yield "the unused bit", window(0, flags=0x10) + rle(1000), b"", sevens
    yield "a window of 1 MiB", window(10) + rle(1000), b"", sevens
    yield "a window of 960 KiB", window(9, 7) + rle(1000), b"", sevens
    eight = b"".join(rle(BLOCK_MAX, n == 7) for n in range(8))
    yield "a frame of 1 MiB", window(10) + eight, b"", b"\7" * FRAME
    yield "a frame of 1 MiB as a single segment", sized(FRAME, 4) + eight, b"", b"\7" * FRAME
    far = raw(piece, False) + b"".join(rle(BLOCK_MAX - 2 * KIB * (n == 0), False) for n in range(8))
    yield "a match almost 1 MiB back", window(10) + far + matched(b"", FRAME - KIB + 3, KIB), b"", (
        piece + b"\7" * (FRAME - 2 * KIB) + piece)
    yield "a match of itself", small + matched(b"ab", 2 + 3, 1000), b"", b"ab" * 501
    yield "a repeated offset of 1", small + matched(b"a", 1, 1000), b"", b"a" * 1001
    yield "a match into an earlier block", small + raw(b"abcd", False) + matched(b"", 4 + 3, 8), b"", b"abcd" * 3
    yield "a match of all of the prefix", small + matched(b"", KIB + 3, KIB), KIB, piece
    yield "a match of the first bytes of the longest prefix", small + matched(b"", 63 * KIB + 3, KIB), 63 * KIB, piece
    yield "literals, and a match of the first bytes of the prefix", small + matched(b"abc", KIB + 3 + 3, 1021), KIB, (
        b"abc" + piece[:1021])
    yield "a match that runs from the prefix into itself", small + matched(b"", 8 + 3, KIB), KIB, piece[-8:] * 128
    yield "a match into the prefix from a later block", small + rle(10, False) + matched(b"", KIB + 10 + 3, 520), KIB, (
        b"\7" * 10 + piece[:520])
    of_dictionary = bytes.fromhex("37a430ec") + b"\1\0\0\0" + bytes(24)
    yield "a prefix that begins like a dictionary", small + matched(b"", 32 + 3, 32), of_dictionary, of_dictionary
    yield "all kinds of tables, made by libzstd", PACKED_LINES, b"", LINES[:700]
    yield "the same of a piece with a prefix", PACKED_PIECE, LINES[:KIB], LINES[KIB:2 * KIB]


def bad_headers():
    """What does not decode to `length` bytes: what it is, packed, prefix, length. Without its fault it would."""
    good = rle(1000)
    yield "a window of 1 MiB and an eighth", window(10, 1) + good, b"", 1000
    yield "a window of 2 MiB", window(11) + good, b"", 1000
    yield "the largest window", window(31, 7) + good, b"", 1000
    yield "a window of 2 MiB, and a size of 1000", window(11, flags=0x40) + bytes([0xE8, 2]) + good, b"", 1000
    yield "a single segment of 2^60 bytes", sized(1 << 60, 8) + good, b"", 1000
    yield "a checksum, which is right", window(0, flags=4) + good + CHECKSUM_OF_SEVENS, b"", 1000
    yield "a checksum that is not there", window(0, flags=4) + good, b"", 1000
    for flag, width in ((1, 1), (2, 2), (3, 4)):
        yield f"a dictionary ID of {width} bytes", window(0, flags=flag) + b"\1\2\3\4"[:width] + good, b"", 1000
    yield "a dictionary ID of 0", window(0, flags=1) + b"\0" + good, b"", 1000
    yield "the reserved bit", window(0, flags=8) + good, b"", 1000
    yield "the magic number in front", ZSTD_MAGIC + window(0) + good, b"", 1000
    yield "a skippable frame in front", bytes.fromhex("502a4d1800000000") + window(0) + good, b"", 1000
    yield "a skippable frame alone", bytes.fromhex("502a4d1800000000"), b"", 1000
    for what, size in (("less", 999), ("more", 1001)):
        yield f"a size of one byte {what} than there are", sized(size, 2) + rle(500, False) + rle(500), b"", 1000


def bad_ends_of_frames():
    frame = window(0) + raw(b"abc", False) + rle(997)
    yield "no byte", b"", b"", 1000
    for cut in (1, 2, 3, 5, 6, 8, 11, len(frame) - 1):
        yield f"{cut} bytes of {len(frame)}", frame[:cut], b"", 1000
    yield "no last block", window(0) + rle(1000, False), b"", 1000
    yield "a byte more", frame + b"\0", b"", 1000
    yield "the frame twice, for one", frame + frame, b"", 1000
    yield "two frames for both", window(0) + rle(500) + ZSTD_MAGIC + window(0) + rle(500), b"", 1000
    yield "two frames for both, without a magic number", window(0) + rle(500) + window(0) + rle(500), b"", 1000
    yield "a skippable frame behind it", frame + bytes.fromhex("502a4d1800000000"), b"", 1000
    yield "a byte too many", window(0) + rle(1001), b"", 1000
    yield "a byte too few", window(0) + rle(999), b"", 1000
    yield "a byte too many, in a block of its own", window(0) + rle(1000, False) + rle(1), b"", 1000
    yield "nothing in it", window(0) + raw(b""), b"", 1


def bad_blocks():
    small = window(0)
    yield "a reserved block type", small + block(RESERVED, 1, b"a"), b"", 1
    yield "a reserved block type, of no bytes, behind all others", small + rle(1000, False) + block(RESERVED, 0), b"", 1000
    yield "a raw block that is longer than the frame", small + block(RAW, 1000, bytes(999)), b"", 1000
    yield "a block of 128 KiB for a piece", window(10) + rle(BLOCK_MAX), b"", KIB
    yield "an RLE bomb for a piece", window(10) + rle(BLOCK_MAX, False) * 100 + rle(BLOCK_MAX), b"", KIB
    yield "an RLE bomb for a frame", window(10) + rle(BLOCK_MAX, False) * 100 + rle(BLOCK_MAX), b"", FRAME
    yield "a byte more than 1 MiB", window(10) + rle(BLOCK_MAX, False) * 8 + rle(1), b"", FRAME
    yield "a match one byte before the prefix", small + matched(b"", KIB + 1 + 3, KIB), KIB, KIB
    yield "literals, and a match one byte before the prefix", small + matched(b"abc", KIB + 3 + 1 + 3, 1021), KIB, KIB
    yield "a match one byte before the longest prefix", small + matched(b"", 63 * KIB + 1 + 3, KIB), 63 * KIB, KIB
    yield "a match far before the prefix", small + matched(b"", (1 << 20) + 3, KIB), KIB, KIB
    yield "a match without any byte before it", small + matched(b"", 1 + 3, KIB), b"", KIB
    yield "a match one byte before the first one", small + matched(b"ab", 3 + 3, 1000), b"", 1002
    yield "a piece without its prefix", PACKED_PIECE, b"", KIB


def frame_vector(what, packed, prefix, length, plain):
    before = paint(0, prefix) if isinstance(prefix, int) else prefix
    if unpack(packed, before, length) != plain:
        raise SystemExit(f"pack vector {what!r}: it does not give what it should")
    made = {"what": what, "packed": packed.hex(), "prefix": prefix if isinstance(prefix, int) else prefix.hex(), "length": length}
    if plain is None or length < 2000:
        return made | {"plain": plain and plain.hex()}
    return made | {"plain_blake3": blake3(plain).hex()}


def frame_vectors():
    for what, packed, prefix, plain in good_frames():
        yield frame_vector(what, packed, prefix, len(plain), plain)
    for cases in (bad_headers, bad_ends_of_frames, bad_blocks):
        for what, packed, prefix, length in cases():
            yield frame_vector(what, packed, prefix, length, None)


def pack_vectors():
    return {"indices": list(accepted_vectors()), "refused": list(refused_vectors()), "frames": list(frame_vectors())}
