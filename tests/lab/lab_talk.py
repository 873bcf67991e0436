# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What sites run that talk over one connection while a line is cut: site 1 dials site 0 and asks 10 times a second.

Usage: lab_talk.py RANK QUESTIONS; site 1 prints the longest wait for an answer in seconds, whether its interface ever
went down, and how a new call ended that it made after half of the questions.
"""

import socket
import sys
import threading
import time
from pathlib import Path

PORT = 5000
LINK = Path("/sys/class/net/wan0")


def dial() -> socket.socket:
    for _ in range(100):
        try:
            return socket.create_connection(("site0", PORT), timeout=10)
        except ConnectionRefusedError:
            time.sleep(0.1)
    raise TimeoutError("site0 never listened")


def call(ended: list[str]) -> None:
    try:
        socket.create_connection(("site0", PORT), timeout=0.8).close()
        ended.append("answered")
    except OSError as error:
        ended.append(type(error).__name__)


if __name__ == "__main__":
    rank, questions = int(sys.argv[1]), int(sys.argv[2])
    if rank == 0:
        with socket.create_server(("", PORT)) as server:
            line, _ = server.accept()
            while byte := line.recv(1):
                line.sendall(byte)
        sys.exit()
    longest, ended = 0.0, []
    flaps = (LINK / "carrier_changes").read_text()
    with dial() as line:
        line.settimeout(20)
        for number in range(questions):
            begin = time.monotonic()
            if number == questions // 2:
                print("half", flush=True)
                time.sleep(0.6)
                caller = threading.Thread(target=call, args=(ended,))
                caller.start()
            line.sendall(bytes([number]))
            assert line.recv(1) == bytes([number])
            longest = max(longest, time.monotonic() - begin)
            time.sleep(0.1)
        caller.join()
    print(longest, (LINK / "carrier_changes").read_text() != flaps, *ended)
