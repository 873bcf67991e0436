# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from torch import nn

from geo_accel.sync.losses import LossWatch


class Model(nn.Module):
    def forward(self, value):
        return value if isinstance(value, torch.Tensor) else {"loss": value and torch.tensor(value)}


def test_losses_in_training_are_summed_up_and_taken():
    model = Model()
    watch = LossWatch(model)
    for value in (1.0, 2.0, 3.0):
        model(value)
    model.eval()
    model(100.0)  # evaluation is none of its business
    model.train()
    model(torch.ones(3))  # no loss
    model(None)
    count, mean, error = watch.take()
    assert (count, mean) == (3, 2.0) and error == pytest.approx((2 / 3 / 3) ** 0.5)
    assert watch.take() == (0, 0.0, 0.0)
    watch.remove()
    model(1.0)
    assert watch.take() == (0, 0.0, 0.0)
