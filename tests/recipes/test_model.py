# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Fresh models, LoRA and saving."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, GPT2Config

from recipes.arguments import ModelArguments
from recipes.model import context_length, fresh_config, fresh_model, load_model, save_merged
from recipes.tokenizer import train_byte_level_bpe

TINY_GPT2 = "n_layer=2,n_embd=32,n_head=2"
TINY_LLAMA = "num_hidden_layers=2,hidden_size=32,num_attention_heads=2,intermediate_size=64"


@pytest.fixture(scope="module")
def tokenizer():
    return train_byte_level_bpe(["some text to learn from"], vocab_size=270)


def test_overrides_and_tokenizer_shape_the_configuration(tokenizer):
    config = fresh_config("gpt2", "n_layer=2, n_embd=32,n_head=2,resid_pdrop=0,scale_attn_weights=false", tokenizer)
    assert (config.n_layer, config.n_embd, config.resid_pdrop, config.scale_attn_weights) == (2, 32, 0, False)
    assert config.vocab_size == len(tokenizer)
    assert config.eos_token_id == tokenizer.eos_token_id
    assert context_length(config) == 1024


def test_settings_that_follow_from_others_do():
    assert fresh_config("llama", "num_attention_heads=4,hidden_size=64").num_key_value_heads == 4


def test_a_mapping_and_a_directory_work_as_well(tmp_path):
    GPT2Config(n_layer=3, n_embd=32, n_head=2).save_pretrained(tmp_path)
    config = fresh_config(str(tmp_path), {"n_layer": 5})
    assert (config.n_layer, config.n_embd) == (5, 32)


@pytest.mark.parametrize(
    ("name", "overrides", "complaint"),
    [
        ("gpt2", "n_layr=2", "no setting 'n_layr': did you mean n_layer"),
        ("gpt2", "n_layer=two", "n_layer=two: expected int"),
        ("gpt2", "n_layer=true", "n_layer=true: expected int"),
        ("gpt2", "n_layer", "write key=value"),
        ("gpt2", "model_type=llama", "no setting 'model_type'"),
        ("gpt2", "n_embd=32,n_head=5", "do not make a gpt2 model"),
        ("llama", "hidden_size=30,num_attention_heads=4", "do not make a llama configuration"),
        ("t5", "", "t5 is not a causal language model"),
        ("gpt22", "", "no model configuration called gpt22. Did you mean gpt2"),
    ],
)
def test_what_does_not_fit_is_named(name, overrides, complaint):
    with pytest.raises(ValueError, match=complaint):
        fresh_model(name, overrides)


def test_a_vocabulary_below_the_tokenizers_is_refused(tokenizer):
    with pytest.raises(ValueError, match="vocab_size=100 is below"):
        fresh_config("gpt2", "vocab_size=100", tokenizer)


def test_equal_seeds_make_equal_weights(tokenizer):
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(fresh_model("gpt2", TINY_GPT2, tokenizer))
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert one.dtype == torch.float32 and torch.equal(one, other)


@pytest.mark.parametrize(("model_type", "overrides"), [("gpt2", TINY_GPT2), ("llama", TINY_LLAMA)])
def test_trainer_counts_the_tokens_that_are_predicted(tokenizer, model_type, overrides):
    """Trainer divides by the tokens it counts, so it must know that the first of a block is not predicted."""
    from transformers import Trainer, TrainingArguments

    trainer = Trainer(fresh_model(model_type, overrides, tokenizer), TrainingArguments(report_to="none", use_cpu=True))
    tokens = torch.randint(0, 250, (2, 16))
    _, counted = trainer.get_batch_samples(iter([{"input_ids": tokens, "labels": tokens}]), 1, "cpu")
    assert counted == 2 * 15


@pytest.mark.parametrize(("model_type", "overrides"), [("gpt2", TINY_GPT2), ("llama", TINY_LLAMA)])
def test_lora_trains_adapters_only_and_saves_a_whole_model(tmp_path, tokenizer, model_type, overrides):
    arguments = ModelArguments(model_type=model_type, config_overrides=overrides, lora_r=2)
    model = load_model(arguments, tokenizer)
    assert isinstance(model, PeftModel)
    assert all(("lora_" in name) == parameter.requires_grad for name, parameter in model.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    tokens = torch.arange(8).unsqueeze(0)
    wanted = model.eval()(tokens).logits
    save_merged(model, tmp_path)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(merged.eval()(tokens).logits, wanted, atol=1e-4, rtol=1e-4)
    adapted = PeftModel.from_pretrained(fresh_model(model_type, overrides, tokenizer), tmp_path / "adapter")
    assert adapted.peft_config["default"].r == 2


def test_targets_that_match_nothing_are_refused(tokenizer):
    arguments = ModelArguments(
        model_type="gpt2", config_overrides=TINY_GPT2, lora_r=2, lora_target_modules=["c_attn", "q_proj"]
    )
    with pytest.raises(ValueError, match=r"q_proj matches no layer of this gpt2 model; its layers are c_attn, c_fc"):
        load_model(arguments, tokenizer)


def test_a_saved_model_is_found_and_grows_with_its_tokenizer(tmp_path, tokenizer):
    fresh_model("gpt2", f"{TINY_GPT2},vocab_size=100").save_pretrained(tmp_path)
    model = load_model(ModelArguments(model_name_or_path=str(tmp_path)), tokenizer)
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    with pytest.raises(ValueError, match="no model at"):
        load_model(ModelArguments(model_name_or_path=str(tmp_path / "nothing")), tokenizer)
