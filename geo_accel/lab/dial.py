# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Says whom a site of the lab can dial; run as a script inside every site at the same time.

It listens and prints {"listening": true}; from the first line on standard input on it dials, prints {"reached": one
bool per peer}, and listens on until the second line.
    python -I -S dial.py '{"listen": "10.77.0.1", "peers": [["10.77.0.2", 1.5]]}'
Each peer comes with the seconds after which it counts as out of reach.
"""

import json
import os
import socket
import sys
import threading

PORT = 29401


def main() -> None:
    task = json.loads(sys.argv[1])
    with socket.create_server((task["listen"], PORT)):
        report(listening=True)
        os.read(0, 1)
        reached = [False] * len(task["peers"])
        threads = [threading.Thread(target=dial, args=(reached, *one)) for one in enumerate(task["peers"])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        report(reached=reached)
        os.read(0, 1)


def dial(reached: list[bool], index: int, peer: tuple[str, float]) -> None:
    address, patience_s = peer
    try:
        socket.create_connection((address, PORT), timeout=patience_s).close()
    except OSError:
        return
    reached[index] = True


def report(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
