# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What sites wish: the same everywhere at the same boundary, and nothing twice or lost."""

from hypothesis import given
from hypothesis import strategies as st

from geo_accel.sync.wishes import WISHES, Wishes

lives = st.lists(
    st.tuples(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(WISHES)), max_size=3), st.booleans()),
    min_size=1,
    max_size=40,
)


@given(lives, st.integers(1, 5))
def test_all_sites_meet_the_same_wishes_at_the_same_boundary(life, delay):
    """Three sites; in some steps a round begins, which is applied `delay` steps later."""
    sites = [Wishes() for _ in range(3)]
    flying, wished, met = [], set(), set()
    steps = [*life, *[([], True)] * (2 * delay + 2)]
    for step, (wishes, round_begins) in enumerate(steps, start=1):
        while flying and flying[0][0] <= step:
            _, begun, bits = flying.pop(0)
            for site in sites:
                site.heard(bits, begun=begun, boundary=step)
        taken = {site.take() for site in sites}
        assert len(taken) == 1
        for what in taken.pop():
            met.add(what)
            assert any(w == what and s < step for s, w in wished)
        for site, what in wishes:
            sites[site].wish(what)
            wished.add((step, what))
        if round_begins:
            bits = 0
            for site in sites:
                bits |= site.told()
            flying.append((step + delay, step, bits))
    assert met == {what for _, what in wished}


def test_two_sites_that_wish_the_same_within_a_delay_get_it_once():
    site = Wishes()
    site.wish("save")
    bits = site.told()
    assert bits and not site.told()
    site.heard(bits, begun=3, boundary=6)
    assert site.take() == {"save"} and not site.take()
    site.heard(bits, begun=5, boundary=8)  # wished by another before all saved
    assert not site.take()
    site.heard(bits, begun=7, boundary=10)
    assert site.take() == {"save"}
