"""The command line: exit codes, streams, and one line for whatever a user can get wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
from conftest import INTERRUPTED, cry, interruptible

import crycli as package
from crycli.config import Config, load_config, to_yaml

COMMANDS = ["prepare", "train", "eval", "predict", "export", "demo", "config"]
HEAVY = ["torch", "transformers", "datasets", "numpy", "pandas", "librosa", "sklearn", "soundfile", "av", "onnxruntime"]

Command = Callable[..., Any]

LOADED = f"""
import runpy, sys
sys.argv[0] = "crycli"
try:
    runpy.run_module("crycli", run_name="__main__")
except SystemExit as ending:
    assert not ending.code, ending.code
print("LOADED", [name for name in {HEAVY} if name in sys.modules])
"""


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["train", "--help"], ["prepare", "--help"], ["config"]]
)
def test_what_needs_no_recording_loads_nothing_heavy(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1:] == ["LOADED []"], done.stderr


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = f"import sys, crycli; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n"


def test_the_version_is_shown(crycli: Command) -> None:
    outcome = crycli("--version")
    assert (outcome.code, outcome.out, outcome.err) == (0, f"crycli {package.__version__}\n", "")


def test_every_public_name_is_there() -> None:
    assert [name for name in package.__all__ if getattr(package, name, None) is None] == []
    with pytest.raises(AttributeError, match="no_such_name"):
        package.no_such_name  # noqa: B018


def test_the_help_names_every_command(crycli: Command) -> None:
    text = crycli("--help").out
    assert [command for command in COMMANDS if command not in text] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_a_file_and_single_settings(command: str, crycli: Command) -> None:
    outcome = crycli(command, "--help")
    assert outcome.code == 0
    assert all(option in outcome.out for option in ("-c", "--config", "--set"))


@pytest.mark.parametrize(
    "flag", ["--epochs", "--batch-size", "--learning-rate", "--backbone", "--pooling", "--seed", "--resume"]
)
def test_train_has_a_flag_for_what_people_change_most(flag: str, crycli: Command) -> None:
    assert flag in crycli("train", "--help").out


def test_no_arguments_show_the_help(crycli: Command) -> None:
    outcome = crycli()
    assert "Usage" in outcome.out + outcome.err


USAGE_ERRORS = [
    ["no-such-command"],
    ["prepare"],
    ["prepare", "root"],
    ["prepare", "-o", "data"],
    ["prepare", "root", "-o"],
    ["prepare", "root", "-o", "data", "--no-such-option"],
    ["train", "data"],
    ["train", "data", "-o", "run", "--epochs", "many"],
    ["eval", "model"],
    ["eval", "model", "-o", "report"],
    ["predict", "-m", "model"],
    ["predict"],
    ["export"],
    ["config", "file.yaml"],
    ["--verbos", "config"],
    ["config", "--set"],
    ["train", "nowhere", "-o", "run", "--epochs", "0"],
    ["train", "nowhere", "-o", "run", "--pooling", "median"],
    ["train", "nowhere", "-o", "run", "--folds", "1"],
    ["train", "nowhere", "-o", "run", "--preview", "0"],
    ["train", "nowhere", "-o", "run", "--folds", "3", "--search", "2"],
    ["train", "nowhere", "-o", "run", "--preview", "3", "--resume"],
    ["predict", "a.wav", "-m", "nowhere", "--format", "nonsense"],
    ["eval", "nowhere", "nowhere", "-o", "report", "--split", "some"],
]


@pytest.mark.parametrize("arguments", USAGE_ERRORS, ids=" ".join)
def test_a_usage_error_exits_2_and_says_what_is_wrong(arguments: list[str], crycli: Command) -> None:
    outcome = crycli(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert "Error" in outcome.err
    assert "Traceback" not in outcome.err


FAILURES = [
    ["config", "--set", "train.epochs"],
    ["config", "--set", "train.epoch=3"],
    ["config", "--set", "train.epochs=many"],
    ["config", "--set", "=3"],
    ["config", "--set", ""],
    ["config", "--set", "train.epochs=["],
    ["config", "--set", "[a]: 3=4"],
    ["config", "--set", "model={[a]: 1}"],
    ["config", "--set", "train.seed=" + "9" * 5000],
    ["config", "--set", "train.seed=" + "[" * 3000],
    ["config", "-c", "nowhere.yaml"],
    ["config", "-c", "."],
    ["config", "-c", "bad\nname.yaml"],
    ["prepare", "nowhere", "-o", "data"],
    ["prepare", "empty", "-o", "data"],
    ["prepare", "words.txt", "-o", "data"],
    ["prepare", "", "-o", "data"],
    ["prepare", "empty", "-o", "words.txt"],
    ["prepare", "empty", "-o", "data", "--set", "data.group_by=("],
    ["prepare", "empty", "-o", "data", "--set", "data.test_share=2"],
    ["prepare", "[bold]nowhere[/bold]", "-o", "data"],
    ["prepare", "a\nb", "-o", "data"],
    ["config", "--set", "train.seed=4294967296"],
    ["config", "--set", ".=3"],
    ["predict", "nowhere.wav", "-m", "nowhere"],
    ["predict", "empty", "-m", "nowhere"],
    ["-q", "predict", "nowhere.wav"],
    ["predict", "nowhere.wav", "-q"],
    ["eval", "nowhere", "nowhere", "-o", "report"],
    ["export", "words.txt", "-o", "bundle"],
    ["demo", "-o", "words.txt"],
    ["demo", "-o", "demo", "--set", "train.epoch=3"],
]


@pytest.mark.parametrize("arguments", FAILURES, ids=lambda arguments: repr(" ".join(arguments))[:60])
def test_an_expected_failure_exits_1_with_one_line(
    arguments: list[str], crycli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "words.txt").write_text("mine")
    outcome = crycli(*arguments)
    assert (outcome.code, outcome.out) == (1, "")
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ")
    assert len(line) < 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "words.txt"]
    assert (tmp_path / "words.txt").read_text() == "mine"


def test_brackets_in_a_message_are_no_markup(crycli: Command) -> None:
    assert "[bold]nowhere[/bold]" in crycli("prepare", "[bold]nowhere[/bold]", "-o", "data").err


def test_a_failure_in_a_process_of_its_own_is_one_line_too(process: Command, tmp_path: Path) -> None:
    outcome = process("prepare", tmp_path / "nowhere", "-o", tmp_path / "data")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == f"error: no such file or folder: {tmp_path / 'nowhere'}\n"


def test_config_prints_the_defaults_as_yaml(crycli: Command) -> None:
    outcome = crycli("config")
    assert (outcome.code, outcome.out, outcome.err) == (0, to_yaml(Config()), "")


def test_config_prints_what_a_file_and_assignments_make(crycli: Command, tmp_path: Path) -> None:
    file, resolved = tmp_path / "mine.yaml", tmp_path / "resolved.yaml"
    file.write_text("train: {epochs: 4, batch_size: 4}\n")
    resolved.write_text(crycli("config", "-c", file, "--set", "train.epochs=5", "--set", "offline=true").out)
    config = load_config(resolved)
    assert (config.train.epochs, config.train.batch_size, config.offline) == (5, 4, True)


def test_config_prints_its_schema(crycli: Command) -> None:
    assert "train" in json.loads(crycli("config", "--schema").out)["properties"]


def test_results_go_to_standard_output_and_all_else_to_standard_error(
    process: Command, cries: Path, tmp_path: Path
) -> None:
    flags = ["--set", r"data.group_by=baby-\d+", "--set", "checks.min_groups=1"]
    outcome = process("prepare", cries, "-o", tmp_path / "data", *flags)
    assert outcome.code == 0
    title, header, *rows = outcome.out.splitlines()
    assert title.strip() == str(tmp_path / "data")
    assert header.split() == ["label", "clips", "groups", "minutes", "train", "validation", "test"]
    assert [row.split()[:3] for row in rows] == [["high", "16", "8"], ["low", "16", "8"], ["(all)", "32", "8"]]
    assert all(int(row.split()[1]) == sum(map(int, row.split()[4:])) for row in rows)
    assert outcome.err.splitlines() == [
        "No group is in two parts.",
        f"Look at {tmp_path / 'data' / 'report.html'} before you train.",
    ]


def test_without_a_terminal_there_are_no_escape_codes(process: Command, cries: Path, tmp_path: Path) -> None:
    colourful = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    for arguments in (["prepare", cries, "-o", tmp_path / "data"], ["prepare", cries, "-o", tmp_path / "data"]):
        outcome = process(*arguments, env=colourful)  # the second time it is refused
        assert "\x1b" not in outcome.out + outcome.err


def test_quiet_leaves_warnings_and_errors(crycli: Command, cries: Path, tmp_path: Path) -> None:
    told = ["--set", r"data.group_by=baby-\d+", "--set", "checks.min_groups=1"]
    outcome = crycli("-q", "prepare", cries, "-o", tmp_path / "data", *told)
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    outcome = crycli("-q", "prepare", cries, "-o", tmp_path / "data")
    assert (outcome.code, outcome.err.startswith("error: ")) == (1, True)
    for label in ("high", "low"):
        (tmp_path / "few" / label).mkdir(parents=True)
        for number in range(3 if label == "high" else 1):
            soundfile.write(
                tmp_path / "few" / label / f"{number}.wav", cry(300.0, 0.6, seed=len(label) * 10 + number), 16_000
            )
    told = ["--set", "data.group_by=file", "--set", "checks.min_groups=1"]
    outcome = crycli("-q", "prepare", tmp_path / "few", "-o", tmp_path / "more", *told)
    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err.splitlines() == [
        "warning: label low is missing from validation and test: its clips come from 1 group"
    ]


def test_how_much_is_said_may_be_chosen_before_and_after_the_command(
    crycli: Command, cries: Path, tmp_path: Path
) -> None:
    told = ["--set", r"data.group_by=baby-\d+", "--set", "checks.min_groups=1"]
    outcome = crycli("prepare", cries, "-o", tmp_path / "data", "-q", *told)
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    for arguments in (["-v", "predict", "nowhere.wav"], ["predict", "-v", "nowhere.wav"]):
        assert "Traceback" in crycli(*arguments).err
    assert "Traceback" not in crycli("predict", "nowhere.wav").err
    assert "Traceback" in crycli("-v", "predict", "nowhere.wav", "--quiet").err


def test_quiet_leaves_the_result_that_was_asked_for(crycli: Command) -> None:
    assert crycli("-q", "config").out == to_yaml(Config())


@pytest.mark.parametrize("command", ["config", "config --schema", "prepare {} -o {}", "--help", "--version"])
def test_a_reader_that_has_gone_is_no_traceback(command: str, cries: Path, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "crycli", *command.format(cries, tmp_path / "data").split()],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    os.close(writing)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert "BrokenPipe" not in done.stderr
    assert done.returncode == (1 if command.startswith("--") else 141)  # 141: as a shell reports SIGPIPE


def test_an_interruption_exits_130_with_one_line(tmp_path: Path) -> None:
    recording = tmp_path / "cry.wav"
    soundfile.write(recording, cry(300.0, 60.0), 16_000, "FLOAT")
    for label in ("high", "low"):
        (tmp_path / "cries" / label).mkdir(parents=True)
        for number in range(2000):  # over 10 s of decoding, of which the test waits for none
            os.link(recording, tmp_path / "cries" / label / f"{number}.wav")
    command = [sys.executable, "-m", "crycli", "prepare", str(tmp_path / "cries"), "-o", str(tmp_path / "data")]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*command, "--set", "workers=1"], preexec_fn=interruptible, **streams) as running:
        for _ in range(600):
            if (tmp_path / "data").is_dir():  # claimed once the scan is done
                break
            time.sleep(0.05)
        time.sleep(0.2)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert running.returncode in INTERRUPTED
    assert out == b""
    (line,) = [line for line in err.decode().splitlines() if "s left" not in line]  # progress, after ten seconds
    assert line.startswith("error: interrupted")
    assert not (tmp_path / "data" / "train.csv").exists()


INTERRUPTED_IN_EXEC = """
from crycli import probing
def probe(*arguments, **options):  # as where a library builds a class when Ctrl-C comes
    exec("raise KeyboardInterrupt")
probing.probe = probe
"""


def test_an_interruption_at_any_moment_exits_130(cries: Path, tmp_path: Path) -> None:
    """Under -m Python ends itself by the signal where an interruption has ever passed through an `exec`."""
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED_IN_EXEC)
    command = [sys.executable, "-m", "crycli", "prepare", str(cries), "-o", str(tmp_path / "data")]
    patched = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([*command, "--set", "cache=none"], env=patched, capture_output=True, text=True, timeout=60)
    assert done.stderr.splitlines() == ["error: interrupted: what was finished is kept"]
    assert done.returncode in INTERRUPTED
    assert done.stdout == ""


def running_in(session: int) -> list[str]:
    """The processes of a session that still run, by their command lines."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, own = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(own) == session and state != "Z":
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("whole_group", [False, True])
def test_an_interruption_of_several_processes_leaves_none_and_no_traceback(whole_group: bool, tmp_path: Path) -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("there is no /proc here")
    recording = tmp_path / "cry.wav"
    soundfile.write(recording, cry(300.0, 60.0), 16_000, "FLOAT")
    for label in ("high", "low"):
        (tmp_path / "cries" / label).mkdir(parents=True)
        for number in range(1000):
            os.link(recording, tmp_path / "cries" / label / f"{number}.wav")
    command = [sys.executable, "-m", "crycli", "prepare", str(tmp_path / "cries"), "-o", str(tmp_path / "data")]
    command += ["--set", "workers=2", "--set", "cache=none"]
    with subprocess.Popen(
        command, preexec_fn=interruptible, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        for _ in range(600):
            if len(running_in(running.pid)) > 3:
                break
            time.sleep(0.05)
        time.sleep(1.5)
        (os.killpg if whole_group else os.kill)(running.pid, signal.SIGINT)  # a terminal sends it to the whole group
        out, err = running.communicate(timeout=60)
    assert running.returncode in INTERRUPTED
    assert out == b""
    (line,) = [line for line in err.decode().splitlines() if "s left" not in line]
    assert line.startswith("error: interrupted")
    for _ in range(100):
        if not running_in(running.pid):
            break
        time.sleep(0.05)
    assert running_in(running.pid) == []


def test_a_wrong_setting_beside_a_good_file_is_not_blamed_on_the_file(crycli: Command, tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text("train:\n  epochs: 3\n")
    (tmp_path / "bad.yaml").write_text("train:\n  epohcs: 3\n")
    assert "good.yaml" not in crycli("config", "-c", tmp_path / "good.yaml", "--set", "train.epohcs=3").err
    assert "bad.yaml" in crycli("config", "-c", tmp_path / "bad.yaml").err


def test_verbose_adds_the_traceback_of_a_failure(crycli: Command) -> None:
    assert "Traceback" not in crycli("prepare", "nowhere", "-o", "data").err
    assert "Traceback" in crycli("-v", "prepare", "nowhere", "-o", "data").err


def test_help_that_cannot_be_written_is_one_line() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "crycli", "--help"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode != 0
    assert "Traceback (most recent" not in done.stderr


@pytest.mark.parametrize(("arguments", "closed"), [("-", "<&-"), ("{}", "<&-"), ("{}", ">&-"), ("{}", "2>&-")])
def test_a_standard_stream_that_is_closed_is_no_traceback(arguments: str, closed: str, cries: Path) -> None:
    command = f'exec "$0" -m crycli predict {arguments.format(cries / "high" / "baby-00-0.wav")} {closed}'
    done = subprocess.run(["sh", "-c", command, sys.executable], capture_output=True, text=True, timeout=60)
    assert done.returncode == (1 if arguments == "-" else 0)
    assert ("baby-00-0.wav" in done.stdout) == (arguments != "-" and closed != ">&-")
    assert "Traceback" not in done.stderr
    assert ("nothing came on standard input" in done.stderr) == (arguments == "-")


def test_a_preview_writes_clips_and_a_sheet_and_does_not_train(crycli: Command, data: Path, tmp_path: Path) -> None:
    flags = ["--backbone", "mini", "--set", "augment.polarity=true", "--set", "augment.mixup=0.5"]
    done = crycli("train", data, "-o", tmp_path / "listen", "--preview", 3, *flags)
    assert done.code == 0
    files = sorted(path.name for path in (tmp_path / "listen").iterdir())
    assert (len(files), files[-1]) == (7, "sheet.png")
    assert done.out == ""
    assert "6 wav files" in done.err


def test_cross_validation_shows_a_row_a_fold_their_mean_and_their_spread(
    crycli: Command, data: Path, backbones: dict[str, Path], tmp_path: Path
) -> None:
    flags = ["--backbone", backbones["layer"], "--epochs", 1, "--set", "model.freeze=backbone"]
    done = crycli("train", data, "-o", tmp_path / "cv", "--folds", 2, *flags)
    assert done.code == 0
    first_cells = [line.split()[0] for line in done.out.splitlines() if line.split()]
    assert [first_cells.count(cell) for cell in ("1", "2", "mean", "±", "all")] == [1] * 5
    again = crycli("train", data, "-o", tmp_path / "cv", "--folds", 2, "--resume")
    assert again.out == done.out


def test_a_search_shows_a_row_a_trial_and_says_that_the_best_score_flatters(
    crycli: Command, data: Path, backbones: dict[str, Path], tmp_path: Path
) -> None:
    pytest.importorskip("optuna")
    space = "search.space={train.learning_rate: {low: 0.0001, high: 0.01, log: true}, model.pooling: [mean, max]}"
    flags = ["--backbone", backbones["layer"], "--epochs", 1, "--set", "model.freeze=backbone", "--set", space]
    done = crycli("train", data, "-o", tmp_path / "search", "--search", 2, *flags)
    assert done.code == 0
    assert {line.split()[0] for line in done.out.splitlines() if line.split()} >= {"trial", "1", "2"}
    assert "crycli eval" in done.out
    assert crycli("eval", tmp_path / "search", data, "-o", tmp_path / "report").code == 0
