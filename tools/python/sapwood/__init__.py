"""Fetches and reads files over plain HTTP, every byte proven by a BLAKE3 tree.

    >>> import sapwood
    >>> sapwood.fetch("https://media.example/talk.mp4", "talk.mp4")
    >>> with sapwood.open("https://media.example/table.parquet") as file:
    ...     file.seek(-8, 2)
    ...     file.read(8)

The work is done without the GIL. Ctrl-C ends a call; the same ``fetch`` later goes on from what the first one has proven.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from . import _sapwood
from ._options import object_options, settings, target_options
from .errors import (
    Changed,
    DiskFull,
    Error,
    Failed,
    NotFound,
    NotProven,
    TryAgain,
    Unsafe,
    Usage,
)
from .files import File

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._types import Network, OnEvent, Place

__all__ = [
    "Changed",
    "DiskFull",
    "Error",
    "Failed",
    "File",
    "NotFound",
    "NotProven",
    "TryAgain",
    "Unsafe",
    "Usage",
    "fetch",
    "manifest",
    "open",
    "verify",
]


def fetch(
    url: str,
    path: Place,
    *,
    on_event: OnEvent | None = None,
    manifest: Place | bytes | bool | None = None,
    root: str | None = None,
    key: Place | None = None,
    digests: Iterable[str] = (),
    require: str | None = None,
    max_size: int | None = None,
    mirrors: Iterable[str] = (),
    seeds: Iterable[Place] = (),
    receipt: Place | None = None,
    save_manifest: bool = False,
    no_clobber: bool = False,
    discard: bool = False,
    **network: Unpack[Network],
) -> dict[str, Any]:
    """Fetches an object to ``path``. The file appears there complete and proven, or not at all.

    What an interrupted call has proven stays in ``PATH.part``; the same call goes on from there. Returns the event ``published``:
    among its fields are ``root``, ``trust``, ``bytes_total``, ``bytes_fetched`` and ``bytes_resumed``.

    :param on_event: called with each event, a dict with the fields of the JSON events of the program. What it raises ends the fetch.
    :param manifest: a file, a URL or the bytes themselves; ``None``: beside the object, if there is one; ``False``: none.
    :param root: the object must be this one, by its BLAKE3 hash.
    :param key: the manifest must be signed by this minisign key: its text, or a file with it.
    :param digests: digests that the object must have, as ``sha-256=HEX``.
    :param require: the least trust: ``signed``, ``root``, ``manifest``, ``digest`` or ``none``.
    :param max_size: the largest object, in bytes.
    :param mirrors: other URLs of the same object.
    :param seeds: local files and folders that may have some of its bytes.
    :param receipt: writes a receipt there.
    :param save_manifest: writes the manifest beside the file.
    :param no_clobber: fails if the file exists.
    :param discard: deletes a file that does not verify, instead of keeping it as ``PATH.quarantined``.
    :param network: see ``sapwood._types.Network``.
    """
    options = {
        **object_options(manifest, root, key, require, mirrors, max_size),
        **target_options(digests, seeds, receipt, save_manifest, no_clobber, discard),
    }
    return _sapwood.Session(settings(network)).fetch(url, path, on_event, options)


def open(
    url: str,
    *,
    manifest: Place | bytes | None = None,
    root: str | None = None,
    key: Place | None = None,
    require: str | None = None,
    max_size: int | None = None,
    mirrors: Iterable[str] = (),
    **network: Unpack[Network],
) -> File:
    """Opens an object with a manifest as a binary file that reads and seeks.

    Only proven bytes are returned, and only the blocks that are read are fetched; those that are in the store are not fetched again.
    The file stays the version that was opened: it raises :class:`Changed` when the source is replaced. A file that is pickled is
    opened again, at the same place of the same version. The parameters are those of :func:`fetch`.
    """
    options = object_options(manifest, root, key, require, mirrors, max_size)
    return File(url, options, _sapwood.Session(settings(network)))


def verify(
    path: Place,
    *,
    on_event: OnEvent | None = None,
    manifest: Place | bytes | None = None,
    root: str | None = None,
    key: Place | None = None,
    require: str | None = None,
    hints: bool = False,
    **network: Unpack[Network],
) -> dict[str, Any]:
    """Verifies a local file against its manifest, or against a root.

    Without ``manifest`` that is the one beside the file, or the one with which it was fetched. Returns the event ``verified``. Raises
    :class:`NotProven` if the file differs; ``on_event`` gets the event ``damaged`` of each block.
    """
    options = object_options(manifest, root, key, require, (), None)
    return _sapwood.verify(path, on_event, options, settings(network), hints)


def manifest(
    path: Place,
    out: Place | None = None,
    *,
    block_size: int | None = None,
    digests: Iterable[str] = (),
    hints: bool = True,
    name: str | None = None,
    sequence: int = 0,
) -> dict[str, Any]:
    """Makes the manifest of a file, the same bytes as ``sapwood manifest``. Returns the event ``manifest``.

    :param out: where to write it; ``None``: beside the file, as ``PATH.sapwood``.
    :param block_size: in bytes; ``None``: by the length of the file.
    :param digests: names of digests that it lists too, such as ``sha-256``.
    :param hints: with hints for fetching only what changed between two versions.
    :param name: ``None``: that of the file.
    :param sequence: grows with each version; 0: not given.
    """
    return _sapwood.manifest(path, out, block_size, list(digests), hints, name, sequence)

