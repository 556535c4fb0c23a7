"""Makes every attempt to reach a network fail, and writes it down; put this directory on PYTHONPATH."""

import os
import sys

_EVENTS = (
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.gethostbyaddr",
    "socket.sendto",
)


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if event in _EVENTS:
        with open(os.environ["ATTEMPTS"], "a") as stream:
            stream.write(f"{event} {arguments[1:] if event != 'socket.getaddrinfo' else arguments}\n")
        raise PermissionError(f"no network here: {event}")


if "ATTEMPTS" in os.environ:
    sys.addaudithook(_refuse)
