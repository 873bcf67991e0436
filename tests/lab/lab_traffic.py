# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What the sites of the lab's own tests run: sends messages from site 1 to site 0 and times them.

Usage: lab_traffic.py RANK MASTER BYTES COUNT; site 1 prints the seconds of each message, acknowledgement included.
Half way, site 0 says so.
"""

import socket
import sys
import time

PORT = 5000


def serve(server: socket.socket, count: int) -> None:
    link, _ = server.accept()
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer = bytearray(1 << 20)
    served = 0
    while head := link.recv(8, socket.MSG_WAITALL):
        left = int.from_bytes(head, "little")
        while left:
            left -= link.recv_into(buffer, min(left, len(buffer)))
        link.sendall(b".")
        served += 1
        if served == count // 2:
            print("now half way through", flush=True)


def connect(master: str, port: int) -> socket.socket:
    deadline = time.monotonic() + 10
    while True:
        try:
            link = socket.create_connection((master, port), timeout=10)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return link
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def send(link: socket.socket, size: int) -> float:
    begin = time.perf_counter()
    link.sendall(size.to_bytes(8, "little") + bytes(size))
    link.recv(1)
    return time.perf_counter() - begin


if __name__ == "__main__":
    rank, master, size, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    if rank == 0:
        with socket.create_server((master, PORT)) as server:
            serve(server, count)
    else:
        link = connect(master, PORT)
        for _ in range(count):
            print(send(link, size), flush=True)
