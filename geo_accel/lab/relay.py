# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Carries packets from one site's port to the others' after a delay, and can lose a share of them.

It stands in for `tc netem` in kernels without it. It uses packet sockets, so it needs no /dev/net/tun, which ordinary
users often may not open. The kernel writes arriving packets, with their arrival times, into a memory ring; the ring is
also the delay line: a packet stays in it until it is due. Run as a script, one process per site:
    python -I -S relay.py '{"listen": "port0", "ports": {"1": "port1"}, "queues": {"1": 262144}, "delay_s": 0.02,
                            "loss": 0, "frames": 4096}'
`queues` holds the bytes that may wait before each port whose egress is shaped; the other ports have no queue.
It prints "ready", works until SIGTERM, then prints {"dropped": packets lost because the ring was full}.
"""

import contextlib
import itertools
import json
import mmap
import os
import random
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator, Mapping

SOL_PACKET = 263
PACKET_RX_RING = 5
PACKET_STATISTICS = 6
PACKET_VERSION = 10
PACKET_QDISC_BYPASS = 20
PACKET_IGNORE_OUTGOING = 23
TPACKET_V2 = 1
ETH_P_ALL = 3

STATUS_KERNEL = 0
STATUS_USER = 1
BLOCK_BYTES = 1 << 16
FRAME_BYTES = 2048
# What any user may ask for in ordinary kernels. A waiting frame is charged with one and a half times its size.
SEND_BUFFER_BYTES = 212_992
CHARGE_PER_BYTE = 2
# Together they hold a tenth of a second of the most that a relay can carry.
MOST_SENDERS = 16
# struct tpacket2_hdr: status, length, captured length, offset of the frame, of its payload, seconds, nanoseconds.
HEADER = struct.Struct("=IIIHHII")
BROADCAST = 0xFF


class Stopped(Exception):
    """SIGTERM arrived."""


def main() -> None:
    task = json.loads(sys.argv[1])
    receiver, ring = open_ring(task["listen"], task["frames"])
    senders = {
        int(index): itertools.cycle(open_senders(name, task["queues"].get(index)))
        for index, name in task["ports"].items()
    }
    signal.signal(signal.SIGTERM, stop)
    # A relay that waits for a processor is a slower network. Only root may be this impolite.
    with contextlib.suppress(OSError):
        os.nice(-15)
    print("ready", flush=True)
    try:
        carry(receiver, ring, senders, round(task["delay_s"] * 1e9), task["loss"])
    except Stopped:
        _, dropped = struct.unpack("=II", receiver.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        print(json.dumps({"dropped": dropped}), flush=True)


def stop(*_: object) -> None:
    raise Stopped


def open_ring(interface: str, frames: int) -> tuple[socket.socket, mmap.mmap]:
    """A packet socket whose arriving frames land in a shared memory ring of at least `frames` slots."""
    blocks = -(-frames * FRAME_BYTES // BLOCK_BYTES)
    frames = blocks * BLOCK_BYTES // FRAME_BYTES
    receiver = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    receiver.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
    receiver.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    receiver.setsockopt(SOL_PACKET, PACKET_RX_RING, struct.pack("=IIII", BLOCK_BYTES, blocks, FRAME_BYTES, frames))
    ring = mmap.mmap(receiver.fileno(), blocks * BLOCK_BYTES)
    receiver.bind((interface, ETH_P_ALL))
    return receiver, ring


def open_senders(interface: str, queue_bytes: int | None) -> list[socket.socket]:
    """Packet sockets to be used in turn: one that goes around the port's queue, or enough to fill it.

    What waits in the queue is charged to the socket that sent it, which holds less than a queue should.
    """
    if queue_bytes is None:
        sender = open_sender(interface)
        sender.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        return [sender]
    senders, room = [], 0
    while room < queue_bytes * CHARGE_PER_BYTE and len(senders) < MOST_SENDERS:
        sender = open_sender(interface)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        # A full queue loses packets; if it held up the relay, it would slow the links to other sites.
        sender.setblocking(False)
        room += sender.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        senders.append(sender)
    return senders


def open_sender(interface: str) -> socket.socket:
    sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sender.bind((interface, 0))
    return sender


def carry(
    receiver: socket.socket,
    ring: mmap.mmap,
    senders: Mapping[int, Iterator[socket.socket]],
    delay_ns: int,
    loss: float,
) -> None:
    """Passes frames on, in order, each `delay_ns` after its arrival; runs until Stopped is raised."""
    poller = select.poll()
    poller.register(receiver, select.POLLIN | select.POLLERR)
    view, size, position = memoryview(ring), len(ring), 0
    everyone = list(senders.values())
    unpack, now_ns, sleep, chance = HEADER.unpack_from, time.time_ns, time.sleep, random.random
    while True:
        status, _, length, start, _, seconds, nanoseconds = unpack(ring, position)
        if not status & STATUS_USER:
            poller.poll(1000)
            continue
        wait_ns = seconds * 1_000_000_000 + nanoseconds + delay_ns - now_ns()
        if wait_ns > 0:
            # The clock may be set back meanwhile: never wait for longer than the delay itself.
            sleep(min(wait_ns, delay_ns) / 1e9)
        begin = position + start
        if not loss or chance() >= loss:
            index = ring[begin + 5]
            targets = everyone if index == BROADCAST else (senders[index],) if index in senders else ()
            for sender in targets:
                # A full queue, a port that is going away, or no memory left: on a WAN that is a lost packet.
                with contextlib.suppress(OSError):
                    next(sender).send(view[begin : begin + length])
        ring[position : position + 4] = b"\0\0\0\0"
        position = (position + FRAME_BYTES) % size


if __name__ == "__main__":
    main()
