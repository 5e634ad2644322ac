"""Types of parameters, for type checkers and readers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypedDict

Place: TypeAlias = str | os.PathLike[str]
"""A path; where it says so, also a URL."""

Event: TypeAlias = dict[str, Any]
"""An event, with the fields of the JSON events of the program: ``event``, ``time_ms``, and those of its kind."""

OnEvent: TypeAlias = Callable[[Event], object]


class Network(TypedDict, total=False):
    """How requests are made. Where nothing else is said, the defaults are those of the program."""

    connections: int
    """The most connections at once; 16."""
    limit_rate: int
    """Bytes a second over all connections."""
    headers: Mapping[str, str]
    """Fields of requests. They are sent to the origin of the URL only."""
    netrc: bool | Place
    """``True``: logins from ``$NETRC`` or ``~/.netrc``; or another file."""
    cacert: Place
    """Certificates in PEM that are trusted beside those of the system."""
    proxy: str
    """The proxy of all requests, in place of those that the environment names."""
    connect_timeout: float
    """Seconds to a connection; 10."""
    patience: float
    """Seconds without a newly proven byte; 300."""
    tries: int
    """Failures in a row of one request, from a host that answers; 5."""
    allow_private: bool
    """Redirects may lead to private addresses."""
    store: bool | Place
    """``True``: the store of the program; ``False``: nothing is remembered; or another folder."""
