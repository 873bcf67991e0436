# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Carries packets from one site's port to the others' after a delay, and can lose a share of them.

It stands in for `tc netem` in kernels without it. It uses packet sockets, so it needs no /dev/net/tun, which ordinary
users often may not open. Packets come and go as the sites' kernels make them, many segments in one, as through a
bridge: the sites train on the same processors, and what a relay takes is missing there. What gets lost are segments.
Run as a script, one process per site:
    python -I -S relay.py '{"listen": "port0", "ports": {"1": "port1"}, "queues": {"1": 262144}, "delay_s": 0.02,
                            "loss": 0}'
`queues` holds the bytes that may wait before each port whose egress is shaped; the other ports have no queue.
It prints "ready", works until SIGTERM, then prints {"dropped": packets lost because the relay was too slow}.
"""

import contextlib
import itertools
import json
import os
import random
import select
import signal
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping

SOL_PACKET = 263
PACKET_STATISTICS = 6
PACKET_VNET_HDR = 15
PACKET_QDISC_BYPASS = 20
PACKET_IGNORE_OUTGOING = 23
ETH_P_ALL = 3

# struct virtio_net_hdr before each packet: flags, kind and bytes of headers, bytes of a segment, checksum's places.
OFFLOAD = struct.Struct("=BBHHHH")
TCP_SEGMENTS = 1
NOT_SEGMENTED = 0
ETHERNET_BYTES = 14
DESTINATION = OFFLOAD.size + 5
"""The last byte of the address: the index of a site."""
LARGEST_BYTES = OFFLOAD.size + ETHERNET_BYTES + 2**16
BROADCAST = 0xFF
# What only the first of a packet's segments says (CWR), and only the last (PSH, FIN).
FIRST_ONLY, LAST_ONLY = 0x80, 0x09

# What any user may ask for in ordinary kernels. A waiting frame is charged with one and a half times its size.
SEND_BUFFER_BYTES = RECEIVE_BUFFER_BYTES = 212_992
CHARGE_PER_BYTE = 2
# Together they hold a tenth of a second of the most that a relay can carry.
MOST_SENDERS = 16

# While packets wait, the relay looks so often, in seconds and in shares of the delay: they are late or early by half.
LOOK_S = 0.001
LOOK_SHARE = 1 / 20
AT_ONCE = 256
"""Packets that are taken before others are passed on."""


class Stopped(Exception):
    """SIGTERM arrived."""


def main() -> None:
    task = json.loads(sys.argv[1])
    receiver = open_receiver(task["listen"])
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
        carry(receiver, senders, task["delay_s"], task["loss"])
    except Stopped:
        _, dropped = struct.unpack("=II", receiver.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        print(json.dumps({"dropped": dropped}), flush=True)


def stop(*_: object) -> None:
    raise Stopped


def open_receiver(interface: str) -> socket.socket:
    """A packet socket for what arrives at `interface`."""
    receiver = open_socket()
    receiver.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    receiver.bind((interface, ETH_P_ALL))
    return receiver


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
    sender = open_socket()
    sender.bind((interface, 0))
    return sender


def open_socket() -> socket.socket:
    """A packet socket, not bound, which gives and takes an `OFFLOAD` before each packet."""
    one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    one.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    return one


def carry(
    receiver: socket.socket, senders: Mapping[int, Iterator[socket.socket]], delay_s: float, loss: float
) -> None:
    """Passes packets on, in order, each `delay_s` seconds after its arrival; runs until Stopped is raised."""
    receiver.setblocking(False)
    poller = select.poll()
    poller.register(receiver, select.POLLIN | select.POLLERR)
    look_s, room = min(LOOK_S, LOOK_SHARE * delay_s), memoryview(bytearray(LARGEST_BYTES))
    waiting: deque[tuple[float, bytes]] = deque()
    came_s = 0.0
    """How long ago what is there now came, on average."""
    while True:
        due = time.monotonic() - came_s + delay_s
        with contextlib.suppress(BlockingIOError):
            for _ in range(AT_ONCE):
                waiting.append((due, bytes(room[: receiver.recv_into(room)])))
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            packet = waiting.popleft()[1]
            pass_on(survivors(packet, loss) if loss else [packet], senders)
        if waiting:
            time.sleep(min(look_s, max(0.0, waiting[0][0] - time.monotonic())))
            came_s = look_s / 2
        else:
            poller.poll(1000)
            came_s = 0.0


def pass_on(packets: list[bytes], senders: Mapping[int, Iterator[socket.socket]]) -> None:
    """To where they are addressed."""
    for packet in packets:
        index = packet[DESTINATION]
        targets = senders.values() if index == BROADCAST else (senders[index],) if index in senders else ()
        for sender in targets:
            # A full queue, a port that is going away, or no memory left: on a WAN that is a lost packet.
            with contextlib.suppress(OSError):
                next(sender).send(packet)


def survivors(packet: bytes, loss: float) -> list[bytes]:
    """What is left of `packet` where each of its segments is lost with the probability `loss`."""
    count = segments(packet)
    if random.random() < (1 - loss) ** count:
        return [packet]
    while True:
        lost = [random.random() < loss for _ in range(count)]
        if any(lost):  # as is certain by now
            return without(packet, lost)


def segments(packet: bytes) -> int:
    """The TCP segments that the network sees."""
    _, kind, _, size, _, _ = OFFLOAD.unpack_from(packet)
    if kind & 0x7F != TCP_SEGMENTS:
        return 1
    return -(-(len(packet) - payload_at(packet)) // size)


def payload_at(packet: bytes) -> int:
    """Where the payload of a TCP packet begins."""
    tcp = tcp_at(packet)
    return tcp + (packet[tcp + 12] >> 4) * 4


def tcp_at(packet: bytes) -> int:
    """Where TCP's header begins, after IPv4's."""
    return OFFLOAD.size + ETHERNET_BYTES + (packet[OFFLOAD.size + ETHERNET_BYTES] & 15) * 4


def without(packet: bytes, lost: list[bool]) -> list[bytes]:
    """`packet` without the segments that are `lost`: the runs between them, as packets."""
    if len(lost) == 1:
        return [] if lost[0] else [packet]
    begin, size = payload_at(packet), OFFLOAD.unpack_from(packet)[3]
    found, number = [], 0
    for gone, run in itertools.groupby(lost):
        stop = number + len(list(run))
        if not gone:
            payload = packet[begin + number * size : begin + stop * size]
            found.append(run_of(packet[:begin], payload, number, last=stop == len(lost)))
        number = stop
    return found


def run_of(headers: bytes, payload: bytes, number: int, *, last: bool) -> bytes:
    """Segments from `number` on of the packet with these `headers`."""
    made, ip, tcp = bytearray(headers), OFFLOAD.size + ETHERNET_BYTES, tcp_at(headers)
    flags, kind, length, size, start, offset = OFFLOAD.unpack_from(made)
    if len(payload) <= size:
        kind = size = NOT_SEGMENTED
    OFFLOAD.pack_into(made, 0, flags, kind, length, size, start, offset)
    identity = int.from_bytes(made[ip + 4 : ip + 6], "big") + number
    struct.pack_into("!HH", made, ip + 2, len(made) - ip + len(payload), identity & 0xFFFF)
    made[ip + 10 : ip + 12] = b"\0\0"
    struct.pack_into("!H", made, ip + 10, 0xFFFF ^ folded(made[ip:tcp]))
    sequence = int.from_bytes(made[tcp + 4 : tcp + 8], "big") + number * OFFLOAD.unpack_from(headers)[3]
    struct.pack_into("!I", made, tcp + 4, sequence & 0xFFFFFFFF)
    made[tcp + 13] &= 0xFF ^ ((FIRST_ONLY if number else 0) | (0 if last else LAST_ONLY))
    # The kernel, or the card, adds the rest of the checksum to that of the addresses, the protocol and the length.
    length_and_protocol = struct.pack("!HH", len(made) - tcp + len(payload), made[ip + 9])
    struct.pack_into("!H", made, tcp + 16, folded(made[ip + 12 : ip + 20] + length_and_protocol))
    return bytes(made) + payload


def folded(words: bytes | bytearray) -> int:
    """The sum of 16 bit words, as the internet's checksums add them up."""
    total = sum(struct.unpack(f"!{len(words) // 2}H", words))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


if __name__ == "__main__":
    main()
