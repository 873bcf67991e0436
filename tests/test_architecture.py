# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Imports point one way: integrations -> sync -> rounds -> (masters, wire, plan, sites, transport) -> (profile, units,
topology, config).
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import geo_accel.version

PACKAGE = Path(geo_accel.version.__file__).parent

# A part is a folder or a module directly inside geo_accel. A new one gets its place here.
LAYERS = {
    "version": 0,
    "config": 1,
    "topology": 1,
    "units": 1,
    "profile": 1,
    "masters": 2,
    "membership": 2,
    "plan": 2,
    "sites": 2,
    "transport": 2,
    "wire": 2,
    "report": 3,
    "rounds": 3,
    "sync": 4,
    "integrations": 5,
    "__init__": 6,
}
# These may import anything; of the others only commands may import lab, and nobody commands.
FREE = {"commands", "lab"}
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc"}


@dataclass(frozen=True)
class Import:
    """One import statement's target, as seen from one module."""

    module: str
    """The importing module, such as "geo_accel.sync.engine"."""
    target: str
    """What is imported, such as "geo_accel.plan.choose" or "torch.nn"."""
    line: int
    at_top: bool
    """Whether it runs when the module is imported (not inside a function, not for type checkers only)."""

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def modules_of(package: Path) -> dict[str, Path]:
    """Every module's dotted name and file; packages by their folder's name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(package: Path) -> list[Import]:
    modules = modules_of(package)
    return [one for module, path in modules.items() for one in _imports(module, path, modules)]


def _imports(module: str, path: Path, modules: dict[str, Path]) -> Iterator[Import]:
    def walk(node: ast.AST, at_top: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                yield child, at_top
            later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
                isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
            )
            yield from walk(child, at_top and not later)

    for node, at_top in walk(ast.parse(path.read_text("utf-8")), True):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        else:
            base = node.module or ""
            if node.level:
                folder = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
                base = ".".join([*folder[: len(folder) - node.level + 1], *filter(None, [base])])
            # `from package import module` imports the module, `from module import name` only the module.
            names = [f"{base}.{alias.name}" for alias in node.names]
            targets = [name if name in modules else base for name in names]
        for target in dict.fromkeys(targets):
            yield Import(module, target, node.lineno, at_top)


def part_of(module: str) -> str:
    """ "geo_accel.sync.engine" -> "sync"; the package's own __init__ is "__init__"."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def direction_problems(package: Path) -> list[str]:
    """Imports against the layers, parts without a place, and parts that import each other."""
    problems, edges = [], {}
    for module in modules_of(package):
        part = part_of(module)
        if part not in LAYERS and part not in FREE:
            problems.append(f"{module}: {part} has no place in LAYERS of tests/test_architecture.py")
    for one in imports_of(package):
        source, target = part_of(one.module), part_of(one.target)
        if one.target.split(".")[0] == "tests":
            problems.append(f"{one}: the package imports no tests")
        if one.target.split(".")[0] != package.name or source == target:
            continue
        if target in ("lab", "commands"):
            if source != "commands":
                problems.append(f"{one}: only commands may import {target}")
        elif source not in FREE:
            if target in FREE or LAYERS.get(target, 0) > LAYERS.get(source, 0):
                problems.append(f"{one}: {source} is below {target}")
            edges.setdefault(source, set()).add(target)
    return problems + [f"{' -> '.join(cycle)}: a cycle" for cycle in _cycles(edges)]


def _cycles(edges: dict[str, set[str]]) -> list[list[str]]:
    def search(path: list[str]) -> Iterator[list[str]]:
        for target in sorted(edges.get(path[-1], ())):
            if target == path[0]:
                yield [*path, target]
            elif target not in path and target > path[0]:  # each cycle once, from its first name
                yield from search([*path, target])

    return [cycle for start in sorted(edges) for cycle in search([start])]


def torch_problems(package: Path, part: str, transitive: bool = True) -> list[str]:
    """Imports of torch that importing `part` runs; `transitive` follows imports inside the package.

    The package's own __init__ is not followed: what it imports is not the part's doing.
    """
    imports: dict[str, list[Import]] = {}
    for one in imports_of(package):
        imports.setdefault(one.module, []).append(one)
    waiting = [module for module in modules_of(package) if part_of(module) == part]
    seen, problems = set(), []
    while waiting:
        module = waiting.pop()
        if module in seen or module == package.name:
            continue
        seen.add(module)
        waiting += [module.rpartition(".")[0]] if transitive and "." in module else []
        for one in imports.get(module, ()):
            if one.at_top and one.target.split(".")[0] == "torch":
                problems.append(f"{one}: {part} must do without torch")
            elif one.at_top and transitive:
                waiting.append(one.target)
    return problems


NAMED = {"mode", "schedule", "exchange", "codec", "residual", "coefficients"}
"""What has its names in config/names.py."""


def spelled_names(package: Path) -> list[str]:
    """Comparisons of a mode, an exchange or the like with a text where its name's constant should stand."""
    found = []
    for module, path in modules_of(package).items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
                names = [getattr(side, "id", getattr(side, "attr", None)) for side in sides]
                # One of several, as in `mode in ("stream", "backward")`, is a text as well.
                texts = [text for side in sides for text in getattr(side, "elts", [side])]
                named = next((name for name in names if name in NAMED), None)
                text = next((text.value for text in texts if isinstance(text, ast.Constant)), None)
                if named is not None and isinstance(text, str):
                    found.append(f"{module}:{node.lineno} compares {named} with {text!r}")
    return found


def vague_names(package: Path) -> list[str]:
    return sorted(
        str(path.relative_to(package.parent)) for path in package.rglob("*") if path.name.split(".")[0] in VAGUE
    )


def test_imports_point_one_way():
    assert direction_problems(PACKAGE) == []


@pytest.mark.parametrize("part", ["plan", "config"])
def test_no_torch_is_needed(part):
    assert torch_problems(PACKAGE, part) == []


def test_plan_never_imports_torch_even_inside_a_function():
    assert [str(one) for one in imports_of(PACKAGE) if part_of(one.module) == "plan" and _is_torch(one)] == []


def _is_torch(one: Import) -> bool:
    return one.target.split(".")[0] == "torch"


def test_the_lab_imports_torch_only_inside_functions():
    assert torch_problems(PACKAGE, "lab", transitive=False) == []


def test_no_file_has_a_vague_name():
    root = PACKAGE.parent
    folders = [root / name for name in ("geo_accel", "recipes", "benchmarks", "tests") if (root / name).is_dir()]
    assert [name for folder in folders for name in vague_names(folder)] == []


def test_names_of_modes_and_codecs_stand_once():
    assert spelled_names(PACKAGE) == []


def test_every_folder_with_modules_is_a_package():
    """Else `pip install` leaves it out."""
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


# ---- the checks see what they are meant to see


@pytest.mark.parametrize(
    "files, word",
    [
        ({"sync/engine.py": "from geo_accel.integrations import trainer"}, "sync is below integrations"),
        ({"plan/a.py": "def f():\n    import geo_accel.sync.engine"}, "plan is below sync"),
        ({"wire/a.py": "from ..sync.engine import Engine"}, "wire is below sync"),
        ({"wire/a.py": "from .. import sync"}, "wire is below sync"),
        ({"sync/a.py": "from geo_accel import GeoSync"}, "sync is below __init__"),
        ({"sync/a.py": "from geo_accel.lab import shaping"}, "only commands may import lab"),
        ({"lab/a.py": "import geo_accel.commands.main"}, "only commands may import commands"),
        ({"sync/a.py": "import tests.workers.launch"}, "the package imports no tests"),
        (
            {"plan/a.py": "import geo_accel.wire", "wire/a.py": "import geo_accel.plan"},
            "plan -> wire -> plan: a cycle",
        ),
        ({"extras.py": ""}, "extras has no place"),
    ],
)
def test_a_wrong_direction_is_found(tmp_path, files, word):
    problems = direction_problems(_package(tmp_path, files))
    assert len(problems) == 1 and word in problems[0], problems


@pytest.mark.parametrize(
    "files",
    [
        {"integrations/a.py": "from geo_accel.sync.engine import Engine\nfrom geo_accel import config"},
        {"sync/a.py": "from geo_accel.plan import choose", "plan/a.py": "from geo_accel.units import Unit"},
        {"commands/a.py": "import geo_accel.lab.shaping, geo_accel.sync", "lab/a.py": "import geo_accel.sync"},
        {"sync/a.py": "from .engine import Engine\nfrom geo_accel.sync import engine"},
    ],
)
def test_the_right_direction_passes(tmp_path, files):
    assert direction_problems(_package(tmp_path, files)) == []


def test_torch_is_found_behind_other_modules(tmp_path):
    package = _package(
        tmp_path,
        {
            "plan/a.py": "from geo_accel.profile.b import X",
            "profile/b.py": "def f():\n    import torch",
            "profile/__init__.py": "from torch import nn",
        },
    )
    assert len(torch_problems(package, "plan")) == 1
    assert torch_problems(package, "plan", transitive=False) == []


@pytest.mark.parametrize("folder", ["plan", "sync", "lab"])
@pytest.mark.parametrize(
    "test, found",
    [
        ('request.mode != "stream"', "compares mode with 'stream'"),
        ('"topk" == codec', "compares codec with 'topk'"),
        ('plan.schedule in ("full", "equal")', "compares schedule with 'full'"),
        ('mode not in [Mode.STREAM, "backward"]', "compares mode with 'backward'"),
        ('unit == "mode"', None),
        ("mode == Mode.STREAM", None),
        ("codec is None or mode in MODES or period == 4", None),
    ],
)
def test_spelled_names_are_found(tmp_path, folder, test, found):
    package = _package(tmp_path, {f"{folder}/a.py": f"if {test}:\n  0"})
    assert spelled_names(package) == ([f"geo_accel.{folder}.a:1 {found}"] if found else [])


def test_vague_names_are_found(tmp_path):
    package = _package(tmp_path, {"sync/utils.py": "", "wire/helpers/a.py": ""})
    assert vague_names(package) == ["geo_accel/sync/utils.py", "geo_accel/wire/helpers"]


def _package(folder: Path, files: dict[str, str]) -> Path:
    package = folder / "geo_accel"
    skeleton = ["__init__.py", "config/__init__.py", "units.py", "commands/main.py"]
    skeleton += [f"{part}/__init__.py" for part in ("sync", "plan", "wire", "profile", "lab", "integrations")]
    for name, text in {**dict.fromkeys(skeleton, ""), "sync/engine.py": "", **files}.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    return package
