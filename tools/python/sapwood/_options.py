"""The options of calls, as the native half takes them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from . import _sapwood

if TYPE_CHECKING:
    from ._types import Place

_NETWORK = {
    "allow_private",
    "cacert",
    "connect_timeout",
    "connections",
    "headers",
    "limit_rate",
    "netrc",
    "patience",
    "proxy",
    "store",
    "tries",
}


def object_options(
    manifest: Place | bytes | bool | None = None,
    root: str | None = None,
    key: Place | None = None,
    require: str | None = None,
    mirrors: Iterable[str] = (),
    max_size: int | None = None,
) -> dict[str, Any]:
    """What the object must be, and where its manifest is."""
    if isinstance(manifest, os.PathLike):
        manifest = os.fspath(manifest)
    return {
        "manifest": manifest,
        "root": root,
        "key": None if key is None else os.fspath(key),
        "require": require,
        "mirrors": list(mirrors),
        "max_size": max_size,
    }


def target_options(
    digests: Iterable[str] = (),
    seeds: Iterable[Place] = (),
    receipt: Place | None = None,
    save_manifest: bool = False,
    no_clobber: bool = False,
    discard: bool = False,
) -> dict[str, Any]:
    """What else there is to say about a fetch."""
    return {
        "digests": list(digests),
        "seeds": [os.fspath(seed) for seed in seeds],
        "receipt": receipt,
        "save_manifest": save_manifest,
        "no_clobber": no_clobber,
        "discard": discard,
    }


def settings(network: Mapping[str, Any]) -> dict[str, Any]:
    """How requests are made. Only the store has a default that is looked up here."""
    for name in network.keys() - _NETWORK:
        raise TypeError(f"there is no option {name!r}; the options of requests are {', '.join(sorted(_NETWORK))}")
    options = dict(network)
    store = options.get("store", True)
    if store is True:
        options["store"] = _sapwood.default_store()
    elif not store:
        options["store"] = None
    netrc = options.get("netrc", False)
    if netrc is True:
        options["netrc"] = os.environ.get("NETRC") or os.path.expanduser("~/.netrc")
    elif not netrc:
        options["netrc"] = None
    return options
