# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A process that has imported what workers import, and forks each of them: `python -m` without its seconds of imports.

`python fork_server.py FD MODULE ...`, in any folder, imports the modules, then takes requests from the socket FD;
`forking.ForkServers` asks. A request is one JSON object (module, arguments, environ, cwd) with two files, the worker's
life line and its output, and perhaps namespaces that it is to enter. On the life line the server says how the worker
ended; when the other end is shut, it kills the worker. When the other end of FD is closed, it kills all workers and
ends.

A request that names modules asks for a server, forked as workers are, which imports these as well and takes requests
from a third file. Whoever asked ends it as it ends the first.
"""

import ctypes
import faulthandler
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

LARGEST_REQUEST = 1 << 17
"""Bytes; under what a kernel lets a unix socket hold."""

MOST_FILES = 8
"""That come with a request."""

_LATE = {
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"),
    *("LOCAL_SIZE", "GLOO_SOCKET_IFNAME", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_DEEPSPEED_CONFIG_FILE"),
    *("ACCELERATE_USE_CPU", "PYTEST_CURRENT_TEST"),
    # What the interpreter reads when it starts; `_become` makes up for it.
    *("PYTHONFAULTHANDLER", "PYTHONUNBUFFERED"),
    # For even timing, which a fork does not have anyway.
    *("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_"),
}


def is_late(variable: str) -> bool:
    """Whether no import reads that environment variable, so that it may differ between a server and its workers.

    A server ends with an error if an import reads one of them after all.
    """
    return variable in _LATE or variable.startswith("GEO_ACCEL_")


@dataclass(frozen=True, slots=True)
class _Worker:
    pid: int
    ended: int
    """A file descriptor of the process, readable when it has ended."""
    life: socket.socket
    serves: bool
    """It ends by itself, with its own workers."""


def main() -> None:
    sys.path[0] = str(Path.cwd())  # as with `python -m`
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Control-C is for the workers; the server ends with who asked for it
    control, modules = socket.socket(fileno=int(sys.argv[1])), sys.argv[2:]
    while True:
        _preload(modules)
        request, files = _serve(control)
        if "module" in request:
            break
        _write_to(files[0])
        control, modules = socket.socket(fileno=files[1]), request["modules"]
    _enter(files[1:])
    _become(request, files[0])
    # From here on this is a worker: what it raises and how it exits is as with `python -m`.
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


def _preload(modules: Sequence[str]) -> None:
    read = set()
    kind = type(os.environ)
    original = kind.__getitem__

    def watched(environ: os._Environ, name: str) -> str:
        read.add(name)
        return original(environ, name)

    gc.unfreeze()
    gc.disable()  # a fifth of the time goes into looking for garbage where there is none
    with patch.object(kind, "__getitem__", watched):
        for module in modules:
            import_module(module)
    gc.enable()
    if late := sorted(filter(is_late, read)):
        sys.exit(f"error: importing {', '.join(modules)} reads {', '.join(late)}: not late, see fork_server.py")
    tasks = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    if len(tasks) > 1:
        sys.exit(f"error: importing {', '.join(modules)} started threads, so nothing may be forked: {tasks}")
    gc.collect()
    gc.freeze()  # the collector would write to, and so copy, every page that a worker shares with the server


def _serve(control: socket.socket) -> tuple[dict, list[int]]:
    """Forks a worker, or a server, for each request. Returns in these only, with their request and their files."""
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    workers: dict[int, _Worker] = {}
    while True:
        for key, _ in selector.select():
            worker = key.data
            if worker is None:
                message, files, _, _ = socket.recv_fds(control, LARGEST_REQUEST, MOST_FILES)
                if not message:
                    for left in workers.values():
                        if not left.serves:
                            os.kill(left.pid, signal.SIGKILL)
                    os._exit(0)
                request, (life, *files) = json.loads(message), files
                pid = os.fork()
                if pid == 0:
                    selector.close()
                    control.close()
                    for other in workers.values():
                        other.life.close()
                        os.close(other.ended)
                    os.close(life)
                    return request, files
                for file in files:
                    os.close(file)
                serves = "modules" in request
                worker = workers[pid] = _Worker(pid, os.pidfd_open(pid), socket.socket(fileno=life), serves)
                selector.register(worker.ended, selectors.EVENT_READ, worker)
                selector.register(worker.life, selectors.EVENT_READ, worker)
            elif worker.pid not in workers:
                pass  # both of its files were ready, and the other came first
            elif key.fileobj is worker.life:
                os.kill(worker.pid, signal.SIGKILL)
                selector.unregister(worker.life)
            else:
                _bury(workers.pop(worker.pid), selector)


def _bury(worker: _Worker, selector: selectors.BaseSelector) -> None:
    """Says how a worker ended."""
    _, status = os.waitpid(worker.pid, 0)
    selector.unregister(worker.ended)
    if worker.life in selector.get_map():
        selector.unregister(worker.life)
    with worker.life, suppress(BrokenPipeError):  # perhaps nobody waits for it any more
        worker.life.send(json.dumps({"returncode": os.waitstatus_to_exitcode(status)}).encode())
    os.close(worker.ended)


def _enter(namespaces: Sequence[int]) -> None:
    """Enters those that this process is not in; Python before 3.12 lacks the call."""
    if not namespaces:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    own = {os.stat(file).st_ino for file in Path("/proc/self/ns").iterdir()}
    for space in namespaces:
        if os.fstat(space).st_ino not in own and libc.setns(space, 0) == -1:
            raise OSError(ctypes.get_errno(), "setns")
        os.close(space)


def _become(request: dict, output: int) -> None:
    """Makes of this fork what `python -m MODULE ARGUMENTS` would be just before it runs the module."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _write_to(output)
    os.environ.clear()
    os.environ.update(request["environ"])
    os.chdir(request["cwd"])
    sys.path[0] = request["cwd"]
    sys.argv = [request["module"], *request["arguments"]]
    (faulthandler.enable if os.environ.get("PYTHONFAULTHANDLER") else faulthandler.disable)()
    sys.stdout.reconfigure(write_through=bool(os.environ.get("PYTHONUNBUFFERED")))
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # else all workers would draw the same; Python's own generator sees to that itself


def _write_to(output: int) -> None:
    for standard in (1, 2):
        os.dup2(output, standard)
    os.close(output)


if __name__ == "__main__":
    main()
