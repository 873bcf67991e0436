# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What the sites of the lab's own tests run: messages from site 1 to site 0 while site 0 sends all it can.

Usage: lab_both_ways.py RANK MASTER BYTES SECONDS; site 1 prints the Mbit/s that it has received from site 0, in TCP
payload, and the seconds that its messages took, acknowledgement included. A busy machine only makes the one smaller
and the other longer, and TCP may need two seconds until its window is open, because what acknowledges waits behind the
messages. So the one is the best window but one of a quarter of a second, the other the lower quartile over messages.
"""

import contextlib
import socket
import statistics
import sys
import threading
import time

from lab_traffic import PORT, connect, send, serve

WARM_UP_S = 1.0
WINDOW_S = 0.25


def flood(server: socket.socket) -> None:
    link, _ = server.accept()
    with contextlib.suppress(OSError):
        while True:
            link.sendall(bytes(1 << 16))


def count(link: socket.socket, received: list[int]) -> None:
    buffer = bytearray(1 << 20)
    while True:
        received[0] += link.recv_into(buffer)


if __name__ == "__main__":
    rank, master, size, seconds = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    if rank == 0:
        with socket.create_server((master, PORT)) as server, socket.create_server((master, PORT + 1)) as other_way:
            threading.Thread(target=flood, args=(other_way,), daemon=True).start()
            serve(server, 0)
    else:
        link, other_way = connect(master, PORT), connect(master, PORT + 1)
        received = [0]
        threading.Thread(target=count, args=(other_way, received), daemon=True).start()
        time.sleep(WARM_UP_S)
        end = time.perf_counter() + seconds
        opened, before = time.perf_counter(), received[0]
        mbps, times = [], []
        while (now := time.perf_counter()) < end:
            if now - opened >= WINDOW_S:
                mbps.append(8 * (received[0] - before) / (now - opened) / 1e6)
                opened, before = now, received[0]
            times.append(send(link, size))
        print(sorted(mbps)[-2], statistics.quantiles(times, n=4)[0], flush=True)
