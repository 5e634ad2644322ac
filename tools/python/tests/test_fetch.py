"""Fetching, verifying, making manifests; errors and signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import BLOCK, Origin, painted, program

import sapwood


def python(code: str, *words: object) -> subprocess.Popen[str]:
    """A process of this Python, which is interrupted by Ctrl-C even if this one is not."""
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + textwrap.dedent(code)
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_fetch_is_whole_and_tells_its_events(put: Callable[..., Path], server: str, tmp_path: Path) -> None:
    content = painted(40 * BLOCK + 5)
    put("object", content)
    events: list[dict[str, Any]] = []
    published = sapwood.fetch(server + "object", tmp_path / "here", on_event=events.append)
    assert (tmp_path / "here").read_bytes() == content
    assert published["trust"] == "manifest" and published["bytes_total"] == len(content)
    assert published == {**events[-1], "time_ms": published["time_ms"]}
    # The fields are those of the program.
    lines = program("fetch", "--json", "--no-store", server + "object", "-o", tmp_path / "there").splitlines()
    theirs = {event["event"]: event for event in map(json.loads, lines)}
    for event in events:
        assert event.keys() == theirs[event["event"]].keys()
    assert {"planned", "blocks_verified", "published"} <= {event["event"] for event in events}


def test_a_fetch_goes_on_after_ctrl_c(put: Callable[..., Path], server: str, tmp_path: Path) -> None:
    content, here = painted(64 * BLOCK), tmp_path / "here"
    put("object", content)
    fetching = python(
        """
        import sys, sapwood
        def tell(event):
            if event["event"] == "blocks_verified":
                print(event["count"], flush=True)
        sapwood.fetch(sys.argv[1], sys.argv[2], on_event=tell, limit_rate=1_000_000)
        """,
        server + "object",
        here,
    )
    with fetching:
        assert fetching.stdout and fetching.stderr
        arrived = 0
        while arrived < 8:
            arrived += int(fetching.stdout.readline())
        began = time.monotonic()
        fetching.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in fetching.stderr.read()
        assert time.monotonic() < began + 10
    assert not here.exists() and here.with_name("here.part").exists()
    published = sapwood.fetch(server + "object", here)
    assert here.read_bytes() == content
    assert published["bytes_resumed"] >= 8 * BLOCK
    assert published["bytes_fetched"] < len(content)


def test_a_flipped_bit_is_never_published(put: Callable[..., Path], origin: Origin, tmp_path: Path) -> None:
    put("object", painted(9 * BLOCK))
    origin.flipped["object"] = 3 * BLOCK + 7
    with pytest.raises(sapwood.NotProven) as raised:
        sapwood.fetch(origin.url + "object", tmp_path / "here")
    assert raised.value.exit == 3 and raised.value.fields["block"] == 3
    assert not (tmp_path / "here").exists()
    # A server that is well again has only the rest to send.
    origin.flipped.clear()
    assert sapwood.fetch(origin.url + "object", tmp_path / "here")["bytes_resumed"] > 0


def test_what_on_event_raises_ends_the_fetch(put: Callable[..., Path], server: str, tmp_path: Path) -> None:
    put("object", painted(4 * BLOCK))

    def stop(event: dict[str, Any]) -> None:
        raise LookupError(event["event"])

    with pytest.raises(LookupError):
        sapwood.fetch(server + "object", tmp_path / "here", on_event=stop)
    assert not (tmp_path / "here").exists()

    def again(_: dict[str, Any]) -> None:
        sapwood.fetch(server + "object", tmp_path / "there")

    with pytest.raises(sapwood.Usage, match="on_event"):
        sapwood.fetch(server + "object", tmp_path / "here", on_event=again)


def test_other_threads_run_while_a_fetch_does(put: Callable[..., Path], server: str, tmp_path: Path) -> None:
    put("object", painted(16 * BLOCK))
    fetching = threading.Thread(
        target=sapwood.fetch, args=(server + "object", tmp_path / "here"), kwargs={"limit_rate": 1_000_000}
    )
    fetching.start()
    turns = 0
    while fetching.is_alive():
        turns += 1
        time.sleep(0.01)
    assert turns > 10


def test_errors_have_classes_with_exit_codes(put: Callable[..., Path], server: str, tmp_path: Path) -> None:
    put("object", b"x" * 9)
    url, here = server + "object", tmp_path / "here"
    for exit, exception, call in [
        (1, sapwood.NotFound, lambda: sapwood.fetch(server + "nothing", here)),
        (1, FileNotFoundError, lambda: sapwood.open(server + "nothing")),
        (2, ValueError, lambda: sapwood.fetch("no url", here)),
        (2, sapwood.Usage, lambda: sapwood.fetch("s3://bucket/key", here)),
        (2, sapwood.Usage, lambda: sapwood.fetch(url, here, root="abc")),
        (2, sapwood.Usage, lambda: sapwood.fetch(url, here, patience=-1)),
        (3, sapwood.NotProven, lambda: sapwood.fetch(url, here, root="0" * 64)),
        (3, sapwood.NotProven, lambda: sapwood.fetch(url, here, require="signed")),
        (6, sapwood.Unsafe, lambda: sapwood.fetch("ftp://127.0.0.1/x", here)),
        (6, sapwood.Unsafe, lambda: sapwood.fetch(url, tmp_path / "served/object", no_clobber=True)),
    ]:
        with pytest.raises(exception) as raised:
            call()
        assert isinstance(raised.value, sapwood.Error) and raised.value.exit == exit, raised.value
    with pytest.raises(TypeError, match="colour"):
        sapwood.fetch(url, here, colour="red")
    assert not here.exists()


def test_manifests_are_those_of_the_program(tmp_path: Path) -> None:
    path = tmp_path / "object"
    for length, options, ours in [
        (0, [], {}),
        (5 * BLOCK + 1, [], {}),
        (5 * BLOCK, ["--block-size", "16KiB", "--no-hints", "--digest", "sha-256"], {"block_size": 1 << 14, "hints": False, "digests": ["sha-256"]}),
        (BLOCK, ["--name", "other", "--seq", "7"], {"name": "other", "sequence": 7}),
    ]:
        path.write_bytes(painted(length))
        made = sapwood.manifest(path, **ours)
        assert made["bytes_total"] == length and made["manifest"] == f"{path}.sapwood"
        here = Path(made["manifest"]).read_bytes()
        program("--quiet", "manifest", path, *options)
        # With --seq the program dates a manifest.
        if "sequence" not in ours:
            assert here == Path(made["manifest"]).read_bytes()
        assert json.loads(program("inspect", "--json", path))["root"] == made["root"]


def test_a_damaged_file_does_not_verify(tmp_path: Path) -> None:
    path = tmp_path / "object"
    path.write_bytes(painted(5 * BLOCK))
    with pytest.raises(sapwood.Usage):
        sapwood.verify(path)
    root = sapwood.manifest(path)["root"]
    assert sapwood.verify(path)["trust"] == "manifest"
    assert sapwood.verify(path, root=root)["trust"] == "root"
    assert sapwood.verify(path, manifest=Path(f"{path}.sapwood").read_bytes())["root"] == root
    with open(path, "r+b") as file:
        file.seek(2 * BLOCK)
        file.write(b"?")
    events: list[dict[str, Any]] = []
    with pytest.raises(sapwood.NotProven):
        sapwood.verify(path, on_event=events.append)
    assert [(event["event"], event["block"], event["offset"]) for event in events] == [("damaged", 2, 2 * BLOCK)]
    with pytest.raises(FileNotFoundError):
        sapwood.verify(tmp_path / "nothing")
    with pytest.raises(LookupError):
        sapwood.verify(path, on_event=lambda event: {}[event["event"]])


def test_a_fetched_file_verifies_without_its_manifest(put: Callable[..., Path], server: str, tmp_path: Path) -> None:
    put("object", painted(3 * BLOCK))
    sapwood.fetch(server + "object", tmp_path / "here")
    assert sapwood.verify(tmp_path / "here")["trust"] == "manifest"
    with pytest.raises(sapwood.Usage):
        sapwood.verify(tmp_path / "here", store=False)


@pytest.mark.parametrize("call", ["sapwood.manifest(path)", "sapwood.verify(path, root='0' * 64)"])
def test_ctrl_c_ends_work_on_files(call: str, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, 1 << 40)
    working = python(f"import sys, sapwood; path = sys.argv[1]; print(flush=True); {call}", path)
    with working:
        assert working.stdout and working.stderr
        working.stdout.readline()
        time.sleep(0.3)
        began = time.monotonic()
        working.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in working.stderr.read()
        assert time.monotonic() < began + 10
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["large"]
