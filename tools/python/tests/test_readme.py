"""The examples of the README run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from conftest import painted


def test_the_examples_run(
    put: Callable[..., Path], served: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"b": [1, 2], "c": [3, 4]}), served / "table.parquet")
    put("table.parquet", (served / "table.parquet").read_bytes())
    put("talk.mp4", painted(300_000))
    monkeypatch.chdir(tmp_path)
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    examples = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert len(examples) == 6
    names: dict[str, object] = {}
    for example in examples:
        exec(example.replace("https://media.example/", server), names)
    assert Path("talk.mp4").read_bytes() == Path("copy.mp4").read_bytes() == painted(300_000)
    assert names["end"] == painted(300_000)[-8:]
