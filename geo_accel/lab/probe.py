# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Measures a link of the lab with plain TCP sockets; run as a script inside every site at the same time.

Each site sends to the next one, the last to the first, so that one run loads every link as training does. The steps:
connect, print {"rtt_ms"} of an idle link, send at full rate from the first line on standard input on, print what came.
    python -I -S probe.py '{"listen": "10.77.0.1", "peer": "10.77.0.2", ...}'
"""

import contextlib
import json
import os
import socket
import statistics
import struct
import sys
import threading
import time

PINGS = 5
PORT = 29400
CHUNK = bytes(64 * 1024)
CREDIT_BYTES = 16 * 1024


def main() -> None:
    task = json.loads(sys.argv[1])
    report(counters_visible=os.path.exists(f"/sys/class/net/{task['interface']}/statistics/tx_bytes"))
    report(unknown_names=[name for name in task["names"] if not resolves(name)])
    if task["peer"] is None:
        return
    with socket.create_server((task["listen"], PORT)) as server:
        server.settimeout(task["timeout_s"])
        outgoing = connect(task["peer"], task["timeout_s"])
        incoming, _ = server.accept()
    for link in (incoming, outgoing):
        link.settimeout(task["timeout_s"])
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    echo = threading.Thread(target=answer_pings, args=(incoming,), daemon=True)
    echo.start()
    report(rtt_ms=1000 * ping(outgoing))
    echo.join()
    sender = threading.Thread(target=flood_when_told, args=(outgoing, task["window_bytes"]), daemon=True)
    sender.start()
    received = receive(incoming, task["warm_up_s"], task["measure_s"], give_credits=task["give_credits"])
    report(received_mbps=received / 1e6)
    sender.join()
    os.read(0, 1)


def report(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def resolves(name: str) -> bool:
    try:
        socket.gethostbyname(name)
    except OSError:
        return False
    return True


def connect(address: str, timeout_s: float) -> socket.socket:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return socket.create_connection((address, PORT), timeout=timeout_s)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def ping(link: socket.socket) -> float:
    """Round-trip time in seconds."""
    times = []
    for _ in range(PINGS):
        begin = time.perf_counter()
        link.sendall(b".")
        link.recv(1)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def answer_pings(link: socket.socket) -> None:
    for _ in range(PINGS):
        link.sendall(link.recv(1))


def flood_when_told(link: socket.socket, window_bytes: int | None) -> None:
    """Sends until the receiver has seen enough; with a window, no further ahead of its credits than that."""
    # Not sys.stdin: a thread that waits there, when the program fails elsewhere, would make it abort.
    if not os.read(0, 1):
        return
    with contextlib.suppress(OSError):  # the receiver resets the connection
        if window_bytes is None:
            while True:
                link.sendall(CHUNK)
        ahead = 0
        while True:
            while ahead + CREDIT_BYTES > window_bytes:
                credits = len(link.recv(4096))
                if not credits:
                    return
                ahead -= credits * CREDIT_BYTES
            link.sendall(CHUNK[:CREDIT_BYTES])
            ahead += CREDIT_BYTES


def receive(link: socket.socket, warm_up_s: float, measure_s: float, *, give_credits: bool) -> float:
    """Bits per second that arrive, counted from the end of the warm-up for `measure_s`; then resets the link.

    With credits the sender gets a byte back for every `CREDIT_BYTES` that have come.
    """
    buffer = bytearray(1 << 20)
    uncredited = link.recv_into(buffer)
    begin = time.perf_counter()
    first = last = None
    total = 0
    while last is None or last < begin + warm_up_s + measure_s:
        count = link.recv_into(buffer)
        last = time.perf_counter()
        uncredited += count
        if give_credits and uncredited >= CREDIT_BYTES:
            link.sendall(b"." * (uncredited // CREDIT_BYTES))
            uncredited %= CREDIT_BYTES
        if first is not None:
            total += count
        elif last >= begin + warm_up_s:
            first = last
    # Reset, not closed: what the sender still holds need not cross a slow link first.
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.close()
    return 8 * total / (last - first) if first is not None and last > first else 0.0


if __name__ == "__main__":
    main()
