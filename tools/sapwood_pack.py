#!/usr/bin/env python3
"""A second implementation of packs, written from manifest-spec/pack.md alone.

    sapwood_pack.py make FILE OUT [--level N] [--whole]
                                                    OUT: a manifest with an index, and OUT.pack
    sapwood_pack.py check FILE MANIFEST PACK        a reader that has object and pack
    sapwood_pack.py unpack MANIFEST PACK OUT [--object FILE]
                                                    what is packed from its frames, the rest from FILE

Ends with 3 when something is refused. zstd is the library of the system (libzstd.so.1), through its stable functions.
"""
import ctypes, struct
from dataclasses import dataclass
from itertools import accumulate
from sapwood_ref import (
    KIB, SECTIONS_AT, SIGNATURE, Commands, Refused, Section, blake3, check_statement, default_block_size, encode_header,
    file_regions, read_bytes, read_manifest, scan, seal, write_bytes, write_manifest)

MAGIC, ZSTD_MAGIC = b"\x89SAPPACK", bytes.fromhex("28b52ffd")
CLUSTER, FRAME, PAGE_FRAMES = 64 * KIB, 1024 * KIB, 64
PACK = 4
WINDOW_BITS = 20
FRONT = struct.Struct("<8sHB5sQQ32s")
HEAD = struct.Struct("<B7sQ32s")

# Parameters and the reset of a context (zstd.h).
LEVEL, WINDOW_LOG, CONTENT_SIZE, CHECKSUM, DICTIONARY_ID, WINDOW_LOG_MAX = 100, 101, 200, 201, 202, 100


def library():
    zstd = ctypes.CDLL("libzstd.so.1")
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    for name, result, arguments in (
            ("ZSTD_createCCtx", pointer, []), ("ZSTD_createDCtx", pointer, []), ("ZSTD_freeCCtx", size, [pointer]),
            ("ZSTD_freeDCtx", size, [pointer]), ("ZSTD_CCtx_setParameter", size, [pointer, ctypes.c_int, ctypes.c_int]),
            ("ZSTD_DCtx_setParameter", size, [pointer, ctypes.c_int, ctypes.c_int]),
            ("ZSTD_CCtx_refPrefix", size, [pointer, ctypes.c_char_p, size]),
            ("ZSTD_DCtx_refPrefix", size, [pointer, ctypes.c_char_p, size]),
            ("ZSTD_compress2", size, [pointer, pointer, size, ctypes.c_char_p, size]),
            ("ZSTD_decompressDCtx", size, [pointer, pointer, size, ctypes.c_char_p, size]),
            ("ZSTD_findFrameCompressedSize", size, [ctypes.c_char_p, size]),
            ("ZSTD_compressBound", size, [size]), ("ZSTD_isError", ctypes.c_uint, [size])):
        function = getattr(zstd, name)
        function.restype, function.argtypes = result, arguments
    return zstd


zstd = library()


def window_of(frame):
    """The window that the header of a frame asks for, by hand (RFC 8878, 3.1.1.1); None: the header breaks a rule of ours."""
    flags = frame[0]
    if flags & 0b1111:                                      # dictionary ID, checksum, the reserved bit
        return None
    single, size_flag = flags >> 5 & 1, flags >> 6
    size = (1 if single else 0) if size_flag == 0 else 1 << size_flag
    if len(frame) < 1 + (not single) + size:
        return None
    if not single:
        exponent, mantissa = frame[1] >> 3, frame[1] & 7
        base = 1 << (10 + exponent)
        return base + base // 8 * mantissa
    return int.from_bytes(frame[1:1 + size], "little") + (256 if size == 2 else 0)


def unpack(frame, prefix, length):
    """The plain bytes of a packed frame or piece, or None: it is bad (4)."""
    window = window_of(frame) if frame else None
    if window is None or window > 1 << WINDOW_BITS:
        return None
    data = ZSTD_MAGIC + frame
    if zstd.ZSTD_findFrameCompressedSize(data, len(data)) != len(data):
        return None
    context = zstd.ZSTD_createDCtx()
    try:
        zstd.ZSTD_DCtx_setParameter(context, WINDOW_LOG_MAX, WINDOW_BITS)
        zstd.ZSTD_DCtx_refPrefix(context, prefix, len(prefix))
        room = ctypes.create_string_buffer(length + 1)
        made = zstd.ZSTD_decompressDCtx(context, room, length + 1, data, len(data))
        return room.raw[:length] if made == length else None
    finally:
        zstd.ZSTD_freeDCtx(context)


class Compressor:
    def __init__(self, level):
        self.context = zstd.ZSTD_createCCtx()
        for parameter, value in ((LEVEL, level), (WINDOW_LOG, WINDOW_BITS), (CONTENT_SIZE, 0), (CHECKSUM, 0), (DICTIONARY_ID, 0)):
            assert not zstd.ZSTD_isError(zstd.ZSTD_CCtx_setParameter(self.context, parameter, value))
        self.room = ctypes.create_string_buffer(zstd.ZSTD_compressBound(FRAME))

    def pack(self, prefix, data):
        zstd.ZSTD_CCtx_refPrefix(self.context, prefix, len(prefix))
        made = zstd.ZSTD_compress2(self.context, self.room, len(self.room), data, len(data))
        assert not zstd.ZSTD_isError(made)
        return self.room.raw[len(ZSTD_MAGIC):made]


# ---- The file and the index (2, 3) ----------------------------------------------------------------------------------

def parts_of(data, size):
    return [data[at:at + size] for at in range(0, len(data), size)]


def count(length, size):
    return -(-length // size)


def page_sizes(length):
    """The frames and the clusters of each page."""
    frames, clusters = count(length, FRAME), count(length, CLUSTER)
    each = PAGE_FRAMES * FRAME // CLUSTER
    return [(min(PAGE_FRAMES, frames - PAGE_FRAMES * page), min(each, clusters - each * page))
            for page in range(count(frames, PAGE_FRAMES))]


def table_end(length):
    return FRONT.size + 2 * count(length, KIB)


@dataclass
class Index:
    length: int             # of the pack
    blake3: bytes
    frames: list            # lengths of the packed frames
    clusters: list          # sums of the packed pieces


def write_index(length, pack_length, pack_hash, frames, clusters):
    data = HEAD.pack(1, bytes(7), pack_length, pack_hash)
    at, pieces_at = table_end(length), table_end(length) + sum(frames)
    for m, k in page_sizes(length):
        data += struct.pack(f"<QQ{m}I{k}H", at, pieces_at, *frames[:m], *clusters[:k])
        at, pieces_at, frames, clusters = at + sum(frames[:m]), pieces_at + sum(clusters[:k]), frames[m:], clusters[k:]
    return data


def read_index(data, length):
    """An index that is well-formed (4, rules a to e); None: it has a codec that is not known here."""
    if data[:1] and data[0] != 1:
        return None
    sizes = page_sizes(length)
    if length == 0 or len(data) != HEAD.size + sum(16 + 4 * m + 2 * k for m, k in sizes):
        raise Refused("a", f"an index of {len(data)} bytes")
    _, zeros, pack_length, pack_hash = HEAD.unpack_from(data)
    if any(zeros):
        raise Refused("a", "bytes 1 - 7 are not zero")
    index, starts, at = Index(pack_length, pack_hash, [], []), [], HEAD.size
    for m, k in sizes:
        numbers = struct.unpack_from(f"<QQ{m}I{k}H", data, at)
        starts.append(numbers[:2])
        index.frames += numbers[2:2 + m]
        index.clusters += numbers[2 + m:]
        at += 16 + 4 * m + 2 * k
    for f, packed in enumerate(index.frames):
        if packed > min(FRAME, length - f * FRAME) + 64:
            raise Refused("e", f"frame {f} is too long")
    for c, packed in enumerate(index.clusters):
        if packed > 1023 * count(min(CLUSTER, length - c * CLUSTER), KIB):
            raise Refused("e", f"the pieces of cluster {c} are not shorter packed")
    expected = table_end(length), table_end(length) + sum(index.frames)
    for page, ((m, k), start) in enumerate(zip(sizes, starts, strict=True)):
        if start != expected:
            raise Refused("c" if page else "b", f"page {page} begins at {start}, not at {expected}")
        f, c = page * PAGE_FRAMES, page * PAGE_FRAMES * FRAME // CLUSTER
        expected = expected[0] + sum(index.frames[f:f + m]), expected[1] + sum(index.clusters[c:c + k])
    if expected[1] != index.length:
        raise Refused("d", f"the last piece ends at {expected[1]}, the pack at {index.length}")
    return index


def index_of(manifest):
    header = check_statement(manifest)
    for section in header.sections:
        if section.kind == PACK:
            data = manifest[section.offset:section.offset + section.length]
            if blake3(data) != section.blake3:
                raise Refused(12, "the index does not match its hash")
            return header, read_index(data, header.length)
    return header, None


def slices(lengths, start):
    """Where parts of these lengths lie back to back."""
    ends = list(accumulate(lengths, initial=start))
    return [slice(*pair) for pair in zip(ends, ends[1:], strict=False)]


# ---- Readers and the writer (4, 5) ----------------------------------------------------------------------------------

def check(data, root, index, pack):
    """What a reader that has object and pack refuses, the index being well-formed."""
    if len(pack) != index.length or blake3(pack) != index.blake3:
        raise Refused(0, "length or BLAKE3 of the pack")
    if pack[:FRONT.size] != FRONT.pack(MAGIC, 1, 1, bytes(5), len(data), 0, root):
        raise Refused(0, "the front of the pack")
    table = struct.unpack_from(f"<{count(len(data), KIB)}H", pack, FRONT.size)
    if [sum(some) for some in parts_of(table, CLUSTER // KIB)] != index.clusters:
        raise Refused(0, "the table is not that of the clusters")
    for f, (place, plain) in enumerate(zip(slices(index.frames, table_end(len(data))), parts_of(data, FRAME), strict=True)):
        if index.frames[f] and unpack(pack[place], b"", len(plain)) != plain:
            raise Refused(0, f"frame {f}")
    places = slices(table, table_end(len(data)) + sum(index.frames))
    for p, (place, plain) in enumerate(zip(places, parts_of(data, KIB), strict=True)):
        before = data[p * KIB // CLUSTER * CLUSTER:p * KIB]
        if table[p] >= len(plain) or (table[p] and unpack(pack[place], before, len(plain)) != plain):
            raise Refused(0, f"piece {p}")


def command_check(a):
    data, manifest = read_bytes(a.file), read_bytes(a.manifest)
    read_manifest(manifest)
    header, index = index_of(manifest)
    if index is None:
        raise Refused(0, "the manifest has no index of a pack")
    if len(data) != header.length:
        raise Refused(0, "the object has another length")
    check(data, header.root, index, read_bytes(a.pack))
    print(f"{len(data)} bytes; packed frames {sum(index.frames)}, packed pieces {sum(index.clusters)}")


def command_unpack(a):
    header, index = index_of(read_bytes(a.manifest))
    pack, plain = read_bytes(a.pack), read_bytes(a.object) if a.object else None
    out = []
    for f, place in enumerate(slices(index.frames, table_end(header.length))):
        start = f * FRAME
        length = min(FRAME, header.length - start)
        frame = unpack(pack[place], b"", length) if index.frames[f] else plain and plain[start:start + length]
        if frame is None:
            raise Refused(0, f"frame {f} is bad, or not packed: --object")
        out.append(frame)
    data = b"".join(out)
    if blake3(data) != header.root:
        raise Refused(0, "the frames are not those of the object")
    write_bytes(a.out, data)


def command_make(a):
    data = read_bytes(a.file)
    facts = scan(file_regions(a.file), default_block_size(len(data)), True)
    manifest = write_manifest(facts)
    compressor = Compressor(a.level)
    frames, table, pieces = [], [], []
    for plain in parts_of(data, FRAME):
        packed = compressor.pack(b"", plain)
        saves = len(packed) <= len(plain) - len(plain) // 32 and len(packed) < len(plain)
        frames.append(packed if saves or a.whole else b"")
    for cluster in parts_of(data, CLUSTER):
        for at in range(0, len(cluster), KIB):
            packed = compressor.pack(cluster[:at], cluster[at:at + KIB])
            pieces.append(packed if len(packed) < len(cluster[at:at + KIB]) else b"")
            table.append(len(pieces[-1]))
    moved = sum(len(packed) or len(plain) for packed, plain in zip(frames, parts_of(data, FRAME), strict=True))
    if not (a.whole and data or moved < len(data) - len(data) // 32):
        write_bytes(a.out, manifest)
        return
    pack = FRONT.pack(MAGIC, 1, 1, bytes(5), len(data), 0, facts.root) + struct.pack(f"<{len(table)}H", *table)
    pack += b"".join(frames) + b"".join(pieces)
    clusters = [sum(some) for some in parts_of(table, CLUSTER // KIB)]
    index = write_index(len(data), len(pack), blake3(pack), [len(frame) for frame in frames], clusters)
    header = check_statement(manifest)
    header.sections.append(Section(PACK, 0, len(manifest), len(index), blake3(index)))
    write_bytes(f"{a.out}.pack", pack)
    write_bytes(a.out, seal(encode_header(header)) + bytes(SIGNATURE) + manifest[SECTIONS_AT:] + index)


def main():
    commands = Commands(__doc__)
    commands.add("check", command_check, "file", "manifest", "pack")
    commands.add("unpack", command_unpack, "manifest", "pack", "out").add_argument("--object")
    make = commands.add("make", command_make, "file", "out")
    make.add_argument("--level", type=int, default=9)
    make.add_argument("--whole", action="store_true")
    commands.main()


if __name__ == "__main__":
    main()
