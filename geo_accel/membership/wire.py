# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Messages and records as JSON. What comes from the network or from a file is believed only where it can be meant."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from geo_accel.membership.generation import Generation, Version
from geo_accel.membership.member import Record
from geo_accel.membership.messages import (
    Accept,
    Accepted,
    Alive,
    Ballot,
    Decided,
    Join,
    Message,
    Prepare,
    Promise,
)
from geo_accel.membership.succession import Votes

_KINDS: dict[str, type[Message]] = {
    kind.__name__.lower(): kind for kind in (Alive, Join, Prepare, Promise, Accept, Accepted, Decided)
}
Readers = dict[str, Callable[[object], Any]]
"""By field, what makes of JSON what it is; raises ValueError or TypeError for what cannot be meant."""
_LARGEST = 2**53
_LONGEST_NAME, _MOST_MEMBERS, _MOST_GENERATIONS = 128, 4096, 65_536


def as_json(message: Message) -> dict[str, Any]:
    """Ready for `json.dumps`."""
    fields = {name: _plain(getattr(message, name)) for name in _fields_of(type(message))}
    return {"kind": type(message).__name__.lower(), **fields}


def from_json(content: object) -> Message:
    """A message that `as_json` made. Raises ValueError, in one line, for anything else."""
    name = content.get("kind") if isinstance(content, dict) else None
    if not isinstance(name, str) or name not in _KINDS:
        raise ValueError("what came is no message about members that this version of geo_accel knows")
    kind = _KINDS[name]
    return kind(**_read(name, content, _fields_of(kind), {"kind"}))


def record_as_json(record: Record) -> dict[str, Any]:
    """Ready for `json.dumps`."""
    votes = {"promised": _plain(record.votes.promised), "accepted": _plain(record.votes.accepted)}
    return {"history": _plain(record.history), **votes}


def record_from_json(content: object) -> Record:
    """A record that `record_as_json` made. Raises ValueError, in one line, for anything else."""
    readers: Readers = {"history": _generations, "promised": _ballot, "accepted": _accepted}
    fields = _read("record", content, readers, set())
    history = fields["history"]
    if any(later.number != one.number + 1 for one, later in pairwise(history)):
        raise ValueError("a record of members has generations that do not follow one another")
    return Record(history, Votes(fields["promised"], fields["accepted"]))


def _plain(value: Any) -> Any:
    """With lists and objects only."""
    if isinstance(value, Generation):
        return {name: _plain(getattr(value, name)) for name in _GENERATION}
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def _read(what: str, content: object, readers: Readers, others: set[str]) -> dict[str, Any]:
    if not isinstance(content, dict) or content.keys() != readers.keys() | others:
        raise ValueError(f"a {what} about members has other fields than this version of geo_accel knows")
    found = {}
    for name, reader in readers.items():
        try:
            found[name] = reader(content[name])
        except (TypeError, ValueError) as error:
            raise ValueError(f"a {what} about members has a {name} that cannot be meant") from error
    return found


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < _LARGEST:
        raise ValueError
    return value


def _flag(value: object) -> bool:
    if type(value) is not bool:
        raise ValueError
    return value


def _name(value: object) -> str:
    if type(value) is not str or len(value) > _LONGEST_NAME or not value.isprintable():
        raise ValueError
    return value


def _items(value: object, most: int) -> list:
    if type(value) is not list or len(value) > most:
        raise ValueError
    return value


def _ballot(value: object) -> Ballot:
    number, name = _items(value, 2)
    return _count(number), _name(name)


def _version(value: object) -> Version:
    generation, rounds = _items(value, 2)
    return _count(generation), _count(rounds)


def _members(value: object) -> tuple[str, ...]:
    names = tuple(map(_name, _items(value, _MOST_MEMBERS)))
    if not names or len(set(names)) < len(names):
        raise ValueError
    return names


def _generation(value: object) -> Generation:
    return Generation(**_read("generation", value, _GENERATION, set()))


def _generations(value: object) -> tuple[Generation, ...]:
    return tuple(map(_generation, _items(value, _MOST_GENERATIONS)))


def _accepted(value: object) -> tuple[Ballot, Generation] | None:
    if value is None:
        return None
    ballot, generation = _items(value, 2)
    return _ballot(ballot), _generation(generation)


def _fields_of(kind: type[Message]) -> Readers:
    return {"generation": _count, **_FIELDS[kind]}


_GENERATION: Readers = {
    "number": _count,
    "members": _members,
    "counted": _count,
    "back_to": lambda value: None if value is None else _version(value),
}
_FIELDS: dict[type[Message], Readers] = {
    Alive: {"holds": _flag},
    Join: {"version": _version},
    Prepare: {"ballot": _ballot},
    Promise: {"ballot": _ballot, "accepted": _accepted, "whole": _count, "holds": _flag, "version": _version},
    Accept: {"ballot": _ballot, "successor": _generation},
    Accepted: {"ballot": _ballot},
    Decided: {"later": _generations},
}
