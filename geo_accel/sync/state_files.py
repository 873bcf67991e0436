# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The files of a sync state: written whole, with size and CRC-32 to know them by, and read only where those are right.

Whatever is wrong with a file, one clear line names it. Nothing in a file is executed.
"""

import io
import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

import numpy as np
import torch
from safetensors.torch import load_file, save

from geo_accel.profile.document import write_whole

Mark = list[int]
"""Size in bytes and CRC-32: what a file is known by."""

_CHUNK = 1 << 20
# Numbers that schedulers keep, as whoever computes a metric with numpy hands them over. Data, no code.
_NUMBERS = [
    # pyrefly: ignore[implicit-import] (which of the two there is, numpy has imported)
    np._core.multiarray.scalar if hasattr(np, "_core") else np.core.multiarray.scalar,
    np.dtype,
    *{type(np.dtype(kind)) for kind in (np.float64, np.float32, np.float16, np.int64, np.int32, np.bool_)},
]


class _Marking:
    """A file that is being written, and its mark. Says why writing failed, which torch does not."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._size, self._crc = file, 0, 0
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        view = memoryview(data).cast("B")
        try:
            self._file.write(view)
        except OSError as error:
            self.error = error
            raise
        self._size += view.nbytes
        self._crc = zlib.crc32(view, self._crc)
        return view.nbytes

    def flush(self) -> None:
        self._file.flush()

    @property
    def mark(self) -> Mark:
        return [self._size, self._crc]


def write_objects(path: Path, content: Mapping[str, Any]) -> Mark:
    """Writes state dicts: tensors, numbers, text and what is made of them.

    Raises OSError where the disk will not have it, ValueError for what could not be read back safely.
    """

    def check(partial: Path) -> None:
        try:
            _load(partial, mmap=True)
        except Exception as error:
            raise ValueError(
                f"{path.name}: this state holds Python objects that are not read back from a file, for safety "
                f"({_reason(error)}); keep tensors, numbers and text in what is saved."
            ) from error

    return _write(path, lambda file: torch.save(dict(content), file), check)


def write_unchecked(path: Path, content: Mapping[str, Any]) -> Mark:
    """As `write_objects`, whatever the state holds: where there is no later chance to save it."""
    return _write(path, lambda file: torch.save(content, file))


def can_be_read_back(content: Mapping[str, Any]) -> bool:
    """Whether `write_objects` would take it."""
    held = io.BytesIO()
    try:
        torch.save(content, held)
        held.seek(0)
        _load(held)
    except Exception:
        return False
    return True


def write_tensor(path: Path, name: str, tensor: torch.Tensor) -> Mark:
    """Raises OSError where the disk will not have it."""
    return _write(path, lambda file: file.write(save({name: tensor.contiguous()})))


def write_record(path: Path, fields: Mapping[str, Any]) -> None:
    """Writes JSON with a checksum of itself. Raises OSError where the disk will not have it."""
    text = json.dumps({**fields, "checksum": _checksum(fields)}, indent=1)
    _write(path, lambda file: file.write(text.encode()))


def read_record(path: Path, version: int) -> dict[str, Any]:
    """Raises ValueError, naming the file, for whatever is not such a record of this `version`."""
    try:
        record = json.loads(path.read_bytes())
        found = record.pop("version")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path.name} is not readable ({_reason(error)}).") from None
    if found != version:
        raise ValueError(f"{path.name} has version {found!r}, this geo_accel reads {version}.")
    checksum = record.pop("checksum", None)
    if checksum != _checksum({"version": found, **record}):
        raise ValueError(f"{path.name} is damaged: its own checksum is another.")
    return record


def read_objects(path: Path, marks: Mapping[str, list[Mark]]) -> dict[str, Any]:
    """What `write_objects` wrote, on the CPU. `marks` holds, by name, what each file of the checkpoint may be.

    Raises ValueError, naming the file, where it is missing, damaged or another one.
    """
    return _read(path, marks, _load)


def read_tensor(path: Path, name: str, marks: Mapping[str, list[Mark]]) -> torch.Tensor:
    """What `write_tensor` wrote; otherwise as `read_objects`."""
    return _read(path, marks, lambda path: load_file(path)[name])


def _write(
    path: Path, fill: Callable[[BinaryIO], object], check: Callable[[Path], object] = lambda partial: None
) -> Mark:
    def write(partial: Path) -> None:
        nonlocal marking
        with open(partial, "wb") as file:
            marking = _Marking(file)
            try:
                fill(cast(BinaryIO, marking))  # of which torch asks for what there is
            except RuntimeError:
                if marking.error is not None:
                    raise marking.error from None
                raise
        check(partial)

    marking: _Marking | None = None
    try:
        write_whole(path, write)
    except OSError as error:
        raise OSError(f"{path} could not be written ({error.strerror or error}).") from error
    assert marking is not None
    return marking.mark


def _read(path: Path, marks: Mapping[str, list[Mark]], load: Callable[[Path], Any]) -> Any:
    try:
        found = _mark(path)
        if found in marks[path.name]:
            return load(path)
    except FileNotFoundError:
        raise ValueError(f"{path.name} is missing; was the checkpoint copied whole?") from None
    except Exception as error:
        raise ValueError(f"{path.name} cannot be read ({_reason(error)}).") from error
    _refuse(path, found, marks)


def _refuse(path: Path, found: Mark, marks: Mapping[str, list[Mark]]) -> NoReturn:
    other = next((name for name, known in marks.items() if found in known), None)
    if other is not None:
        raise ValueError(f"{path.name} is {other}, renamed: were files exchanged? Put each back under its own name.")
    size = marks[path.name][0][0]
    what = f"{found[0]} bytes were found, {size} were written" if found[0] != size else "its checksum is another"
    raise ValueError(f"{path.name} is damaged or of another checkpoint: {what}. Copy it again.")


def _mark(path: Path) -> Mark:
    size = crc = 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            crc = zlib.crc32(chunk, crc)
    return [size, crc]


def _load(source: Path | BinaryIO, mmap: bool = False) -> dict[str, Any]:
    with torch.serialization.safe_globals(_NUMBERS):
        return torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)


def _checksum(fields: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(fields, sort_keys=True).encode())


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
