"""A file system of fsspec: ``sapwood+https://`` and ``sapwood+http://``, of proven bytes only."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.callbacks import DEFAULT_CALLBACK, Callback

from . import _sapwood
from ._options import object_options, settings, target_options
from .errors import NotFound
from .files import File

_PREFIX = "sapwood+"
_FRESH_S = 5.0
"""So long the last object is kept open: who asks for the size of a file opens it next."""


class SapwoodFileSystem(AbstractFileSystem):
    """Objects of web servers that have manifests, read only.

    Paths are URLs with ``sapwood+`` before them. ``require``, ``key`` and ``mirrors``, and the options of requests, are those of
    :func:`sapwood.open`; they hold for all paths. There is no list of what a server has: ``ls`` knows single files.
    """

    protocol = ("sapwood+https", "sapwood+http")
    root_marker = ""

    def __init__(
        self,
        *,
        require: str | None = None,
        key: str | None = None,
        max_size: int | None = None,
        connections: int | None = None,
        limit_rate: int | None = None,
        headers: dict[str, str] | None = None,
        netrc: bool | str = False,
        cacert: str | None = None,
        proxy: str | None = None,
        connect_timeout: float | None = None,
        patience: float | None = None,
        tries: int | None = None,
        allow_private: bool = False,
        store: bool | str = True,
        **storage_options: Any,
    ) -> None:
        super().__init__(**storage_options)
        self._options = object_options(require=require, key=key, max_size=max_size)
        self._session = _sapwood.Session(
            settings(
                {
                    "connections": connections,
                    "limit_rate": limit_rate,
                    "headers": headers,
                    "netrc": netrc,
                    "cacert": cacert,
                    "proxy": proxy,
                    "connect_timeout": connect_timeout,
                    "patience": patience,
                    "tries": tries,
                    "allow_private": allow_private,
                    "store": store,
                }
            )
        )
        self._last: tuple[float, str, _sapwood.Object] | None = None
        self._opening = threading.Lock()

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        """A path is a whole URL."""
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        return path

    @classmethod
    def _parent(cls, path: str) -> str:
        return path.rstrip("/").rsplit("/", 1)[0]

    def _object(self, path: str) -> _sapwood.Object:
        """The object of a path; the one that was opened just now, if it was this one."""
        with self._opening:
            match self._last:
                case (at, last_path, last) if (
                    last_path == path and last.process == os.getpid() and time.monotonic() < at + _FRESH_S
                ):
                    return last
            opened = self._session.open(_url(path), self._options)
            self._last = (time.monotonic(), path, opened)
            return opened

    def _open(self, path: str, mode: str = "rb", **_: Any) -> File:
        if mode not in ("rb", "r"):
            raise ValueError(f"{path}: files are read only, so that there is no mode {mode!r}")
        return File(_url(path), self._options, self._session, opened=self._object(path))

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """The length, the root and the trust of a file."""
        found = self._object(path)
        return {"name": path, "size": found.length, "type": "file", "root": found.root, "trust": found.trust}

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        found = self.info(path)
        return [found] if detail else [path]

    def exists(self, path: str, **_: Any) -> bool:
        try:
            self.info(path)
        except NotFound:
            return False
        return True

    def isfile(self, path: str) -> bool:
        return self.exists(path)

    def isdir(self, path: str) -> bool:
        return False

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        found = self._object(path)
        first, last, _step = slice(start, end).indices(found.length)
        return found.read(first, max(first, last))

    def get_file(self, rpath: str, lpath: Any, callback: Callback = DEFAULT_CALLBACK, **_: Any) -> None:
        """Fetches as :func:`sapwood.fetch` does: whole and proven, or not at all, and resumed."""

        def tell(event: dict[str, Any]) -> None:
            match event["event"]:
                case "planned":
                    callback.set_size(event["bytes_total"])
                case "progress":
                    callback.absolute_update(event["bytes_done"])

        self._session.fetch(_url(rpath), lpath, tell, {**self._options, **target_options()})

    def checksum(self, path: str) -> str:
        """The root of the object."""
        return self.info(path)["root"]

    def ukey(self, path: str) -> str:
        """The root of the object: another content has another one."""
        return self.checksum(path)


def _url(path: str) -> str:
    return path.removeprefix(_PREFIX)
