"""Without torch: what `pip install crycli` alone brings runs a bundle, and the other commands say what they lack."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import crycli
from crycli.builtin import BUNDLE
from crycli.errors import MODULES_OF_EXTRAS, missing_extra

ROOT = Path(crycli.__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

RESTRICTED = """
import atexit, json, sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder

allowed, record, root = set(json.loads(sys.argv[1])), sys.argv[2], sys.argv[3]

class Allowed(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        there = name.partition(".")[0] in allowed or name.startswith("_sysconfigdata")
        return super().find_spec(name, path, target) if there else None

sys.path.insert(0, root)
sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Allowed]
atexit.register(lambda: open(record, "w").write(json.dumps(sorted(sys.modules))))
sys.argv[1:] = sys.argv[4:]
from crycli.cli import main
main()
"""
"""A process in which other packages are as if they were not installed; at its end it writes what it imported."""


def distributions(requirements: Iterable[str]) -> set[str]:
    """The normalised names of what pip would install for some requirements, among what is installed here."""
    found: set[str] = set()
    waiting = [(Requirement(text), "") for text in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        found.add(name)
        waiting += [(Requirement(text), extra) for text in metadata.requires(name) or ()]
    return found


def modules(requirements: Iterable[str]) -> set[str]:
    """The top-level modules that come with some requirements."""
    wanted = distributions(requirements)
    return {
        module
        for module, names in metadata.packages_distributions().items()
        if wanted & {canonicalize_name(name) for name in names}
    }


CORE = modules(PROJECT["dependencies"])


@pytest.fixture
def restricted(tmp_path: Path) -> Any:
    """Run a command with the core's packages, less some: restricted("predict", clip, without=["av"])."""

    def run(*arguments: object, without: Iterable[str] = ()) -> subprocess.CompletedProcess[str]:
        allowed = sorted((CORE | set(sys.stdlib_module_names) | {"crycli"}) - set(without))
        given = [json.dumps(allowed), str(tmp_path / "modules.json"), str(ROOT), *map(str, arguments)]
        command = [sys.executable, "-S", "-c", RESTRICTED, *given]
        paths = os.pathsep.join(path for path in sys.path if path.endswith("-packages"))
        environment = {**os.environ, "PYTHONPATH": paths}
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)

    return run


def answers(process: Any, clip: Path, model: Path) -> str:
    """What `crycli predict` writes in an environment with everything."""
    done = process("predict", clip, "-m", model, "--format", "csv")
    assert done.code == 0, done.err
    return str(done.out)


@pytest.mark.parametrize("without", [(), ("av",)], ids=["core", "without av"])
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_a_bundle_gives_the_same_answers_where_only_the_core_is_installed(
    restricted: Any, process: Any, bundles: Mapping[str, Path], cries: Path, norm: str, without: tuple[str, ...]
) -> None:
    clip = cries / "high" / "baby-00-0.wav"
    found = restricted("predict", clip, "-m", bundles[norm], "--format", "csv", without=without)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout == answers(process, clip, bundles[norm])


def test_the_detector_answers_where_only_the_core_is_installed(
    restricted: Any, process: Any, cries: Path, tmp_path: Path
) -> None:
    clip = cries / "high" / "baby-00-0.wav"
    found = restricted("predict", clip, "--format", "csv")
    assert (found.returncode, len(found.stderr.splitlines())) == (0, 1)
    assert found.stdout == answers(process, clip, BUNDLE)
    imported = set(json.loads((tmp_path / "modules.json").read_text()))
    assert imported & {"torch", "transformers", "pandas", "av", "crycli.pages", "sqlite3"} == set()


def test_a_short_recording_is_answered_without_imports_that_it_does_not_need(
    restricted: Any, bundles: Mapping[str, Path], cries: Path, tmp_path: Path
) -> None:
    found = restricted("predict", cries / "high" / "baby-00-0.wav", "-m", bundles["layer"], "--format", "csv")
    assert found.returncode == 0
    imported = set(json.loads((tmp_path / "modules.json").read_text()))
    assert {"onnxruntime", "soundfile", "crycli.inference"} <= imported
    assert imported & {"av", "asyncio", "multiprocessing", "crycli.pages", "sqlite3"} == set()


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["config"], ["predict", "--help"], ["train", "--help"]]
)
def test_help_version_and_configuration_need_nothing_more(restricted: Any, arguments: list[str]) -> None:
    found = restricted(*arguments)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout


@pytest.mark.parametrize(
    "command",
    [
        ["prepare", "{cries}", "-o", "{out}"],
        ["train", "{data}", "-o", "{out}", "--backbone", "mini"],
        ["train", "{data}", "-o", "{out}", "--backbone", "mini", "--search", "1"],
        ["eval", "{bundle}", "{data}", "-o", "{out}"],
        ["predict", "{cries}", "-m", "{run}"],
        ["export", "{run}", "-o", "{out}"],
        ["export", "detector", "-o", "{out}"],
    ],
    ids=["prepare", "train", "search", "eval", "predict", "export", "export detector"],
)
def test_what_needs_more_packages_says_which_in_one_line(
    restricted: Any,
    command: list[str],
    cries: Path,
    data: Path,
    runs: Mapping[str, Path],
    bundles: Mapping[str, Path],
    tmp_path: Path,
) -> None:
    names = {"cries": cries, "data": data, "run": runs["layer"], "bundle": bundles["layer"], "out": tmp_path / "out"}
    found = restricted(*(part.format(**names) for part in command))
    assert found.returncode == 1, found.stderr
    assert "Traceback" not in found.stderr
    (line,) = [line for line in found.stderr.splitlines() if line.startswith("error:")]
    assert line.startswith(f"error: `crycli {command[0]}` needs more packages: pip install 'crycli[train]' (")


def test_a_package_that_is_installed_or_unknown_is_no_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing_extra(ModuleNotFoundError(name="torch.no_such_part")) is None
    assert missing_extra(ModuleNotFoundError(name="crycli.no_such_module")) is None
    assert missing_extra(ModuleNotFoundError()) is None
    monkeypatch.setattr("crycli.errors.find_spec", lambda name: None)
    expected = "needs more packages: pip install 'crycli[search]' (optuna is missing)"
    assert missing_extra(ModuleNotFoundError(name="optuna.samplers")) == expected


def test_each_package_of_an_extra_is_known_by_its_module() -> None:
    listed = [module for names in MODULES_OF_EXTRAS.values() for module in names]
    assert len(listed) == len(set(listed))
    extras = {name: needed for name, needed in PROJECT["optional-dependencies"].items() if name != "dev"}
    homes = metadata.packages_distributions()
    for extra, needed in extras.items():
        for name in {canonicalize_name(Requirement(text).name) for text in needed} - {"crycli"}:
            own = {module for module, of in homes.items() if name in map(canonicalize_name, of)}
            assert not own or own & set(listed), f"{name} of [{extra}]"
    assert set(listed) & CORE == set()
    assert {name.partition("[")[2].rstrip("]") for name in MODULES_OF_EXTRAS} - {""} <= set(extras)


def test_the_core_is_small_and_every_package_has_a_version_that_it_is_tested_with() -> None:
    assert CORE & {"torch", "transformers", "pandas", "scipy", "sklearn", "pyarrow", "matplotlib"} == set()
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines if "==" in line}
    tested = [text for name in ("train", "augment", "lora", "search", "ray", "dev") for text in extra(name)]
    assert distributions([*PROJECT["dependencies"], *tested]) - {"crycli", "setuptools"} <= pinned


def extra(name: str) -> list[str]:
    """The requirements of an extra but crycli's own, of what is installed here."""
    there = {canonicalize_name(item.name) for item in metadata.distributions()}
    needed = [Requirement(text) for text in PROJECT["optional-dependencies"][name]]
    return [str(item) for item in needed if canonicalize_name(item.name) in there - {"crycli"}]


@pytest.mark.slow
def test_an_environment_with_the_core_alone_runs_a_bundle(
    process: Any, bundles: Mapping[str, Path], cries: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    shutil.copytree(ROOT / "crycli", source / "crycli", ignore=shutil.ignore_patterns("__pycache__"))
    venv.create(tmp_path / "environment", with_pip=True)
    binaries = tmp_path / "environment" / "bin"
    install = [binaries / "python", "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", f"{source}[runtime]"]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the packages cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    clip, bundle = tmp_path / "clip.wav", tmp_path / "bundle"
    shutil.copyfile(cries / "low" / "baby-01-1.wav", clip)
    shutil.copytree(bundles["group"], bundle)
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*map(str, command)], capture_output=True, text=True, env=clean, cwd=tmp_path)

    found = run(binaries / "crycli", "predict", clip, "-m", bundle, "--format", "csv")
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout == answers(process, clip, bundle)
    assert run(binaries / "crycli", "-q", "predict", clip, "--format", "csv").stdout == answers(process, clip, BUNDLE)
    for heavy in ("torch", "transformers", "pandas", "scipy", "matplotlib"):
        assert run(binaries / "python", "-c", f"import {heavy}").returncode == 1, heavy
    lacking = run(binaries / "crycli", "train", tmp_path, "-o", tmp_path / "run", "--backbone", "mini")
    assert lacking.returncode == 1
    assert "pip install 'crycli[train]'" in lacking.stderr.splitlines()[-1]
