"""Files of remote objects."""

from __future__ import annotations

import atexit
import io
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any

from . import _sapwood

if TYPE_CHECKING:
    from typing_extensions import Buffer

_OPEN: weakref.WeakSet[_sapwood.Object] = weakref.WeakSet()
"""The objects that are open."""

_CHUNK = 1 << 16
"""Bytes that small reads take together, of the block that they are in."""


class File(io.BufferedIOBase):
    """A remote object as a binary file that reads and seeks, of proven bytes only. :func:`sapwood.open` makes it.

    Threads may share it; each of its methods is one step. Who reads in order gets what follows fetched ahead; any other read fetches
    the blocks that it needs.
    """

    def __init__(
        self,
        url: str,
        options: dict[str, Any],
        session: _sapwood.Session,
        *,
        opened: _sapwood.Object | None = None,
    ) -> None:
        self._url = url
        self._session = session
        self._lock = threading.RLock()
        self._position = 0
        self._is_shared = opened is not None
        self._use(opened or session.open(url, options))
        # From now on it is this version, wherever it is opened again.
        self._options = {**options, "root": self._object.root}

    def _use(self, object: _sapwood.Object) -> None:
        self._object = object
        self._cursor: _sapwood.Cursor | None = object.cursor()
        self._chunk = b""
        self._chunk_at = 0
        _OPEN.add(object)

    def __reduce__(self) -> tuple[Any, ...]:
        self._check()
        return _open_at, (self._url, self._options, self._session.options(), self._position)

    def __repr__(self) -> str:
        return f"<sapwood.File {self._object.url!r} root={self.root} trust={self.trust!r}>"

    @property
    def name(self) -> str:
        """The URL."""
        return self._object.url

    @property
    def mode(self) -> str:
        return "rb"

    @property
    def size(self) -> int:
        """The length of the object, which is proven."""
        return self._object.length

    @property
    def root(self) -> str:
        """The BLAKE3 hash of the object."""
        return self._object.root

    @property
    def trust(self) -> str:
        """What the bytes are proven against: ``signed``, ``root`` or ``manifest``."""
        return self._object.trust

    @property
    def block_size(self) -> int:
        """The length of a block, the least that is fetched."""
        return self._object.block_size

    @property
    def bytes_fetched(self) -> int:
        """The bytes of bodies that arrived since it was opened, those of the manifest included."""
        return self._object.bytes_fetched

    def readable(self) -> bool:
        self._check()
        return True

    def seekable(self) -> bool:
        self._check()
        return True

    def tell(self) -> int:
        self._check()
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with self._lock:
            self._check()
            match whence:
                case io.SEEK_SET:
                    at = offset
                case io.SEEK_CUR:
                    at = self._position + offset
                case io.SEEK_END:
                    at = self.size + offset
                case _:
                    raise ValueError(f"whence is 0, 1 or 2, not {whence}")
            if at < 0:
                raise ValueError(f"the place {at} is before the start of the file")
            self._position = at
            return at

    def read(self, size: int | None = -1, /) -> bytes:
        with self._lock:
            self._check()
            left = max(self.size - self._position, 0)
            wanted = left if size is None or size < 0 else min(size, left)
            if wanted == 0:
                return b""
            if self._chunked(wanted):
                return self._take(wanted)
            data = self._cursor.read(self._position, wanted)
            self._position += len(data)
            return data

    def read1(self, size: int = -1, /) -> bytes:
        with self._lock:
            self._check()
            left = self._fill()
            return self._take(left if size < 0 else min(size, left))

    def readinto(self, buffer: Buffer, /) -> int:
        with memoryview(buffer) as view, view.cast("B") as whole:
            data = self.read(len(whole))
            whole[: len(data)] = data
            return len(data)

    def readinto1(self, buffer: Buffer, /) -> int:
        with memoryview(buffer) as view, view.cast("B") as whole:
            data = self.read1(len(whole))
            whole[: len(data)] = data
            return len(data)

    def readline(self, size: int | None = -1, /) -> bytes:
        with self._lock:
            self._check()
            most = self.size if size is None or size < 0 else size
            line = []
            while most > 0 and (left := self._fill()):
                start = self._position - self._chunk_at
                end = self._chunk.find(b"\n", start, start + min(most, left)) + 1
                line.append(self._take(end - start if end else min(most, left)))
                most -= len(line[-1])
                if end:
                    break
            return b"".join(line)

    def pread(self, length: int, offset: int) -> bytes:
        """Bytes from ``offset`` on, as :func:`os.pread`; the position stays. Threads that use only this do not wait for each other."""
        self._check()
        return self._object.read(offset, min(offset + length, self.size))

    def close(self) -> None:
        """Ends its requests, and waits until what arrived is in the store."""
        if not self.closed:
            self._chunk = b""
            self._cursor = None
            if not self._is_shared:
                self._object.close()
        super().close()

    def _check(self) -> None:
        """Fails if it is closed; in a process that was forked since, opens it again."""
        if self.closed:
            raise ValueError("the file is closed")
        if self._object.process != os.getpid():
            self._lock = threading.RLock()
            self._is_shared = False
            self._use(self._session.open(self._url, self._options))

    def _chunked(self, wanted: int) -> bool:
        """Whether a read is of bytes that are here, or so small that what surrounds it is read too."""
        start = self._position - self._chunk_at
        is_here = 0 <= start and start + wanted <= len(self._chunk)
        return is_here or (wanted <= _CHUNK // 16 and self._fill() >= wanted)

    def _fill(self) -> int:
        """Reads up to the end of the block, if nothing is here; returns how much is."""
        start = self._position - self._chunk_at
        if not 0 <= start < len(self._chunk):
            until_block = self.block_size - self._position % self.block_size
            self._chunk = self._cursor.read(self._position, min(_CHUNK, until_block))
            self._chunk_at = self._position
            start = 0
        return len(self._chunk) - start

    def _take(self, length: int) -> bytes:
        start = self._position - self._chunk_at
        self._position += length
        return self._chunk[start : start + length]


def _open_at(url: str, options: dict[str, Any], network: dict[str, Any], position: int) -> File:
    """Opens a file that was pickled."""
    file = File(url, options, _sapwood.Session(network))
    file.seek(position)
    return file


@atexit.register
def _close_all() -> None:
    """What arrived is in the store when Python ends."""
    for object in list(_OPEN):
        object.close()
