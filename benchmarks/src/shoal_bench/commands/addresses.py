"""Addresses of clusters that run, as `--runner` takes them: tried before anybody waits for one that is not there."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from shoal_bench.commands.files import Refused

__all__ = ["check_address"]

#: Seconds that a connection may take.
PATIENCE = 5.0


def check_address(name: str) -> None:
    """Makes sure that something listens at an address; of a runner's name there is nothing to check.

    Raises:
        Refused: nothing does, or it has no port.
    """
    if "://" not in name:
        return
    try:
        parts = urlsplit(name)
        place = (parts.hostname or "", parts.port or 0)
    except ValueError as error:
        raise Refused(f"{name}: {error}") from error
    if not all(place):
        raise Refused(f"{name}: a host and a port are needed, as in tcp://HOST:PORT")
    try:
        socket.create_connection(place, PATIENCE).close()
    except OSError as error:
        raise Refused(f"nothing answers at {name}: {error.strerror or error}") from error
