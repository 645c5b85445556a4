"""The listening socket: bound here, or inherited from a supervisor that keeps it open over restarts."""

from __future__ import annotations

import errno
import socket

from schemas.errors import Refused

# How many clients can wait while the server restarts.
_BACKLOG = 256
# So many ports are tried; if all are in use, the user must choose one.
MOST_PORTS = 20
_HOW_TO_CHOOSE = "--port, or with `make run PORT=…`"


def bind(host: str, port: int) -> socket.socket:
    """Listens on host and port (0: any free one). Raises Refused."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise Refused(
            "bad_host", f"{host!r} is not an address of this machine: give one of its names or addresses."
        ) from None
    listening = socket.socket(family, kind, proto)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise _refusal(host, port, error) from None
    listening.setblocking(False)
    return listening


def bind_from(host: str, first: int) -> socket.socket:
    """Listens on the first free port of MOST_PORTS from `first` on. Raises Refused as bind() does."""
    for port in range(first, first + MOST_PORTS):
        try:
            return bind(host, port)
        except Refused as error:
            if error.code != "port_in_use":
                raise
    raise Refused(
        "port_in_use", f"Ports {first} to {port} are all in use on {host}: choose another with {_HOW_TO_CHOOSE}."
    )


def _refusal(host: str, port: int, error: OSError) -> Refused:
    match error.errno:
        case errno.EADDRINUSE:
            return Refused("port_in_use", f"Port {port} is in use on {host}: choose another with {_HOW_TO_CHOOSE}.")
        case errno.EACCES:
            return Refused("port_forbidden", f"This user may not use port {port}: choose one from 1024 on.")
        case errno.EADDRNOTAVAIL:
            return Refused("bad_host", f"{host!r} is not an address of this machine: leave --host out for 127.0.0.1.")
        case _:
            return Refused("cannot_listen", f"Cannot listen on {host} port {port}: {error.strerror}.")


def inherit(fd: int) -> socket.socket:
    """The listening socket that this process was started with. Raises Refused if the descriptor is not one."""
    try:
        listening = socket.socket(fileno=fd)
        if listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            listening.setblocking(False)
            return listening
        listening.detach()
    except OSError:
        pass
    raise Refused("bad_fd", f"File descriptor {fd} is not a listening socket.")
