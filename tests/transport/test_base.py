# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What every maker's swaps share."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from geo_accel.topology import Site, Topology
from geo_accel.transport.base import Transport
from geo_accel.transport.errors import OutOfStepError
from geo_accel.transport.identity import Identity, Message
from tests.transport.threads import message, on_all_sites


class Telling(Transport):
    """Carries nothing, and keeps what is told."""

    def carry(self, sends, receives, message):
        self.told = message.identity
        return {}

    def close(self):
        pass


def test_every_message_says_of_which_generation_of_sites_it_is():
    transport = Telling(Topology(sites=(Site("site0", (0,)),), rank=0, generation=7), deadline_s=1800)
    message = Message(Identity(kind="round", step=3))
    transport.swap({}, {}, message)
    assert transport.told == Identity(kind="round", step=3, generation=7) and message.identity.phase == 1


class Broken(Transport):
    """Carries nothing, and counts how often it is asked."""

    asked = 0

    def carry(self, sends, receives, message):
        self.asked += 1
        raise OutOfStepError("site0 flushes while site1 averages")

    def close(self):
        pass


def test_after_a_swap_that_failed_none_waits_any_more():
    # What is queued behind it used to wait for a peer that waited as well, after both scripts had ended.
    transport = Broken(Topology(sites=(Site("site0", (0,)), Site("site1", (1,))), rank=0), deadline_s=1800)
    payload = {1: torch.zeros(1, dtype=torch.uint8)}
    said = []
    for step in range(3):
        with pytest.raises(OutOfStepError) as raised:
            transport.swap(payload, payload, Message(Identity(kind="round", step=step)))
        said.append(str(raised.value))
    assert transport.asked == 1 and len(set(said)) == 1


def test_two_threads_cannot_swap_over_one_transport():
    """Sounding the link on the training thread did, beside rounds: gloo would have taken one's messages for the
    other's."""

    def work(transport):
        if transport.topology.rank == 1:
            time.sleep(0.3)
            swap(transport)
            return None
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(swap, transport)
            time.sleep(0.1)
            with pytest.raises(AssertionError, match="two threads swap over one transport"):
                swap(transport)
            return first.result(10)

    def swap(transport):
        other = 1 - transport.topology.rank
        transport.swap({other: torch.zeros(3)}, {other: torch.zeros(3)}, message())

    assert on_all_sites(2, work) == [None, None]
