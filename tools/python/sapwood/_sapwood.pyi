from collections.abc import Callable
from typing import Any

from ._types import Place

def default_store() -> str | None: ...
def manifest(
    path: Place,
    out: Place | None,
    block_size: int | None,
    digests: list[str],
    hints: bool,
    name: str | None,
    sequence: int,
) -> dict[str, Any]: ...
def verify(
    path: Place,
    on_event: Callable[[dict[str, Any]], object] | None,
    object: dict[str, Any],
    network: dict[str, Any],
    hints: bool,
) -> dict[str, Any]: ...

class Session:
    def __new__(cls, options: dict[str, Any]) -> Session: ...
    def fetch(
        self,
        url: str,
        path: Place,
        on_event: Callable[[dict[str, Any]], object] | None,
        options: dict[str, Any],
    ) -> dict[str, Any]: ...
    def open(self, url: str, options: dict[str, Any]) -> Object: ...
    def options(self) -> dict[str, Any]: ...

class Object:
    url: str
    length: int
    root: str
    trust: str
    block_size: int
    bytes_fetched: int
    process: int
    def read(self, start: int, end: int) -> bytes: ...
    def close(self) -> None: ...
    def cursor(self) -> Cursor: ...

class Cursor:
    def read(self, start: int, length: int) -> bytes: ...
