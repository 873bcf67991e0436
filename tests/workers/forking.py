# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Starts workers through fork servers: the side that asks. They are processes as real as others, only their imports
are done.

There is a server for each set of imports and each environment that imports may read, and two of each: neighbouring
ranks come from different ones, so that their strings hash differently, as those of real ranks do.
"""

import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from tests.workers import fork_server
from tests.workers.fork_server import is_late

MOST_SERVERS = 8
"""Each holds some 300 MB of its own. The one that was used longest ago ends for another."""

TRAINING = (
    "geo_accel.integrations.accelerate",
    "geo_accel.integrations.trainer",
    "accelerate.local_sgd",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama",
)
DEEPSPEED = (*TRAINING, "deepspeed")
TRL = (*TRAINING, "tests.workers.trl_trainers")


def imports(module: str, arguments: Sequence[str]) -> tuple[str, ...]:
    """What a server for that worker imports beforehand."""
    if "--trl" in arguments:
        return TRL
    return DEEPSPEED if module.endswith(".deepspeed_worker") or "--deepspeed" in arguments else TRAINING


class ForkedWorker:
    """A worker, with the part of `subprocess.Popen` that its starter needs."""

    def __init__(self, server: "_Server", life: socket.socket) -> None:
        self.returncode: int | None = None
        self._server = server
        self._life = life

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, negative for a signal. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        if self.returncode is None:
            self._life.settimeout(timeout)
            try:
                message = self._life.recv(1024)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired("a forked worker", timeout) from None
            if not message:
                raise RuntimeError(f"a fork server died: {self._server.last_words()}")
            self.returncode = json.loads(message)["returncode"]
            self._life.close()
        return self.returncode

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        if self.returncode is None:
            self._life.shutdown(socket.SHUT_WR)


class ForkServers:
    """Fork servers, each started when a worker first asks for it. `close` ends them and what they forked."""

    def __init__(self) -> None:
        self._servers: dict[tuple, _Server] = {}  # in the order of last use

    def start(self, command: Sequence[str], environ: Mapping[str, str], output: IO) -> ForkedWorker:
        """`python -m COMMAND` with exactly that environment, its output to a file; does not wait for imports."""
        module, *arguments = command
        early = {name: value for name, value in environ.items() if not is_late(name)}
        modules = imports(module, arguments)
        key = (modules, int(environ.get("RANK", 0)) % 2, *sorted(early.items()))
        server = self._servers.pop(key, None) or _Server(modules, early)
        self._servers[key] = server
        if len(self._servers) > MOST_SERVERS:
            self._servers.pop(next(iter(self._servers))).close()
        return server.fork({"module": module, "arguments": arguments, "environ": dict(environ)}, output)

    def close(self) -> None:
        for server in self._servers.values():
            server.close()
        self._servers.clear()


class _Server:
    def __init__(self, modules: Sequence[str], environ: Mapping[str, str]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 closed below
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, fork_server.__file__, str(theirs.fileno()), *modules],
                # Arrow's allocator would start a thread on import, and only a process of one thread may fork.
                env={**environ, "JE_ARROW_MALLOC_CONF": "background_thread:false"},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
            )

    def fork(self, request: dict, output: IO) -> ForkedWorker:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        message = json.dumps(request | {"cwd": str(Path.cwd())}).encode()
        with theirs:
            try:
                socket.send_fds(self._control, [message], [output.fileno(), theirs.fileno()])
            except BrokenPipeError:
                raise RuntimeError(f"a fork server died: {self.last_words()}") from None
        return ForkedWorker(self, ours)

    def last_words(self) -> str:
        """What a server that is ending printed."""
        self._process.wait()
        self._log.seek(0)
        return self._log.read()[-3000:].strip()

    def close(self) -> None:
        self._control.close()
        self._process.wait()
        self._log.close()
