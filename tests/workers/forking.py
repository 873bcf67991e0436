# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Starts workers through fork servers: the side that asks. They are processes as real as others, only their imports
are done.

There is a server for each environment that imports may read, and from it one is forked for each further set of
imports. All are there twice: neighbouring ranks come from different ones, so that their strings hash differently, as
those of real ranks do.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import IO

from tests.workers import fork_client, fork_server
from tests.workers.fork_server import is_late

MOST_SERVERS = 4
"""Each holds some 300 MB of its own. The one that was used longest ago ends for another."""

TRAINING = (
    "geo_accel.integrations.accelerate",
    "geo_accel.integrations.trainer",
    "accelerate.local_sgd",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama",
)
"""What nearly all workers import."""
DEEPSPEED = ("deepspeed", "deepspeed.runtime.zero.muon.muon_optimizer")  # the second when an engine is made
TRL = ("tests.workers.trl_trainers",)
RECIPES = ("recipes.data", "recipes.evaluation", "recipes.model", "recipes.preparation", "recipes.tokenizer")


def further_imports(command: Sequence[str], environ: Mapping[str, str]) -> tuple[str, ...]:
    """What that worker imports beside what all do."""
    module, *arguments = command
    with_deepspeed = (
        module.endswith(".deepspeed_worker")
        or "--deepspeed" in arguments
        or environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    )
    return (
        *(DEEPSPEED if with_deepspeed else ()),
        *(TRL if "--trl" in arguments else ()),
        *(RECIPES if module.startswith("recipes.") else ()),
    )


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
        request = {"module": module, "arguments": arguments, "environ": dict(environ), "cwd": str(Path.cwd())}
        return self._server(command, environ).fork(request, output)

    def _server(self, command: Sequence[str], environ: Mapping[str, str]) -> "_Server":
        """The one for that worker, started if there is none."""
        early = {name: value for name, value in environ.items() if not is_late(name)}
        key = (int(environ.get("RANK", 0)) % 2, *sorted(early.items()))
        server = self._servers.pop(key, None) or _Server(TRAINING, early)
        self._servers[key] = server
        if len(self._servers) > MOST_SERVERS:
            self._servers.pop(next(iter(self._servers))).close()
        return server.that_imports(further_imports(command, environ))

    @contextmanager
    def door(self) -> Iterator[list[str]]:
        """While it is open, gives a command to which a module and its arguments are added, and which starts that from
        a fork server wherever the command runs: in any namespaces."""
        with TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            path = str(Path(folder, "door"))
            listener.bind(path)
            listener.listen()
            thread = Thread(target=self._let_in, args=[listener])
            thread.start()
            try:
                yield [sys.executable, "-I", "-S", fork_client.__file__, path]
            finally:
                listener.shutdown(socket.SHUT_RDWR)
                thread.join()

    def _let_in(self, listener: socket.socket) -> None:
        with suppress(OSError):  # the door has been closed
            while True:
                life, _ = listener.accept()
                with life:
                    message, files, _, _ = socket.recv_fds(life, fork_server.LARGEST_REQUEST, fork_server.MOST_FILES)
                    if not message:
                        continue
                    request = json.loads(message)
                    server = self._server([request["module"], *request["arguments"]], request["environ"])
                    server.send(request, [life.fileno(), *files])
                    for file in files:
                        os.close(file)

    def close(self) -> None:
        for server in self._servers.values():
            server.close()
        self._servers.clear()


class _Server:
    def __init__(
        self, modules: Sequence[str], environ: Mapping[str, str] | None = None, parent: "_Server | None" = None
    ) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 closed below
        self._children: dict[tuple[str, ...], _Server] = {}
        with theirs:
            if parent is not None:
                self._process = parent.fork({"modules": modules}, self._log, theirs)
                return
            self._process = subprocess.Popen(
                [sys.executable, fork_server.__file__, str(theirs.fileno()), *modules],
                # Arrow's allocator would start a thread on import, and only a process of one thread may fork.
                env={**environ, "JE_ARROW_MALLOC_CONF": "background_thread:false"},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
            )

    def that_imports(self, modules: tuple[str, ...]) -> "_Server":
        """This one, or one of its own that imports these too."""
        if not modules:
            return self
        if modules not in self._children:
            self._children[modules] = _Server(modules, parent=self)
        return self._children[modules]

    def fork(self, request: dict, output: IO, *more: socket.socket) -> ForkedWorker:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.send(request, [file.fileno() for file in (theirs, output, *more)])
        return ForkedWorker(self, ours)

    def send(self, request: dict, files: Sequence[int]) -> None:
        """Has it fork a worker; `files` are its life line, its output, and what else the request is about."""
        try:
            socket.send_fds(self._control, [json.dumps(request).encode()], files)
        except BrokenPipeError:
            raise RuntimeError(f"a fork server died: {self.last_words()}") from None

    def last_words(self) -> str:
        """What a server that is ending printed."""
        self._process.wait()
        self._log.seek(0)
        return self._log.read()[-3000:].strip()

    def close(self) -> None:
        for child in self._children.values():
            child.close()
        self._control.close()
        self._process.wait()
        self._log.close()
