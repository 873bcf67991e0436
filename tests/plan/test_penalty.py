# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
from dataclasses import replace

import pytest

from geo_accel.config import DENSE_CODECS
from geo_accel.config.parts import Outer
from geo_accel.plan.averaging import Averaging
from geo_accel.plan.penalty import PenaltyTable, penalties

MEAN, FAST = Outer(), Outer(lr=0.9, momentum=0.5)
INT8 = Averaging(codec="int8")
TABLE = PenaltyTable(
    by_period={
        (2, Outer()): ((1, 0.01), (4, 0.02), (16, 0.06)),
        (2, FAST): ((16, 0.03),),
        (4, Outer()): ((4, 0.05),),
    },
    codecs={"fp32": 0.0, "bf16": 0.0, "int8": 0.0, "int4": 0.004, "int2": 0.01},
    topk=((0.01, 0.1), (0.1, 0.02)),
    delays=((0.0, 0.0), (1.0, 0.01)),
    large={FAST: ((12, -0.01), (32, 0.004))},
)


def expected(period, averaging=INT8, delay=1, outer=MEAN, sites=2):
    return TABLE.expected(period, delay, averaging, outer, sites)


@pytest.mark.parametrize("period, penalty", [(1, 0.01), (2, 0.015), (4, 0.02), (8, 0.04), (16, 0.06), (64, 0.10)])
def test_periods_are_interpolated_by_their_logarithm(period, penalty):
    assert expected(period) == pytest.approx(penalty)


def test_codec_and_delay_are_added():
    assert expected(4, Averaging(codec="int4")) == pytest.approx(0.024)
    assert expected(4, delay=2) == pytest.approx(0.025)
    assert expected(4, delay=4) == pytest.approx(0.03)


def test_ratios_are_interpolated_by_their_logarithm():
    shares = {41: 0.1, 410: 0.02, 130: 0.06, 4: 0.1, 4096: 0.02}
    for kept, extra in shares.items():
        found = expected(1, Averaging(codec="topk", kept=(kept, kept))) - 0.01
        assert found == pytest.approx(extra, abs=0.001)


def test_the_nearest_number_of_sites_counts():
    assert expected(4, sites=8) == pytest.approx(0.05) and expected(4, sites=2) == pytest.approx(0.02)


def test_an_outer_step_is_taken_only_near_where_it_was_better():
    assert TABLE.best_outer(16, 2) == TABLE.best_outer(12, 2) == FAST
    assert TABLE.best_outer(4, 2) == Outer()  # it would be better there by the table, but nobody measured that
    assert TABLE.best_outer(64, 2) == Outer()
    assert TABLE.best_outer(22, 2) == Outer()  # better with the small model, worse with the large one
    assert replace(TABLE, large={}).best_outer(16, 2) == Outer()
    assert TABLE.best_outer(16, 4) == Outer()


def test_the_table_that_is_shipped_knows_all_codecs_and_grows_with_the_period():
    table = penalties()
    assert set(table.codecs) == set(DENSE_CODECS) and table.topk
    values = [table.expected(period, 1, INT8, Outer(), 2) for period in (1, 2, 4, 8, 16, 32, 64, 256)]
    assert values == sorted(values) and values[0] < values[-1] < 1
    few, many = (Averaging(codec="topk", kept=(kept, kept)) for kept in (8, 800))
    assert table.expected(4, 1, few, Outer(), 2) >= table.expected(4, 1, many, Outer(), 2)
