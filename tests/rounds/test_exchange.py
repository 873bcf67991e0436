# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Exchanges and agreements among 2 to 5 sites: the same bits everywhere, nothing lost, and mistakes that show."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geo_accel.config import SPARSE_CODECS
from geo_accel.config.parts import Outer, Overlap
from geo_accel.plan.averaging import Averaging
from geo_accel.plan.members import Members
from geo_accel.plan.ratios import coefficients
from geo_accel.rounds import exchange
from geo_accel.rounds.agreement import NotFiniteError, Snapshot, agree
from geo_accel.rounds.exchange import Scratch, Terms
from geo_accel.rounds.outer import OuterStep
from geo_accel.transport.memory import Lines, MemoryTransport
from geo_accel.wire.codec import get_codec
from tests.transport.threads import bits, message, on_all_sites, payload_bytes, topology_of

DENSE = ("fp32", "bf16", "int8", "int4", "int2")


def overlaps(sites):
    return st.builds(Overlap, threshold=st.integers(1, sites), gain=st.floats(1, 2 * sites))


@st.composite
def rules(draw, sites):
    """Anything that a plan may say."""
    codec = draw(st.sampled_from((*DENSE, *SPARSE_CODECS)))
    sparse = codec in SPARSE_CODECS
    kept = tuple(draw(st.integers(1, 900)) for _ in range(sites)) if sparse else ()
    if codec == "randk":
        kept = kept[:1] * sites
    weighs = sparse and draw(st.booleans())
    return Averaging(
        codec=codec,
        exchange=draw(st.sampled_from(("direct", "hub") if sparse else ("direct", "hub", "two-shot"))),
        hub=draw(st.integers(0, sites - 1)),
        kept=kept,
        residual=draw(st.sampled_from(("weights", "buffer"))) if sparse else "weights",
        overlap=draw(overlaps(sites)) if weighs else Overlap(),
        coefficients=draw(st.sampled_from(((), coefficients([1] * sites, range(1, sites + 1))))),
    )


class Site:
    """One site's weights, and what the engine keeps for them."""

    def __init__(self, transport, size, seed=0):
        self.transport = transport
        self.weights = torch.zeros(size)
        self.anchor = torch.zeros(size)
        self.residual = None
        self.outer = OuterStep(size)
        self.scratch = Scratch()
        self.noise = torch.Generator().manual_seed(1000 * seed + transport.topology.rank)

    def drift(self, scale=1.0):
        change = torch.randn(len(self.weights), generator=self.noise) * scale
        self.weights += change
        return change

    def round(self, rule, number=0, outer=None, terms=Terms):
        if rule.residual == "buffer" and self.residual is None:
            self.residual = torch.zeros_like(self.anchor)
        snapshot = Snapshot(self.weights.clone())
        for _ in agree(
            self.transport,
            terms(averaging=rule, scratch=self.scratch, message=message(number), seed=number),
            snapshot,
            self.anchor,
            [(0, len(self.weights))],
            lambda agreed, lo, hi: self.outer.step(outer or Outer(), agreed, lo, hi),
            replaces=False,
            residual=self.residual,
        ):
            pass
        self.weights += snapshot.values


@st.composite
def cases(draw):
    sites = draw(st.integers(2, 5))
    changing = [draw(rules(sites)) for _ in range(draw(st.integers(1, 3)))]
    return sites, draw(st.sampled_from([1, 2, 127, 4096, 4097, 9001])), changing, draw(st.integers(0, 99))


@settings(max_examples=60)
@given(cases())
def test_all_sites_hold_the_same_bits_whatever_the_plan(case):
    sites, size, changing, seed = case

    def life(transport):
        site = Site(transport, size, seed)
        for number, rule in enumerate(changing):
            site.drift()
            site.round(rule, number)
        return site.anchor

    anchors = on_all_sites(sites, life)
    assert len(bits(anchors)) == 1 and torch.isfinite(anchors[0]).all()


@settings(max_examples=60)
@given(cases())
def test_nothing_that_was_not_sent_is_lost(case):
    """Codecs, exchanges and coefficients change from round to round; an exact round at the end finds everything."""
    sites, size, changing, seed = case
    shares = coefficients([1] * sites, range(1, sites + 1))
    plain = [
        Averaging(codec=r.codec, exchange=r.exchange, hub=r.hub, kept=r.kept, coefficients=shares) for r in changing
    ]

    def life(transport):
        site = Site(transport, size, seed)
        drifted = torch.zeros(size, dtype=torch.float64)
        for number, rule in enumerate([*plain, Averaging(coefficients=shares)]):
            drifted += site.drift()
            site.round(rule, number)
        return site.anchor, site.weights, drifted

    results = on_all_sites(sites, life)
    wanted = sum(share * drifted for share, (_, _, drifted) in zip(shares, results, strict=True))
    for anchor, weights, _ in results:
        torch.testing.assert_close(anchor.double(), wanted, atol=2e-4, rtol=1e-4)
        torch.testing.assert_close(weights, anchor, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("exact", [Averaging(), Averaging(exchange="hub")])
def test_an_exact_round_takes_along_what_a_buffer_holds(exact):
    rule = Averaging(codec="topk", kept=(40, 40, 40), residual="buffer")

    def life(transport):
        site = Site(transport, 5000)
        change = site.drift()
        site.round(rule)
        waiting = site.residual.abs().sum().item()
        site.round(exact)
        return site.anchor, change, waiting, site.residual.abs().sum().item()

    results = on_all_sites(3, life)
    torch.testing.assert_close(results[0][0], sum(change for _, change, _, _ in results) / 3, atol=1e-5, rtol=1e-5)
    assert all(before > 0 and after == 0 for _, _, before, after in results)


def test_a_buffer_s_content_goes_into_the_weights_where_the_next_plan_has_none():
    def life(transport):
        site = Site(transport, 5000)
        change = site.drift()
        site.round(Averaging(codec="topk", kept=(40, 40), residual="buffer"))
        site.round(Averaging(codec="topk", kept=(40, 40)))
        assert not site.residual.any()
        site.round(Averaging())
        return site.anchor, change

    results = on_all_sites(2, life)
    torch.testing.assert_close(results[0][0], (results[0][1] + results[1][1]) / 2, atol=1e-5, rtol=1e-5)


def test_without_feedback_what_was_not_sent_is_gone():
    def life(transport):
        site = Site(transport, 5000)
        site.drift()
        site.round(Averaging(codec="topk", kept=(40, 40), residual="none"))
        return site.weights, site.anchor

    for weights, anchor in on_all_sites(2, life):
        torch.testing.assert_close(weights, anchor)  # all the way to the agreement, with nothing left over


def test_the_contributor_mean_does_not_divide_what_one_site_sent():
    rule = Averaging(codec="topk", kept=(1, 1), overlap=Overlap.mean_of_senders(2))

    def life(transport):
        site = Site(transport, 4096)
        site.weights[transport.topology.rank] = 8.0  # each site its own coordinate
        site.round(rule)
        return site.anchor

    for anchor in on_all_sites(2, life):
        assert anchor[:3].tolist() == [8.0, 8.0, 0.0]


@pytest.mark.parametrize("kind", ["direct", "hub", "two-shot"])
def test_what_is_sent_is_what_the_cost_model_says(kind):
    from geo_accel.plan.cost import Cost
    from geo_accel.profile.profile import Profile, UnitProfile

    sites, size = 4, 400_000
    for codec in (*DENSE, *(() if kind == "two-shot" else SPARSE_CODECS)):
        kept = (100,) * sites if codec == "randk" else (41, 410, 100, 41) if codec == "topk" else ()
        rule = Averaging(codec=codec, exchange=kind, hub=1, kept=kept)

        def life(transport, rule=rule):
            site = Site(transport, size)
            site.drift()
            site.round(rule)
            return sum(payload_bytes(transport))

        profile = Profile(units=(UnitProfile(name="a", numel=size, backward_s=1.0),))
        predicted = Cost(profile=profile, averaging=rule, members=Members(sites)).nbytes(size)
        assert sum(on_all_sites(sites, life)) / sites == pytest.approx(predicted, rel=0.02), codec


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("codec", ["fp32", "int8", "topk"])
def test_what_is_not_finite_is_refused_before_it_is_sent(bad, codec):
    transport = MemoryTransport(topology_of(0, sites=2), 0.0, Lines())  # nobody answers: a swap would fail
    site = Site(transport, 5000)
    site.weights[4321] = bad
    with pytest.raises(NotFiniteError) as caught:
        site.round(Averaging(codec=codec, kept=(5, 5) if codec == "topk" else ()))
    assert caught.value.place == 4321 and transport.bytes_sent == 0


def test_large_finite_values_are_not_refused():
    def life(transport):
        site = Site(transport, 3000)
        site.weights.fill_(3e38)  # whose sum is infinite
        site.round(Averaging(codec="bf16"))
        return site.anchor

    assert len(bits(on_all_sites(2, life))) == 1


# ---- the three mistakes of papers.md B, made on purpose: each must show as anchors that differ


class OwnDeltaUndecoded(Terms):
    """Averages the others' decoded payloads with one's own exact values."""

    def codec(self, site):
        codec = super().codec(site)
        exact = SimpleNamespace(name=codec.name, lossless=False, block=codec.block, encoded_bytes=codec.encoded_bytes)
        kept = []

        def encode(values, out):
            kept.append(values.clone())
            return codec.encode(values, out)

        def decode(payload, out):
            return out.copy_(kept.pop()) if kept else codec.decode(payload, out)

        exact.encode, exact.decode = encode, decode
        return exact


class RotatedOrder(Terms):
    """Adds up beginning with oneself."""

    me = 0

    def average(self, heard, sites, out):
        super().average(lambda site, room: heard((site + self.me) % sites, room), sites, out)


def anchors_with(terms_of, rule, sites=3):
    def life(transport):
        site = Site(transport, 9001)
        for number in range(3):
            site.drift()
            site.round(rule(transport.topology.rank), number, terms=terms_of(transport.topology.rank))
        return site.anchor

    return on_all_sites(sites, life)


def test_sites_that_do_it_right_agree():
    anchors = anchors_with(lambda rank: Terms, lambda rank: Averaging(codec="int8"))
    assert len(bits(anchors)) == 1


def test_an_own_delta_that_was_not_decoded_shows():
    anchors = anchors_with(lambda rank: OwnDeltaUndecoded, lambda rank: Averaging(codec="int8"))
    assert len(bits(anchors)) == 3


def test_a_rotated_order_of_addition_shows():
    anchors = anchors_with(
        lambda rank: type("Own", (RotatedOrder,), {"me": rank}), lambda rank: Averaging(codec="int8")
    )
    assert len(bits(anchors)) > 1


def test_coefficients_from_local_estimates_show():
    def rule(rank):  # each site has measured the ratios a little differently
        shares = [0.3 + 1e-7 * rank, 0.3, 0.4 - 1e-7 * rank]
        return Averaging(codec="int8", coefficients=tuple(shares))

    assert len(bits(anchors_with(lambda rank: Terms, rule))) > 1


def test_anchors_agree_over_200_rounds_with_unequal_ratios():
    rule = Averaging(
        codec="topk",
        exchange="hub",
        hub=2,
        kept=(41, 410, 200, 7),
        residual="buffer",
        overlap=Overlap.mean_of_senders(4),
    )

    def life(transport):
        site, seen = Site(transport, 6000), []
        for number in range(200):
            site.drift(0.1)
            site.round(rule, number, outer=Outer(lr=0.9, momentum=0.3))
            seen.append(hash(site.anchor.numpy().tobytes()))
        return seen

    seen = on_all_sites(4, life)
    assert all(one == seen[0] for one in seen) and len(set(seen[0])) == 200


def test_answers_of_a_hub_have_room_for_all_that_was_kept():
    for kept in ((41, 41), (41, 410, 1000), (4000, 4000)):
        rule = Averaging(codec="topk", exchange="hub", kept=kept)
        codec = Terms(averaging=rule, scratch=Scratch(), message=message()).answer_codec()
        assert codec.name == "int8" or codec.kept >= min(4096, sum(kept))
        assert codec.encoded_bytes(exchange.CHUNK) <= get_codec("int8").encoded_bytes(exchange.CHUNK)
