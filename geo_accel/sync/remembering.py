# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What was measured over a transport and planned for it, for the next engine of the same model on it.

Whoever makes an engine per epoch measures in the first one only.
"""

import hashlib
import json
from collections.abc import Hashable
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from geo_accel.plan.plan import Plan
from geo_accel.profile.profile import Profile
from geo_accel.transport.base import Transport
from geo_accel.transport.store import ControlPlane

_MEMORIES: "WeakKeyDictionary[Transport, dict[Hashable, Known]]" = WeakKeyDictionary()


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Of one model and one config: the last plan, and the profile that it was made from."""

    plan: Plan
    profile: Profile

    @property
    def fingerprint(self) -> str:
        text = json.dumps([self.plan.to_json(), self.profile.to_json()])
        return hashlib.sha256(text.encode()).hexdigest()


def keep(transport: Transport, key: Hashable, known: Known) -> None:
    """Remembers it as long as `transport` lives, in place of what was remembered before."""
    _MEMORIES.setdefault(transport, {})[key] = known


def recall(transport: Transport, key: Hashable, control: ControlPlane) -> Known | None:
    """What all ranks remember alike; None where any remembers nothing or something else. Collective.

    Ranks that share a transport have made the same engines on it, so where it is new nobody needs to be asked.
    """
    if transport not in _MEMORIES:
        return None
    known = _MEMORIES[transport].get(key)
    told = control.gather("recalling a plan", known.fingerprint if known is not None else None)
    if known is None or set(told) != {known.fingerprint}:
        return None
    return replace(known, plan=replace(known.plan, reason=_again(known.plan.reason)))


def _again(reason: str) -> str:
    return reason if reason.startswith("as before: ") else f"as before: {reason}"
