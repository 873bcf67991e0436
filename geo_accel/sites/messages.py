# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""JSON objects over a connection: four bytes of length, then a text."""

import json
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("!I")
SMALL, LARGE = 64 * 1024, 64 * 2**20
"""What is read from a stranger, and from a member."""
_PIECE = 256 * 1024


def tell(connection: socket.socket, message: dict[str, Any]) -> None:
    """Sends `message`. Raises OSError where the connection ends, or takes it for longer than its timeout."""
    data = json.dumps(message).encode()
    if len(data) > LARGE:
        raise ValueError(f"a message of {len(data)} bytes is more than the {LARGE} that are read")
    connection.sendall(_LENGTH.pack(len(data)) + data)


def hear(connection: socket.socket, most: int) -> dict[str, Any]:
    """The next message, of at most `most` bytes. Raises ConnectionError at the end and for what is no message.

    No more memory is taken than has arrived.
    """
    (length,) = _LENGTH.unpack(_read(connection, _LENGTH.size))
    if length > most:
        raise ConnectionError(f"a message of {length} bytes was announced; {most} are read at most")
    try:
        message = json.loads(_read(connection, length), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ConnectionError(f"what came is no JSON ({error})") from error
    if not isinstance(message, dict):
        raise ConnectionError("what came is no JSON object")
    return message


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _read(connection: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        piece = connection.recv(min(_PIECE, length - len(data)))
        if not piece:
            raise ConnectionError("the connection was closed at the other end")
        data += piece
    return bytes(data)
