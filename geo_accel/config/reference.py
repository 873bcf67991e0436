# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The page of all settings, made from the settings themselves.

python -m geo_accel.config.reference docs/configuration.md
"""

import json
import re
import sys
import textwrap
from pathlib import Path

from geo_accel.config.load import ENVIRONMENT
from geo_accel.config.schema import PER_SITE, Setting, sections, settings

_WIDTH = 150
_ABOUT = """
This page is made from the code by `make docs`. Every setting has a default, and `"auto"` means: measure, then choose.
Integrations take the settings as a mapping, a `GeoConfig`, or the path of a JSON or YAML file, which holds them at its
top or under `geo_accel`, as a DeepSpeed JSON does:
"""
_EXAMPLE = """
```json
{"geo_accel": {"sync": {"period": 16}, "compression": {"codec": "int8"}, "link": {"bandwidth_mbps": 100}}}
```
"""
_RULES = f"""
A key that does not exist and a value that is not allowed are refused, all in one error, with the nearest name beside
them. A setting that has no effect together with the others warns. Every site needs the same settings but for
{" and ".join(f"`{key}`" for key in PER_SITE)}, which may differ.
"""


def page() -> str:
    """The whole page, as Markdown."""
    by_section: dict[str, list[Setting]] = {"": [], **{name: [] for name, _ in sections()}}
    for setting in settings():
        by_section[setting.key.rpartition(".")[0]].append(setting)
    lines = ["# Settings", "", *_wrapped(_ABOUT), *_EXAMPLE.splitlines(), "", *_wrapped(_RULES)]
    lines += ["", *(line for setting in by_section.pop("") for line in _entry(setting))]
    what = dict(sections())
    for name, found in by_section.items():
        lines += ["", f"## {name}", f"{_sentence(what[name])}", ""]
        lines += [line for setting in found for line in _entry(setting)]
    lines += ["", "## Environment", "What may differ per process. Any other `GEO_ACCEL_` variable is refused.", ""]
    lines += [line for name, what_for in ENVIRONMENT.items() for line in _listed(f"`{name}`: {what_for}.")]
    return "\n".join(lines) + "\n"


def _entry(setting: Setting) -> list[str]:
    facts = f"{setting.kind}, default `{json.dumps(setting.default)}`, allowed: {_as_code(setting.allowed)}"
    return _listed(f"**`{setting.key}`** ({facts}) {_sentence(setting.help)} *When:* {setting.when}.")


def _as_code(allowed: str) -> str:
    """Names and mappings in quotes, as they are written in JSON."""
    return re.sub(r'\{[^}]*\}|"[^"]*"', lambda found: f"`{found.group()}`", allowed)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _listed(text: str) -> list[str]:
    return _wrapped(f"- {text}", indent="  ")


def _wrapped(text: str, indent: str = "") -> list[str]:
    words = " ".join(text.split())
    return textwrap.wrap(words, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), "utf-8")
