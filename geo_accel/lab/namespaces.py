# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Linux namespaces: is the lab allowed to make them, and the few system calls that Python before 3.12 lacks."""

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

CLONE_NEWNET = 0x40000000
_SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"
_TRIAL_TIMEOUT_S = 20.0


class LabUnavailable(ValueError):
    """This machine does not let the lab make its network; the message is one line and says what is missing."""


def tool_path() -> str:
    """PATH with the folders of system tools added: ordinary users often lack the ones where ip and tc live."""
    return os.environ.get("PATH", os.defpath) + ":" + _SYSTEM_FOLDERS


def unshare_command() -> list[str]:
    """The start of the command line that runs a program in new network, mount and process namespaces.

    The program dies with the returned `unshare` process, and with it everything inside. Root gets namespaces
    without a user namespace where that is allowed. Raises LabUnavailable if no way works here.
    """
    if not sys.platform.startswith("linux"):
        raise LabUnavailable(f"network namespaces need Linux; this is {sys.platform}")
    for tool, package in (("unshare", "util-linux"), ("ip", "iproute2"), ("tc", "iproute2")):
        if shutil.which(tool, path=tool_path()) is None:
            raise LabUnavailable(f"the command '{tool}' was not found; install the package {package}")
    unshare = shutil.which("unshare", path=tool_path())
    namespaces = ["--net", "--mount", "--pid", "--fork", "--kill-child"]
    ways = [["--user", "--map-root-user"]]
    if os.geteuid() == 0:
        ways.insert(0, [])
    assert unshare is not None  # just found
    said: list[str] = []
    for way in ways:
        command = [unshare, *way, *namespaces]
        trial = subprocess.run([*command, "true"], capture_output=True, text=True, timeout=_TRIAL_TIMEOUT_S)
        if trial.returncode == 0:
            return command
        said = trial.stderr.strip().splitlines()
    raise LabUnavailable(_why_refused(said))


def why_unavailable() -> str | None:
    """None where the lab can shape a network; else one line saying what is missing."""
    try:
        unshare_command()
    except LabUnavailable as reason:
        return str(reason)
    return None


def _why_refused(messages: list[str]) -> str:
    said = messages[-1] if messages else "no message"
    settings = {
        "/proc/sys/user/max_user_namespaces": ("0", "user namespaces are switched off (user.max_user_namespaces=0)"),
        "/proc/sys/kernel/unprivileged_userns_clone": (
            "0",
            "user namespaces are for root only (kernel.unprivileged_userns_clone=0)",
        ),
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": (
            "1",
            "AppArmor restricts user namespaces (kernel.apparmor_restrict_unprivileged_userns=1)",
        ),
    }
    for path, (bad_value, meaning) in settings.items():
        with contextlib.suppress(OSError):
            if Path(path).read_text().strip() == bad_value:
                return f"{meaning}; run as root or change the setting ({said})"
    return f"namespaces are not allowed here, as in an unprivileged container; run with more rights ({said})"


def new_network_namespace() -> int:
    """Makes a network namespace and returns a file descriptor that keeps it alive; the caller stays where it was."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call("unshare", CLONE_NEWNET)
        try:
            return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            _call("setns", home, CLONE_NEWNET)
    finally:
        os.close(home)


@contextlib.contextmanager
def inside(namespace_fd: int) -> Generator[None]:
    """Runs the block, and processes started in it, in a network namespace. For single-threaded programs."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call("setns", namespace_fd, CLONE_NEWNET)
        try:
            yield
        finally:
            _call("setns", home, CLONE_NEWNET)
    finally:
        os.close(home)


def mount(source: str, target: str, kind: str | None = None, *, bind: bool = False) -> None:
    """mount(2); raises OSError naming the target."""
    # No set-uid programs, no devices, no execution: the kernel refuses more than a container's own mounts have.
    flags = 0x1000 if bind else 0xE
    arguments = source.encode(), target.encode(), kind.encode() if kind else None, ctypes.c_ulong(flags), None
    _call("mount", *arguments, subject=target)


def unmount(target: str) -> None:
    """umount2(2), detaching at once: what was bound elsewhere from it stays. Raises OSError."""
    _call("umount2", target.encode(), 2, subject=target)


def become_subreaper() -> None:
    """Makes orphaned descendants children of this process, so that it can find and end them."""
    _call("prctl", 36, 1, 0, 0, 0)


def _call(name: str, *arguments: object, subject: str = "") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}", subject or None)
