# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Finding the "geo_accel" block: in a JSON or YAML file, in a DeepSpeed JSON, or in a mapping."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # pyrefly: ignore[untyped-import] (the checker brings stubs)

from geo_accel.config.rules import ConfigError, nearest, plain, shown

BLOCK = "geo_accel"

_DEEPSPEED_KEYS = {
    "activation_checkpointing",
    "amp",
    "autotuning",
    "bf16",
    "communication_data_type",
    "comms_logger",
    "flops_profiler",
    "fp16",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "optimizer",
    "scheduler",
    "steps_per_print",
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "wall_clock_breakdown",
    "zero_allow_untested_optimizer",
    "zero_optimization",
}

_SECTIONS = ("sites", "sync", "compression", "link", "resilience")

# What a parser lets out on input that is not text of its kind. PyYAML's constructors also leak IndexError, KeyError
# and AttributeError on tagged junk such as `!!int ""`.
_NOT_PARSED = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


class _DuplicateKey(ValueError):
    pass


def read_file(path: str | os.PathLike) -> Mapping:
    """The mapping in a JSON or YAML file: by suffix, and JSON for any other file that opens with a brace.

    Raises ConfigError, one line with the file's name and where known the line, if the file cannot be read, is empty,
    is not JSON or YAML, does not hold a mapping, or holds a key twice in one block.
    """
    name = os.fspath(path)
    name = name if isinstance(name, str) else os.fsdecode(name)
    label = plain(name)
    try:
        text = Path(name).read_bytes().decode("utf-8-sig")
    except OSError as error:
        hint = "; give a mapping or a file's name, not JSON text" if name.lstrip().startswith("{") else ""
        raise ConfigError([f"{label}: cannot be read: {error.strerror}{hint}"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([f"{label}: byte {error.start} is not UTF-8 text"]) from None
    except ValueError:  # a null byte in the name
        raise ConfigError([f"{label}: not a file name"]) from None
    if not text.strip():
        raise ConfigError([f"{label}: the file is empty; for all defaults write {{}}"])
    suffix = Path(name).suffix.lower()
    as_json = suffix == ".json" or (suffix not in (".yaml", ".yml") and text.lstrip().startswith("{"))
    found = _parse_json(label, text) if as_json else _parse_yaml(label, text)
    if not isinstance(found, Mapping):
        raise ConfigError([f"{label}: the top level must be a mapping of settings, got {shown(found)}"])
    return found


def find_block(source: Mapping, problems: list[str], ignored: list[str]) -> object:
    """The block itself: `source`, or what stands under its "geo_accel" key.

    A misplaced or missing block adds to `problems`; settings beside the block add to `ignored`.
    """
    from_deepspeed = sorted(key for key in source if isinstance(key, str) and key in _DEEPSPEED_KEYS)
    others = {key: value for key, value in source.items() if key != BLOCK}
    nested = _nested_blocks(others)
    problems += [
        f'{plain(place)}.{BLOCK}: the block is read at the top level only; move "{BLOCK}" out of "{plain(place)}"'
        for place in nested
    ]
    if BLOCK in source:
        ignored += [
            f'"{key}" stands beside the "{BLOCK}" block and is ignored; move it into the block'
            for key in _SECTIONS
            if key in others
        ]
        return source[BLOCK]
    near, likeness = _nearest_key(others)
    if nested:
        return {}
    if from_deepspeed:
        misplaced = [key for key in _SECTIONS if key in others]
        hint = f"; move {', '.join(misplaced)} into it" if misplaced else ""
        hint = f'; "{plain(near)}" looks like a misspelling of it' if likeness >= 0.7 else hint
        problems.append(
            f"{BLOCK}: missing from this DeepSpeed config (it has {', '.join(from_deepspeed[:3])}); "
            f'add a "{BLOCK}" block at the top level, {{}} for all defaults{hint}'
        )
        return {}
    if likeness >= 0.7:
        problems.append(f"{plain(near)}: unknown key; the nearest is {BLOCK}")
        return {}
    return source


def _nearest_key(mapping: Mapping) -> tuple[str, float]:
    """The key of a mapping that looks most like the block's name, and how alike they are."""
    keys = [key for key in mapping if isinstance(key, str)]
    return nearest(BLOCK, keys) if keys else ("", 0.0)


def _nested_blocks(mapping: Mapping) -> list[str]:
    """Dotted places of blocks named BLOCK further down. A YAML file may point back into itself, hence `seen`."""
    found, seen, waiting = [], set(), [(str(key), value) for key, value in mapping.items()]
    while waiting:
        place, value = waiting.pop()
        if id(value) in seen or not isinstance(value, Mapping | list | tuple):
            continue
        seen.add(id(value))
        if isinstance(value, Mapping):
            if BLOCK in value:
                found.append(place)
            waiting += [(f"{place}.{key}", inner) for key, inner in value.items()]
        else:
            waiting += [(f"{place}[{index}]", inner) for index, inner in enumerate(value)]
    return sorted(found)


def _parse_json(label: str, text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except json.JSONDecodeError as error:
        message = f"{label}: line {error.lineno}: not JSON: {error.msg[0].lower()}{error.msg[1:]}"
    except _DuplicateKey as error:
        message = f"{label}: {error}"
    except RecursionError:
        message = f"{label}: nested too deeply"
    except ValueError as error:  # a number of thousands of digits
        message = f"{label}: not JSON: {error}"
    raise ConfigError([message]) from None


def _parse_yaml(label: str, text: str) -> object:
    try:
        found = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        message = f"{label}: {line}not YAML: {' '.join((error.problem or error.context or 'unreadable').split())}"
    except _DuplicateKey as error:
        message = f"{label}: {error}"
    except RecursionError:
        message = f"{label}: nested too deeply"
    except (yaml.YAMLError, *_NOT_PARSED) as error:
        message = f"{label}: not YAML: {' '.join(str(error).split())}"
    else:
        if found is not None:
            return found
        message = f"{label}: the file holds no settings; for all defaults write {{}}"
    raise ConfigError([message]) from None


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict:
    block = dict(pairs)
    if len(block) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in block if keys.count(key) > 1)
        raise _DuplicateKey(f"the key {json.dumps(twice)} appears twice in one block")
    return block


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, of which YAML would silently keep the last."""

    # The anchor is a name or None; the stubs take it for a dict.
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                continue
            if (key.tag, key.value) in seen:
                where = key.start_mark.line + 1
                raise _DuplicateKey(f"line {where}: the key {json.dumps(key.value)} appears twice in one block")
            seen.add((key.tag, key.value))
        return node
