# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""JSON documents with a version: whatever is wrong with one, one clear line says it; files are written whole."""

import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def parse(kind: str, text: str, version: int, build: Callable[[dict], T], former: tuple[int, ...] = ()) -> T:
    """What `build` makes of the fields of a document of `kind` ("plan", "profile"), its version taken out.

    `former` are versions that `build` reads as well. Raises ValueError, in one line that begins with the kind, for
    text that is not JSON, of another version, or not made of the fields that `build` asks for.
    """
    try:
        fields = json.loads(text)
        found = fields.pop("version")
        if found not in (version, *former):
            readable = " and ".join(map(str, (*former, version)))
            raise ValueError(f"{kind}: version {found!r} was found; this geo_accel reads {readable}.")
        return build(fields)
    except json.JSONDecodeError as error:
        raise ValueError(f"{kind}: not JSON, or cut off ({error}).") from None
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{kind}: not a {kind} ({type(error).__name__}: {error}).") from None


def read(kind: str, path: str | os.PathLike, from_json: Callable[[str], T]) -> T:
    """The document in a file. Raises ValueError, in one line that names the file, for anything else."""
    try:
        return from_json(Path(path).read_text("utf-8"))
    except UnicodeDecodeError:
        raise ValueError(f"{path}: {kind}: not text.") from None
    except OSError as error:
        raise ValueError(f"{path}: {kind}: cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a temporary file and renames it to `path`: a crash or full disk leaves the file as it was."""
    partial = _beside(path)
    try:
        write(partial)
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_whole_folder(path: Path, write: Callable[[Path], object]) -> None:
    """As `write_whole`, for a folder that `write` fills."""
    partial, former = _beside(path), _beside(path)
    try:
        partial.mkdir(parents=True)
        write(partial)
        if path.exists():
            path.rename(former)
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(former, ignore_errors=True)


def _beside(path: Path) -> Path:
    """A new name; machines that share a disk may have processes of one number."""
    return path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
