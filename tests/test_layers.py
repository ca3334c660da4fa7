"""The order of the house: imports point down only, and each heavy library has its one place."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import crycli

LEVELS = (
    ("errors", "progress", "parallel", "limits", "builtin"),
    ("config", "outputs", "audio", "journal"),
    ("cache", "pcm", "windows", "remote", "recipe"),
    (
        *("manifest", "naming", "measures", "fingerprint", "metrics", "pages", "predictions", "metricsfile"),
        *("bundles", "timeline"),
        *("model", "mini", "augment", "losses", "sampling", "dropout", "convolution"),
    ),
    (
        *("checkpoint", "lora", "scan", "probing", "splitting", "checks"),
        *("figures", "bootstrap", "calibration", "events"),
    ),
    ("dataset", "networks", "duplicates", "modelcard", "slices", "leakage", "comparing", "tables", "segments"),
    ("inference", "inputs", "keeping", "trainer", "embeddings", "resuming", "baselines", "verdict", "vectors"),
    ("answers", "explaining", "results", "exportcheck"),
    ("predicting",),
    ("cluster",),
    ("survey", "splitcheck", "appraisal"),
    ("datareport", "evalreport"),
    ("prepare", "checking", "preview", "training", "evaluation", "exporting", "synthesis"),
    ("crossval", "search"),
    ("drawing",),
    ("console",),
    ("terminal",),
    ("cli",),
    ("__main__",),
)
LEVEL = {module: level for level, modules in enumerate(LEVELS) for module in modules}

FOLDER = Path(crycli.__file__).parent
FILES = {path.stem: path for path in sorted(FOLDER.rglob("*.py")) if path.name != "__init__.py"}

NAMES_OF_THE_PACKAGE = {"__version__", *crycli.__all__}


class Imports(ast.NodeVisitor):
    """Every imported name with dots, wherever the import stands, except under `if TYPE_CHECKING`."""

    def __init__(self, source: str) -> None:
        self.names: list[str] = []
        self.visit(ast.parse(source))

    def visit_Import(self, node: ast.Import) -> None:
        self.names += [alias.name for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = ".".join(filter(None, ["crycli" if node.level else "", node.module]))
        self.names += [f"{module}.{alias.name}" for alias in node.names]

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" not in ast.unparse(node.test):
            self.generic_visit(node)
        for other in node.orelse:
            self.visit(other)


def imports_of(module: str) -> list[str]:
    return Imports(FILES[module].read_text(encoding="utf-8")).names


def own_imports(module: str) -> Iterator[str]:
    """The modules of crycli that one imports; "crycli" where it takes the package's version alone."""
    for name in imports_of(module):
        package, _, rest = name.partition(".")
        if package == "crycli":
            first = rest.partition(".")[0]
            yield "crycli" if first in NAMES_OF_THE_PACKAGE - set(FILES) | {""} else first


def users_of(library: str) -> set[str]:
    return {
        module
        for module in FILES
        if any(name == library or name.startswith(f"{library}.") for name in imports_of(module))
    }


def test_the_walk_sees_an_import_wherever_it_stands() -> None:
    source = """
import a.b as c
from crycli import audio
from . import config
from .model import X
def function():
    from d import e
    if True:
        import f
if TYPE_CHECKING:
    import hidden
else:
    import g
if typing.TYPE_CHECKING:
    import hidden
"""
    assert Imports(source).names == ["a.b", "crycli.audio", "crycli.config", "crycli.model.X", "d.e", "f", "g"]


def test_the_guide_names_every_module_at_its_level() -> None:
    guide = (FOLDER.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [
        re.sub(r"\(.*?\)", "", line.split("|")[2])
        for line in guide.splitlines()
        if line.startswith("| ") and line[2].isdigit()
    ]
    named = [set(re.findall(r"`(\w+)`", row)) & set(LEVEL) for row in rows]
    assert [sorted(names) for names in named] == [sorted(level) for level in LEVELS[:-1]]


def test_every_module_has_its_level() -> None:
    assert set(FILES) == set(LEVEL)


@pytest.mark.parametrize("module", FILES)
def test_a_module_imports_only_from_lower_levels(module: str) -> None:
    wrong = [name for name in own_imports(module) if name != "crycli" and LEVEL[name] >= LEVEL[module]]
    assert wrong == []


def test_the_model_imports_nothing_of_crycli() -> None:
    assert list(own_imports("model")) == []


def test_the_package_imports_nothing_of_its_own_when_it_is_imported() -> None:
    names = Imports((FOLDER / "__init__.py").read_text(encoding="utf-8")).names
    assert [name for name in names if name.partition(".")[0] not in {"__future__", "importlib", "typing"}] == []


@pytest.mark.parametrize(
    ("library", "users"),
    [
        ("rich", {"drawing"}),
        ("typer", {"cli"}),
        ("transformers.Trainer", {"trainer"}),
        ("pydantic", {"config"}),
        ("yaml", {"config"}),
        ("av", {"audio"}),
        ("soxr", {"audio"}),
        ("onnxruntime", {"networks", "exporting"}),
        ("matplotlib", {"figures", "preview"}),
        ("audiomentations", {"augment"}),
        ("peft", {"lora"}),
        ("optuna", {"search"}),
        ("jinja2", {"pages"}),
        ("loky", {"parallel"}),
        ("sqlite3", {"cache"}),
        ("ray", {"cluster"}),
        ("fsspec", {"remote"}),
    ],
)
def test_a_library_has_one_user(library: str, users: set[str]) -> None:
    assert users_of(library) == users


@pytest.mark.parametrize("module", [name for name, level in LEVEL.items() if level <= 2 and name != "model"])
def test_the_low_modules_do_without_torch(module: str) -> None:
    heavy = {"torch", "transformers", "datasets"}
    assert heavy.isdisjoint(name.partition(".")[0] for name in imports_of(module))


@pytest.mark.parametrize("module", FILES)
def test_nothing_prints(module: str) -> None:
    calls = [node for node in ast.walk(ast.parse(FILES[module].read_text())) if isinstance(node, ast.Call)]
    assert [node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"] == []
