# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What the sites of the lab's own tests run: messages from site 1 to site 0 while site 0 sends all it can.

Usage: lab_both_ways.py RANK MASTER BYTES SECONDS; site 1 prints the Mbit/s that it has received from site 0, in TCP
payload, and the seconds that its messages took, acknowledgement included: the lower quartile, because a busy machine
only makes them longer.
"""

import contextlib
import socket
import statistics
import sys
import threading
import time

from lab_traffic import PORT, connect, send, serve

WARM_UP_S = 0.5


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
        begin, before, times = time.perf_counter(), received[0], []
        while time.perf_counter() < begin + seconds:
            times.append(send(link, size))
        mbps = 8 * (received[0] - before) / (time.perf_counter() - begin) / 1e6
        print(mbps, statistics.quantiles(times, n=4)[0], flush=True)
