"""Exceptions. Each class stands for an exit code of the program, which is its attribute ``exit``."""

from typing import Any, ClassVar


class Error(OSError):
    """Any failure of this package.

    ``fields`` has what else is known, under the names of the JSON event ``failed``: ``block``, ``offset``, ``length``, ``expected`` and
    ``found`` of a block that could not be proven, ``retry_at`` of a host that limits requests.
    """

    exit: ClassVar[int] = 1
    fields: dict[str, Any]

    def __init__(self, message: str = "", fields: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.fields = fields or {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.fields)


class Failed(Error):
    """It failed for good: the same call fails again."""


class NotFound(Failed, FileNotFoundError):
    """There is no such file or object, or an object without a manifest."""


class Usage(Error, ValueError):
    """The arguments make no sense."""

    exit = 2


class NotProven(Error):
    """The content does not verify, or is not trusted as much as required. Nothing of it was handed on or published."""

    exit = 3


class Changed(Error):
    """The source was replaced meanwhile."""

    exit = 4


class TryAgain(Error):
    """Interrupted, busy, or the host must be left alone for a while: the same call goes on later."""

    exit = 5


class Unsafe(Error):
    """Refused as unsafe."""

    exit = 6


class DiskFull(Error):
    """The disk is full, or cannot be written to."""

    exit = 7


_KINDS: dict[str, type[Error]] = {
    "failed": Failed,
    "not-found": NotFound,
    "usage": Usage,
    "not-verified": NotProven,
    "changed": Changed,
    "again": TryAgain,
    "unsafe": Unsafe,
    "disk": DiskFull,
}


def _of_kind(kind: str, message: str, fields: dict[str, Any]) -> Error:
    return _KINDS[kind](message, fields)
