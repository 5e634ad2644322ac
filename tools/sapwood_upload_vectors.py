"""The test vectors of uploads (fixtures/vectors/uploads.json), made with sapwood_upload.py; sapwood_vectors.py writes them."""
import hashlib, struct, uuid
from sapwood_ref import CELL, Refused, blake3, paint, painted_regions, scan
from sapwood_upload import HEADER, PART_MAX, Plan, read_record, write_record

SESSION = uuid.UUID("9b2f6c1e-5d0a-4c3b-8f7e-2a1b3c4d5e6f")
SIZE, GROUP_BYTES = 8 << 20, 5000 * (8 << 20)
# Painted objects: length, block size, index and range of a part.
PARTS = [(0, CELL, 0, 0, 0), (1, CELL, 0, 0, 1), (CELL, CELL, 0, 0, CELL), (CELL + 1, CELL, 0, 0, CELL),
         (CELL + 1, CELL, 1, CELL, CELL + 1), (3 * CELL + 1025, CELL, 0, 0, 3 * CELL + 1025),
         (5 * CELL + 40, CELL, 9999, 3 * CELL, 5 * CELL + 40), (300 * CELL + 7, 2 * CELL, 1, 100 * CELL, 300 * CELL + 7)]
PLANS = [(0, None, None), (1, None, None), (SIZE, None, None), (SIZE + 1, None, None), (10_000 * SIZE, None, None),
         (10_000 * SIZE + 1, None, None), (1 << 45, None, None), (100 << 30, 5 << 20, None), (12 << 20, 5 << 20, CELL),
         (1 << 30, 16 << 20, 1 << 24), (None, None, None), (None, 5 << 20, CELL), (None, 3 << 30, 1 << 24)]
LATER = [0, 1, SIZE, SIZE + 1, GROUP_BYTES, GROUP_BYTES + 1, 3 * GROUP_BYTES, 3 * GROUP_BYTES + 5]
REFUSED_PLANS = [(1, (5 << 20) - CELL, CELL), (1, (5 << 20) + 1, CELL), (1, PART_MAX + CELL, CELL), (None, 1 << 24, 1 << 24),
                 (10_000 * PART_MAX + 1, None, None), ((1 << 24) * CELL + 1, None, CELL)]


def record_of(length, block_size, index, start, end):
    sha256 = hashlib.sha256(paint(start, end)).digest()
    return write_record(scan(painted_regions(length), block_size), sha256, SESSION, index, start, end)


def sealed(data):
    return data + blake3(data)


def is_refused(data):
    try:
        read_record(data)
    except Refused:
        return True
    return False


def changed():
    """What is refused although its hash is right, or because it is not."""
    data = record_of(1, CELL, 0, 0, 1)
    later = record_of(CELL + 1, CELL, 1, CELL, CELL + 1)
    body, empty = data[:-32], record_of(0, CELL, 0, 0, 0)[:-32]

    def patched(at, new, of=body):
        return sealed(of[:at] + new + of[at + len(new):])

    yield "another hash", data[:-1] + bytes([data[-1] ^ 1])
    yield "a byte is missing", data[:-1]
    yield "a byte too many", data + b"\0"
    yield "only the header", data[:HEADER.size]
    yield "another magic", patched(0, b"\x88")
    yield "the magic of a part of a manifest", patched(0, b"\x89SAPWPRT")
    yield "version 2", patched(8, b"\2")
    yield "flags of 2", patched(10, b"\2")
    yield "a block size of 16385", patched(12, b"\1")
    yield "a start that is no multiple of the block size", patched(16, b"\1", later[:-32])
    yield "a start of 0 with index 1", patched(16, bytes(8), later[:-32])
    yield "index 0 with another start", patched(32, bytes(4), later[:-32])
    yield "the whole object with index 1", patched(10, b"\1", later[:-32])
    yield "no bytes, not the whole object", patched(10, b"\0", empty)
    yield "index 10000", patched(32, struct.pack("<I", 10_000), later[:-32])
    yield "a length over 4 GiB", patched(24, struct.pack("<Q", PART_MAX + 1))
    yield "an end over 2^64", patched(16, struct.pack("<Q", (1 << 64) - CELL) + struct.pack("<Q", PART_MAX), later[:-32])
    yield "a session of version 1", patched(46, b"\x1c")
    yield "a session of another variant", patched(48, b"\xcf")
    for at in (36, 39, 88, 95):
        yield f"byte {at} is not zero", patched(at, b"\1")
    yield "an anchor of a block of one byte", patched(HEADER.size + 32, bytes(8))


def plan_vector(length, part_size, block_size):
    plan = Plan(length, part_size, block_size)
    parts = plan.parts()
    some = sorted({0, 1, 999, 4999, 5000, 5001, 5500, len(parts) - 2, len(parts) - 1} & set(range(len(parts))))
    return {"length": length, "asked": [part_size, block_size], "part_size": plan.part_size, "block_size": plan.block_size,
            "length_max": plan.length_max(), "count": len(parts), "parts": [[i, *parts[i]] for i in some]}


def upload_vectors():
    records, refused = [], []
    for length, block_size, index, start, end in PARTS:
        data = record_of(length, block_size, index, start, end)
        entry = {"length": length, "record_blake3": blake3(data).hex()} | read_record(data)
        records.append(entry | ({"record": data.hex()} if len(data) < 2000 else {}))
    for what, data in changed():
        if not is_refused(data):
            raise SystemExit(f"the record with {what} is accepted")
        refused.append({"what": what, "record": data.hex()})
    unknown = []
    for length in LATER:
        plan = Plan(None)
        plan.length = length
        parts = plan.parts()
        unknown.append({"length": length, "count": len(parts), "last": list(parts[-1])})
    for plan in REFUSED_PLANS:
        try:
            Plan(*plan)
        except Refused:
            continue
        raise SystemExit(f"the plan {plan} is accepted")
    return {"records": records, "refused": refused, "plans": [plan_vector(*plan) for plan in PLANS],
            "known_later": unknown, "refused_plans": [list(plan) for plan in REFUSED_PLANS]}
