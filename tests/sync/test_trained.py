# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import logging

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from geo_accel.sync.trained import trained_units
from tests.workers.models import build_model


def names(units):
    return {name for unit in units for name, _ in unit.parameters}


def test_a_head_that_was_made_after_the_optimizer_is_not_sent_and_named(caplog):
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=20, tie_word_embeddings=False, **shape))
    optimizer = torch.optim.AdamW(model.parameters())
    everything = names(trained_units(model, [optimizer], says=True))
    assert not caplog.messages and everything == {name for name, _ in model.named_parameters()}
    model.resize_token_embeddings(24)
    with caplog.at_level(logging.WARNING, "geo_accel"):
        units = trained_units(model, [optimizer], says=True)
        trained_units(model, [optimizer], says=False)
    assert everything - names(units) == {"lm_head.weight"}  # transformers grows the embeddings in place
    (line,) = [record.getMessage() for record in caplog.records if record.name == "geo_accel"]
    assert "lm_head.weight would get gradients, but no optimizer has it" in line and "\n" not in line


def test_two_optimizers_train_one_model_together():
    model = build_model("gpt2")
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    both = [torch.optim.SGD(matrices, lr=0.1), torch.optim.AdamW(others)]
    assert names(trained_units(model, both, says=False)) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("optimizers", [[], [None], [torch.optim.SGD([torch.zeros(3)])]])
def test_where_optimizers_are_not_known_or_hold_copies_everything_is_sent(optimizers):
    model = build_model("gpt2")
    assert names(trained_units(model, optimizers, says=False)) == {name for name, _ in model.named_parameters()}


def test_adapters_whose_ranks_a_site_would_choose_for_itself_are_refused():
    from peft import AdaLoraConfig, get_peft_model

    shape = {"init_r": 4, "target_r": 2, "tinit": 2, "tfinal": 2, "total_step": 20}
    adapters = AdaLoraConfig(target_modules=["c_attn"], fan_in_fan_out=True, **shape)
    model = get_peft_model(build_model("gpt2"), adapters)
    with pytest.raises(ValueError, match="adapter default is AdaLoRA, which cuts ranks by a site's own gradients"):
        trained_units(model, [], says=True)
