# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Small models and data that tests and worker scripts make for themselves."""

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

VOCABULARY = 61
BLOCK = 16


class ResidualBlock(nn.Module):
    """Convolution, batch norm, shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.relu(images + self.norm(self.convolution(images)))


class ResNet(nn.Module):
    """A small residual network with BatchNorm statistics, as a model that is no transformer."""

    def __init__(self, width: int = 4, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.layer1 = nn.Sequential(ResidualBlock(width), ResidualBlock(width))
        self.layer2 = nn.Sequential(ResidualBlock(width), ResidualBlock(width))
        self.head = nn.Linear(width, classes)

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.layer2(self.layer1(torch.relu(self.stem(images)))).mean((2, 3))
        return {"loss": nn.functional.cross_entropy(self.head(features), labels)}


def build_model(kind: str, dropout: float = 0.0, layers: int = 3) -> nn.Module:
    """ "gpt2", "llama", with adapters "lora" and "llama-lora", "resnet", "frozen"; weights follow the global seed.
    `layers` are those of a GPT-2."""
    if kind == "resnet":
        return ResNet()
    if kind == "llama-lora":
        from peft import LoraConfig, get_peft_model

        return get_peft_model(build_model("llama"), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    if kind == "llama":
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCABULARY,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=BLOCK,
            )
        )
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=BLOCK,
            n_embd=32,
            n_layer=layers,
            n_head=4,
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    if kind == "lora":
        from peft import LoraConfig, get_peft_model

        return get_peft_model(model, LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    if kind == "frozen":
        model.requires_grad_(False)
    return model


def build_data(kind: str, examples: int, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Examples that `build_model(kind)` takes, with labels."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "resnet":
        images = torch.randn(examples, 3, 8, 8, generator=generator)
        labels = torch.randint(5, (examples,), generator=generator)
        return [{"images": image, "labels": label} for image, label in zip(images, labels, strict=True)]
    # Every token repeats the one two places earlier, now and then: something to learn.
    tokens = torch.randint(VOCABULARY, (examples, BLOCK), generator=generator)
    tokens[:, 2::3] = tokens[:, 0:-2:3][:, : tokens[:, 2::3].shape[1]]
    return [{"input_ids": row, "labels": row.clone()} for row in tokens]
