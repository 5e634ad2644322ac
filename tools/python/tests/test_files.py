"""Files of remote objects, and the file system of fsspec."""

from __future__ import annotations

import concurrent.futures
import io
import json
import os
import pickle
import random
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
from conftest import BLOCK, Origin, painted

import sapwood


def test_files_read_and_seek_as_others_do(put: Callable[..., Path], server: str) -> None:
    content = painted(7 * BLOCK + 100)
    local = io.BytesIO(content)
    put("object", content)
    choose = random.Random(7)
    with sapwood.open(server + "object") as file:
        assert file.size == len(content) and file.readable() and file.seekable() and not file.writable()
        for _ in range(300):
            match choose.randrange(5):
                case 0:
                    offset, whence = choose.choice([(choose.randrange(len(content) + 9), 0), (-choose.randrange(500), 2), (3, 1)])
                    assert file.seek(offset, whence) == local.seek(offset, whence)
                case 1:
                    size = choose.choice([0, 1, 8, 4096, 5000, BLOCK, 3 * BLOCK])
                    assert file.read(size) == local.read(size)
                case 2:
                    ours, theirs = bytearray(choose.randrange(1, 9000)), bytearray()
                    count = file.readinto(ours)
                    theirs = local.read(len(ours))
                    assert ours[:count] == theirs
                case 3:
                    assert local.read(len(data := file.read1(700))) == data
                case 4:
                    assert file.tell() == local.tell()
        assert file.seek(0) == 0 and file.read() == content and file.read() == b"" and file.read1() == b""
        assert file.pread(10, BLOCK - 5) == content[BLOCK - 5 : BLOCK + 5] and file.tell() == len(content)
        with pytest.raises(ValueError):
            file.seek(-1)
    with pytest.raises(ValueError):
        file.read(1)


def test_lines(put: Callable[..., Path], server: str) -> None:
    content = b"".join(b"%d," % number * (number % 90) + b"\n" for number in range(4000)) + b"the end"
    put("lines.csv", content)
    with sapwood.open(server + "lines.csv") as file:
        assert list(file) == list(io.BytesIO(content))
        file.seek(0)
        assert file.readlines(50) == io.BytesIO(content).readlines(50)
        file.seek(0)
        assert [line.encode() for line in io.TextIOWrapper(file, "utf-8", newline="")] == list(io.BytesIO(content))


def test_an_empty_object(put: Callable[..., Path], server: str) -> None:
    put("empty", b"")
    with sapwood.open(server + "empty") as file:
        assert file.size == 0 and file.read() == b"" and file.readline() == b""


def test_a_read_in_the_middle_moves_only_its_blocks(put: Callable[..., Path], origin: Origin) -> None:
    content = painted(400 * BLOCK)
    put("object", content)
    with sapwood.open(origin.url + "object", store=False) as file:
        before = origin.bytes_sent
        file.seek(200 * BLOCK + 10)
        assert file.read(BLOCK) == content[200 * BLOCK + 10 : 201 * BLOCK + 10]
        moved = origin.bytes_sent - before
        # Two blocks, and the page of the manifest that proves them.
        assert 2 * BLOCK <= moved <= 4 * BLOCK, origin.requests
        before = origin.bytes_sent
        file.seek(200 * BLOCK)
        assert file.read(2 * BLOCK) == content[200 * BLOCK : 202 * BLOCK] and origin.bytes_sent == before
        # A few bytes at the end of a block: one block, and no other. On a busy machine it may be requested a second time.
        requested = len(origin.requests)
        file.seek(203 * BLOCK - 100)
        assert file.read(8) == content[203 * BLOCK - 100 : 203 * BLOCK - 92]
        assert set(origin.requests[requested:]) == {f"GET object bytes={202 * BLOCK}-{203 * BLOCK - 1}"}, origin.requests
        assert BLOCK <= origin.bytes_sent - before <= 2 * BLOCK, origin.requests
        assert file.bytes_fetched == origin.bytes_sent
    print(f"{moved} bytes for {BLOCK}, of {len(content)}; with the opening {origin.bytes_sent}")


def test_blocks_of_the_store_are_not_fetched_again(put: Callable[..., Path], origin: Origin) -> None:
    content = painted(20 * BLOCK)
    put("object", content)
    for is_first in [True, False]:
        before = origin.bytes_sent
        with sapwood.open(origin.url + "object") as file:
            assert file.read() == content
        assert (origin.bytes_sent - before > len(content)) == is_first


def test_bytes_that_are_not_proven_are_never_returned(put: Callable[..., Path], origin: Origin) -> None:
    content = painted(20 * BLOCK)
    put("object", content)
    origin.flipped["object"] = 5 * BLOCK
    with sapwood.open(origin.url + "object", store=False) as file:
        with pytest.raises(sapwood.NotProven):
            file.read()
        assert file.tell() == 0
        assert file.read(5 * BLOCK) == content[: 5 * BLOCK]
        with pytest.raises(sapwood.NotProven):
            file.read(1)
        file.seek(6 * BLOCK)
        assert file.read(BLOCK) == content[6 * BLOCK : 7 * BLOCK]
    with pytest.raises(sapwood.NotFound):
        (Path(put("bare", b"x")).with_name("bare.sapwood")).unlink()
        sapwood.open(origin.url + "bare")


def test_pickled_files_are_the_same_version(put: Callable[..., Path], origin: Origin) -> None:
    content = painted(3 * BLOCK)
    put("object", content)
    file = sapwood.open(origin.url + "object", store=False, headers={"X-A": "b"})
    file.seek(100)
    pickled = pickle.dumps(file)
    copy = pickle.loads(pickled)
    assert copy.tell() == 100 and copy.read() == content[100:] and copy.root == file.root
    put("object", painted(3 * BLOCK, seed=2))
    with pytest.raises(sapwood.NotProven):
        pickle.loads(pickled)


def test_threads_share_a_file(put: Callable[..., Path], server: str) -> None:
    content = painted(60 * BLOCK)
    put("object", content)
    with sapwood.open(server + "object") as file, concurrent.futures.ThreadPoolExecutor(8) as pool:
        places = [(9_001 * number) % len(content) for number in range(400)]
        read = pool.map(lambda place: file.pread(5_000, place), places)
        assert list(read) == [content[place : place + 5_000] for place in places]
        # Each read takes what follows the one before, in whichever thread.
        pieces = pool.map(lambda _: file.read(10_000), range(len(content) // 10_000 + 1))
        assert sorted(pieces) == sorted(content[at : at + 10_000] for at in range(0, len(content), 10_000))


def test_a_forked_process_reads_on(put: Callable[..., Path], server: str, tmp_path: Path) -> None:
    content = painted(9 * BLOCK)
    put("object", content)
    with sapwood.open(server + "object") as file:
        assert file.read(10) == content[:10]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            signal.alarm(30)
            os._exit(0 if file.read() == content[10:] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert file.read() == content[10:]


def test_the_file_system(put: Callable[..., Path], origin: Origin, tmp_path: Path) -> None:
    content = painted(5 * BLOCK + 3)
    put("object", content)
    url = "sapwood+" + origin.url + "object"
    fs, path = fsspec.url_to_fs(url)
    assert path == url and fs.info(path)["size"] == len(content) and fs.size(path) == len(content)
    assert fs.exists(path) and fs.isfile(path) and not fs.isdir(path) and not fs.exists(url + "s")
    assert fs.cat_file(path, 10, -10) == content[10:-10] and fs.cat(path) == content and fs.head(path, 5) == content[:5]
    assert fs.ls(path, detail=False) == [path] and fs.checksum(path) == fs.info(path)["root"]
    fs.get(path, str(tmp_path / "here"))
    assert (tmp_path / "here").read_bytes() == content
    with fsspec.open(url) as file:
        assert file.read() == content
    assert pickle.loads(pickle.dumps(fs)).cat_file(path, 0, 3) == content[:3]
    for mode in ["wb", "ab"]:
        with pytest.raises(ValueError), fs.open(path, mode):
            pass
    # Absence is one thing, a lie another.
    strict, _ = fsspec.url_to_fs(url, require="signed")
    with pytest.raises(sapwood.NotProven):
        strict.exists(path)


def test_one_column_of_a_parquet_file(put: Callable[..., Path], origin: Origin) -> None:
    rows, choose = 200_000, random.Random(3)
    columns = {name: pyarrow.array([choose.getrandbits(60) for _ in range(rows)]) for name in "abcdef"}
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer, row_group_size=rows // 4, compression="none", use_dictionary=False)
    put("table.parquet", buffer.getvalue())

    def moved(opens: Callable[[], Any]) -> int:
        """The bytes that the server sent for the column."""
        before = origin.bytes_sent
        with opens() as file:
            column = pyarrow.parquet.read_table(file, columns=["c"])
        assert column.column("c").combine_chunks() == columns["c"]
        return origin.bytes_sent - before

    url = origin.url + "table.parquet"
    plain = moved(lambda: fsspec.open(url))
    proven = moved(lambda: fsspec.open("sapwood+" + url, store=False))
    moved(lambda: sapwood.open(url))
    again = moved(lambda: sapwood.open(url))
    figures = {
        "file": len(buffer.getvalue()), "column": 8 * rows, "fsspec http": plain, "sapwood+http": proven, "the same again": again
    }
    print(json.dumps(figures))
    assert 8 * rows < proven < 8 * rows * 3 // 2 and again < 1 << 17
    # A lie about the column is an error, not a number.
    origin.flipped["table.parquet"] = len(buffer.getvalue()) * 17 // 48
    with pytest.raises(sapwood.NotProven):
        moved(lambda: sapwood.open(url, store=False))
