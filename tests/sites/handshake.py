# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""TLS between two ends on loopback."""

import socket
import ssl
import threading

from geo_accel.sites.credentials import Shown


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> tuple[Shown | Exception, Shown | Exception]:
    """What each end learns of the other, or why it does not take it: first the client's, then the server's."""
    near, far = socket.socketpair()
    learnt: dict[str, Shown | Exception] = {}

    def shake(name: str, context: ssl.SSLContext, raw: socket.socket) -> None:
        raw.settimeout(10)
        try:
            with context.wrap_socket(raw, server_side=name == "server") as connection:
                learnt[name] = Shown.by(connection)
                # A client knows that it was taken once it hears something.
                connection.sendall(b"x") if name == "server" else connection.recv(1)
        except OSError as error:
            learnt[name] = error

    threads = [threading.Thread(target=shake, args=one) for one in (("client", client, near), ("server", server, far))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return learnt["client"], learnt["server"]
