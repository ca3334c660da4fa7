"""The command line: the one module that uses typer. What is heavy is imported inside the commands."""

from __future__ import annotations

import errno
import functools
import inspect
import os
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from crycli import __version__
from crycli.errors import CrycliError, TrainingError, missing_extra
from crycli.parallel import process_count, process_rank

if TYPE_CHECKING:
    from crycli.config import Config
    from crycli.manifest import Clip
    from crycli.predicting import Extras, Job
    from crycli.results import Results
    from crycli.tables import Form

FAILED, INCOMPLETE, INTERRUPTED, BROKEN_PIPE = 1, 3, 130, 141

DEMO_FOLDERS = ("recordings", "data", "run", "report", "bundle")

MACHINE_ERRORS = {
    errno.ENOSPC: "the disk is full: make room and run the command again",
    errno.EDQUOT: "the disk quota is used up: make room and run the command again",
    errno.EISDIR: "a folder lies where a file should be: move it away",
    errno.ENOTDIR: "a file lies where a folder should be: name another path",
    errno.EROFS: "the file system is read-only: name another output",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EMFILE: "too many open files: raise the limit (ulimit -n) or lower `workers`",
}

FULL_DISK_SIGNS = (
    "No space left on device",
    "disk is full",
    "PytorchStreamWriter failed",
    "iostream error",
    "unexpected pos",
)
"""How libraries report a full disk: safetensors, torch.save, SQLite."""

app = typer.Typer(
    name="crycli",
    help="From folders of infant-cry recordings to a classifier that is evaluated honestly.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help takes half the time: 0.17 s for 0.30
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigFile = Annotated[
    Path | None, typer.Option("-c", "--config", metavar="FILE", help="A YAML file; see `crycli config`.")
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting, such as train.epochs=3. Repeatable."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an output that exists.")]
Model = Annotated[
    str, typer.Argument(help="A run, its model folder, a hub name, or detector, which is built in.", metavar="MODEL")
]
Data = Annotated[Path, typer.Argument(help="A folder that `crycli prepare` wrote.", metavar="DATA")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Show what helps to find faults.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Show warnings, errors and results alone.")]


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Register a command whose expected failures become one line on standard error and an exit code.

    -v and -q may stand before the command and after it.
    """

    @functools.wraps(function)
    def guarded(*args: Any, verbose: bool, quiet: bool, **kwargs: Any) -> None:
        from crycli import console

        console.setup(verbose=verbose or console.is_verbose(), quiet=quiet or console.is_quiet())
        try:
            function(*args, **kwargs)
        except CrycliError as error:
            console.trace()
            # Of several processes of one training, all meet the same errors, but for those of the training itself.
            if process_rank() == 0 or isinstance(error, TrainingError):
                console.error(str(error))
            raise typer.Exit(FAILED) from None
        except ModuleNotFoundError as error:
            reason = missing_extra(error)
            if reason is None:
                raise
            console.error(f"`crycli {function.__name__}` {reason}")
            raise typer.Exit(FAILED) from None
        except KeyboardInterrupt:
            console.error("interrupted: what was finished is kept")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # The reader of a pipe has gone. Python would complain once more when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(BROKEN_PIPE) from None
        except Exception as error:
            reason = machine_error(error)
            if reason is None:
                raise
            console.error(reason)
            raise typer.Exit(FAILED) from None

    signature = inspect.signature(function, eval_str=True)
    speaking = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in {"verbose": Verbose, "quiet": Quiet}.items()
    ]
    parameters = [*signature.parameters.values(), *speaking]
    guarded.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return app.command()(guarded)


def machine_error(error: BaseException) -> str | None:
    """One line for a failure of the machine rather than of crycli; None for a bug.

    Libraries wrap a full disk in exceptions of their own, so the chain of causes and their texts are looked through.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in MACHINE_ERRORS:
            where = f"{cause.filename}: " if cause.filename else ""
            return where + MACHINE_ERRORS[cause.errno]
        text = str(cause)
        if any(sign in text for sign in FULL_DISK_SIGNS):
            return MACHINE_ERRORS[errno.ENOSPC]
        cause = cause.__cause__ or cause.__context__
    return None


@app.callback()
def main_options(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=lambda value: _show_version(value), help="Show the version."),
    ] = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """From folders of infant-cry recordings to a classifier that is evaluated honestly."""
    from crycli import console

    # Of several processes of one training, the first one speaks.
    console.setup(verbose=verbose, quiet=quiet or process_rank() > 0)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"crycli {__version__}")
        raise typer.Exit


def _config(file: Path | None, assignments: list[str] | None, **flags: object) -> Config:
    """The configuration; a flag's value that it refuses is wrong usage. The flags are key paths with "__" for "."."""
    from crycli.config import load_config
    from crycli.errors import ConfigError

    settings = load_config(file, assignments or ())
    given = {key.replace("__", "."): value for key, value in flags.items() if value is not None}
    try:
        return load_config(file, assignments or (), given) if given else settings
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None


@command
def prepare(
    roots: Annotated[
        list[str],
        typer.Argument(
            help="Folders of recordings, a subfolder a label; LABEL=FOLDER; CSVs that list recordings.", metavar="ROOT"
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DATA", help="The folder for the CSVs and the report.")
    ] = None,
    window: Annotated[float | None, typer.Option(help="Cut long recordings into clips of so many seconds.")] = None,
    hop: Annotated[float | None, typer.Option(help="Seconds from one window's start to the next one's.")] = None,
    folds: Annotated[int | None, typer.Option(help="Folds for cross-validation, in a column fold.")] = None,
    keep: Annotated[
        Path | None, typer.Option(metavar="DATA", help="An earlier split: its recordings stay in their parts.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check a split that exists: ROOT is a folder with its CSVs, or CSVs.")
    ] = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    force: Force = False,
) -> None:
    """Scan recordings into train, validation and test CSVs, and check what could fool you."""
    making = {"--window": window, "--hop": hop, "--folds": folds, "--keep": keep}
    if check:
        for flag in [flag for flag, value in making.items() if value is not None]:
            raise typer.BadParameter("is for a new split, and --check looks at one that exists", param_hint=flag)
        _check([Path(root) for root in roots], output, _config(config, assignments), force=force)
        return
    if output is None:
        raise typer.BadParameter("say where the CSVs go: -o DATA", param_hint="-o")
    from crycli import console
    from crycli.prepare import prepare_dataset_csv

    settings = _config(config, assignments, data__window=window, data__hop=hop, data__folds=folds)
    with console.progress() as on_step:
        result = prepare_dataset_csv(roots, output, settings, keep=keep, force=force, on_step=on_step)
    if not console.is_quiet():
        _show_parts(str(output), result.parts)
    if not result.report["leakage"]:
        console.note("No group is in two parts.")
    console.note(f"Look at {output / 'report.html'} before you train.")
    if result.rejected:
        what = "clips" if any(item.start is not None for item in result.rejected) else "recordings"
        console.note(f"{len(result.rejected):,} {what} were left out: {output / 'rejected.csv'} says why.", "yellow")
        raise typer.Exit(INCOMPLETE)


def _check(data: list[Path], output: Path | None, settings: Config, *, force: bool) -> None:
    """Check somebody's split; exit code 1 where it leaks."""
    from crycli import console
    from crycli.checking import check_dataset

    with console.progress() as on_step:
        result = check_dataset(data, settings, output=output, force=force, on_step=on_step)
    _show_parts(", ".join(map(str, data)), result.parts)
    for warning in result.warnings:
        console.warning(warning)
    if output is not None:
        console.note(f"The report is {output / 'check.html'}.")
    if not result.leaks:
        total = sum(map(len, result.parts.values()))
        heard = f"the sound of {total - len(result.unreadable):,} of {total:,} recordings was compared"
        console.result(f"No leakage found: no group or name is in two parts, and {heard}.")
        raise typer.Exit(INCOMPLETE if result.unreadable else 0)
    rows = [
        (
            part,
            f"{leaked:,}",
            f"{result.sizes[part]:,}",
            f"{leaked / result.sizes[part]:.1%}",
            *map(str, causes),
        )
        for part, (leaked, *causes) in result.leaked.items()
    ]
    header = ("part", "leaked clips", "of", "share", "by name", "by sound")
    console.table(
        "leakage: clips whose baby, source or sound is in another part as well", header, rows, numeric=header[1:]
    )
    part, (leaked, *_) = max(result.leaked.items(), key=lambda item: item[1][0] / result.sizes[item[0]])
    example = next(leak.examples[0] for leak in result.leaks if part in (leak.part, leak.other))
    console.error(
        f"leakage: {leaked / result.sizes[part]:.1%} of the {part} clips ({leaked:,} of {result.sizes[part]:,}) share "
        f"a group with another part, such as {example}: scores on this split are too good; split by group"
    )
    raise typer.Exit(FAILED)


def _show_parts(title: str, parts: Mapping[str, Sequence[Clip]]) -> None:
    """A table of the labels: clips, groups and minutes in all, and clips by part."""
    from crycli import console
    from crycli.checks import summarise

    clips = [clip for part in parts.values() for clip in part]
    rows = []
    for label in [*sorted({clip.label for clip in clips}), None]:
        chosen = [clip for clip in clips if label in (clip.label, None)]
        total = summarise(chosen)
        counts = [sum(label in (clip.label, None) for clip in part) for part in parts.values()]
        minutes = f"{total['minutes']:,.1f}"
        rows.append(
            (
                label or "(all)",
                f"{total['clips']:,}",
                f"{total['groups']:,}",
                minutes,
                *(f"{count:,}" for count in counts),
            )
        )
    header = ("label", "clips", "groups", "minutes", *parts)
    console.table(title, header, rows, numeric=header[1:])


@command
def train(
    data: Data,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="RUN", help="The folder for the run.")],
    epochs: Annotated[int | None, typer.Option(help="Passes over the training part.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Clips in one forward pass.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="A hub name, a checkpoint's folder, mini (small, from the detector) or mini-random (from scratch)."
        ),
    ] = None,
    pooling: Annotated[
        str | None, typer.Option(help="auto, mean, sum, max, attention, mean_std or statistics.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Another seed, another start.")] = None,
    folds: Annotated[int | None, typer.Option(min=2, help="Cross-validate: a run for each of so many folds.")] = None,
    search: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Try N combinations of settings from search.space.")
    ] = None,
    preview: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Write N clips as training hears them into RUN; no training.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where RUN broke off.")] = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    force: Force = False,
) -> None:
    """Fine-tune a classifier. The defaults are those that `crycli config` shows."""
    from crycli import console
    from crycli.checkpoint import locate_backbone
    from crycli.outputs import refuse_existing
    from crycli.recipe import of_fold

    if resume and force:
        raise typer.BadParameter("goes on with a run, and --force replaces it: give one of them", param_hint="--resume")
    if resume and preview is not None:
        raise typer.BadParameter("has nothing to go on with: --force replaces it", param_hint="--preview")
    chosen = [f"--{name}" for name, value in (("folds", folds), ("search", search), ("preview", preview)) if value]
    if len(chosen) > 1:
        raise typer.BadParameter(f"and {chosen[1]} are different things to do: give one of them", param_hint=chosen[0])
    if resume and config is None and (output / "config.yaml").is_file():
        config = output / "config.yaml"
    settings = _config(
        config,
        assignments,
        train__epochs=epochs,
        train__batch_size=batch_size,
        train__learning_rate=learning_rate,
        train__seed=seed,
        model__backbone=backbone,
        model__pooling=pooling,
    )
    if not resume:
        refuse_existing(output, force=force)
    if preview is not None:
        _preview(data, output, settings, preview, force=force)
        return
    if process_count() > 1:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # each process would warn of what concerns nobody
    # What can fail at once does so before the seconds that the next import takes.
    starts = [settings] if folds is None else [of_fold(settings, fold) for fold in range(1, folds + 1)]
    for start in {each.model.backbone: each for each in starts}.values():
        locate_backbone(start)
    console.note("loading the training library ...")
    try:
        if folds is not None:
            unreadable = _cross_validate(data, output, settings, folds, resume=resume, force=force)
        elif search is not None:
            unreadable = _search(data, output, settings, search, resume=resume, force=force)
        else:
            unreadable = _train(data, output, settings, resume=resume, force=force)
    except KeyboardInterrupt:
        again = shlex.join(["crycli", "train", str(data), "-o", str(output), *_mode(folds, search), "--resume"])
        console.note(f"`{again}` goes on from the last checkpoint.")
        raise
    if unreadable:
        console.note(f"{unreadable} recordings could not be read and were left out.", "yellow")
        raise typer.Exit(INCOMPLETE)


def _mode(folds: int | None, search: int | None) -> list[str]:
    given = {"--folds": folds, "--search": search}
    return [part for flag, value in given.items() if value is not None for part in (flag, str(value))]


def _train(data: Path, output: Path, settings: Config, *, resume: bool, force: bool) -> int:
    """Train once; returns how many recordings could not be read."""
    from crycli import console, recipe
    from crycli.trainer import best_epoch
    from crycli.training import train

    with console.progress() as on_step:
        trainer = train(data, output, settings, resume=resume, force=force, on_step=on_step)
    best = best_epoch(trainer.state)
    if not console.is_quiet():
        console.table(
            str(output),
            ("", ""),
            [
                ("best epoch", f"{best['epoch']} of {recipe.epochs(settings)}"),
                ("validation macro F1", f"{best['validation_macro_f1']:.3f}"),
                ("validation balanced accuracy", f"{best['validation_balanced_accuracy']:.3f}"),
                ("validation accuracy", f"{best['validation_accuracy']:.3f}"),
                ("model", str(output / "model")),
            ],
        )
        console.note("These scores chose the epoch, so they flatter; `crycli eval` on the test part gives honest ones.")
    return len(trainer.prepared.unreadable)


def _cross_validate(data: Path, output: Path, settings: Config, folds: int, *, resume: bool, force: bool) -> int:
    """Train and predict fold by fold; returns how many recordings could not be read."""
    from crycli import console
    from crycli.crossval import SCORES, cross_validate
    from crycli.evalreport import number

    with console.progress() as on_step:
        found = cross_validate(data, output, settings, folds, resume=resume, force=force, on_step=on_step)
    header = ("fold", "clips", "groups", *map(_score_name, SCORES), "best epoch")
    rows = [
        (
            str(fold.fold),
            str(fold.clips),
            str(fold.groups),
            *(number(getattr(fold, name)) for name in SCORES),
            str(fold.best_epoch),
        )
        for fold in found.folds
    ]
    rows.append(("mean", "", "", *(number(found.mean[name]) for name in SCORES), ""))
    rows.append(("± sd", "", "", *(number(found.standard_deviation[name]) for name in SCORES), ""))
    report = found.report
    pooled = (number(getattr(report, name)) for name in SCORES)
    rows.append(("all clips", str(report.clips), str(report.groups), *pooled, ""))
    console.table(str(output), header, rows, numeric=header[1:])
    console.result(found.remark)
    console.note(f"The out-of-fold predictions are in {output / 'predictions.csv'}.")
    return found.unreadable


def _search(data: Path, output: Path, settings: Config, trials: int, *, resume: bool, force: bool) -> int:
    """Try settings; returns how many recordings could not be read."""
    from crycli import console
    from crycli.evalreport import number
    from crycli.search import search

    with console.progress() as on_step:
        found = search(data, output, settings, trials, resume=resume, force=force, on_step=on_step)
    tried = list(found.best.settings)
    header = ("trial", _score_name(found.select_by), *tried, "")
    rows = [
        (
            str(trial.number),
            number(trial.score),
            *(_setting(trial.settings.get(key)) for key in tried),
            "best" if trial is found.best else " ".join(filter(None, (trial.state, trial.remark))),
        )
        for trial in found.trials
    ]
    console.table(str(output), header, rows, numeric=header[:2])
    console.result(found.remark)
    console.note(f"The best model is {output / 'model'}, its settings are {output / 'config.yaml'}.")
    return found.unreadable


def _score_name(name: str) -> str:
    """As it stands in a table."""
    return name.replace("_", " ").replace("f1", "F1").replace("auc", "AUC")


def _setting(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _preview(data: Path, output: Path, settings: Config, count: int, *, force: bool) -> None:
    """Write clips as training hears them."""
    from crycli import console
    from crycli.preview import write_preview

    with console.progress() as on_step:
        files = write_preview(data, output, settings, count, force=force, on_step=on_step)
    sounds = sum(file.suffix == ".wav" for file in files)
    console.note(f"Listen to the {sounds} wav files in {output}, and look at {output / 'sheet.png'}.")


@command
def eval(  # noqa: A001 - the command's name
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Runs, model folders, bundles, hub names or detector, then a folder that `crycli prepare` wrote.",
            metavar="MODEL... DATA",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="REPORT", help="The folder for the report.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="test, validation or train.")] = None,
    folds: Annotated[
        bool, typer.Option("--folds", help="MODEL is a cross-validation: score its out-of-fold predictions.")
    ] = False,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Score a CSV with label, p_LABEL or predicted, and group, in place of MODEL."
        ),
    ] = None,
    compare_split: Annotated[
        bool, typer.Option("--compare-split", help="Show how much a split by clip would have flattered.")
    ] = False,
    schema: Annotated[bool, typer.Option("--schema", help="The JSON schema of metrics.json, and no more.")] = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    force: Force = False,
) -> None:
    """Say what a classifier is worth on a part of the data: scores with intervals, baselines, and a verdict."""
    from crycli import console
    from crycli.evalreport import metrics_schema, summary_rows
    from crycli.evaluation import evaluate, evaluate_file, evaluate_folds

    if schema:
        console.result(metrics_schema())
        return
    if output is None:
        raise typer.BadParameter("give a folder for the report", param_hint="-o")
    given = models or []
    settings = _config(config, assignments, eval__split=split)
    _refuse_mixed(given, folds=folds, predictions=predictions, split=split, compare_split=compare_split)
    with console.progress() as on_step:
        if predictions is not None:
            found = evaluate_file(predictions, output, settings, force=force, on_step=on_step)
        elif folds:
            found = evaluate_folds(Path(given[0]), output, settings, force=force, on_step=on_step)
        else:
            found = evaluate(
                given[:-1],
                Path(given[-1]),
                output,
                settings,
                compare_splits=compare_split,
                force=force,
                on_step=on_step,
            )
    appraisal, about = found.appraisal, found.about
    header, rows = summary_rows(appraisal, found.others)
    report = appraisal.scores.report
    console.table(
        f"{about.title}, {about.split}: {report.clips} clips of {report.groups} groups",
        header,
        rows,
        numeric=header[1:],
    )
    if appraisal.leakage is not None and appraisal.leakage.clips:
        console.result(
            f"Leakage: the model has met {appraisal.leakage.clips} of these clips, or others of their groups."
        )
    for other in found.others:
        if other.met:
            console.result(
                f"Leakage: {other.name} has met {other.met} of these clips, or others of their groups: its scores "
                "flatter it, and the difference says nothing."
            )
    if found.split_comparison is not None:
        console.result(found.split_comparison.sentence)
    console.result(appraisal.verdict.sentence)
    console.note(f"The report is {output / 'report.html'}.")
    if about.unreadable:
        console.note(f"{about.unreadable} recordings could not be read and are not scored.", "yellow")
        raise typer.Exit(INCOMPLETE)


def _refuse_mixed(
    given: Sequence[str], *, folds: bool, predictions: Path | None, split: str | None, compare_split: bool
) -> None:
    """Refuse arguments of `crycli eval` that do not go together."""
    if predictions is not None and (given or folds):
        raise typer.BadParameter("it takes the place of MODEL and DATA", param_hint="--predictions")
    if folds and len(given) != 1:
        raise typer.BadParameter("give the folder of one cross-validation, and no DATA", param_hint="--folds")
    if (folds or predictions is not None) and (split is not None or compare_split):
        raise typer.BadParameter("it needs MODEL and DATA", param_hint="--split" if split else "--compare-split")
    if predictions is None and not folds and len(given) < 2:
        raise typer.BadParameter("give a model (or several) and a folder that `crycli prepare` wrote")


@command
def predict(
    paths: Annotated[
        list[str],
        typer.Argument(
            help="Recordings, folders of them, CSVs that list them, URLs; - for standard input.", metavar="PATH"
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "-m",
            "--model",
            metavar="MODEL",
            help="A run, its model folder, a bundle, a hub name, or detector, the built-in one for cries: the default.",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Write to a file, - for standard output; with --engine ray a folder."
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format", help="table, csv, jsonl, parquet, audacity or raven; otherwise the ending of FILE decides."
        ),
    ] = None,
    windows: Annotated[bool, typer.Option("--windows", help="A row for each window.")] = False,
    events: Annotated[bool, typer.Option("--events", help="A row for each event.")] = False,
    window: Annotated[float | None, typer.Option(help="Seconds in a window of a long recording.")] = None,
    hop: Annotated[float | None, typer.Option(help="Seconds from one window's start to the next one's.")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Answer unsure below this confidence; not with --events or --top-k.")
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option("--top-k", metavar="K", help="A row for each of the K likeliest labels; not with --events."),
    ] = None,
    sort: Annotated[str | None, typer.Option(help="input, path, label or confidence.")] = None,
    beside: Annotated[bool, typer.Option("--beside", help="Write a file beside each recording.")] = False,
    segments: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Cut the events in the rows' windows out as wav files, by label."),
    ] = None,
    embeddings: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the pooled vectors: .npz, .csv or .parquet.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="PNG", help="Draw the timeline of the rows' windows; of several recordings: a folder."),
    ] = None,
    engine: Annotated[str | None, typer.Option(help="local or ray.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the output broke off.")] = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    force: Force = False,
) -> None:
    """Classify recordings, as cry or not_cry without -m: a table on a terminal, CSV in a pipe."""
    if windows and events:
        raise typer.BadParameter("and --events are different rows: give one of them", param_hint="--windows")
    if output == "-":
        output = None
    settings = _config(
        config,
        assignments,
        predict__format=form,
        predict__rows="windows" if windows else "events" if events else None,
        predict__window=window,
        predict__hop=hop,
        predict__threshold=threshold,
        predict__top_k=top_k,
        predict__sort=sort,
        predict__engine=engine,
    )
    from crycli.predicting import Extras

    extras = Extras(segments, embeddings, plot)
    _refuse_predict_flags(paths, settings, output, extras, beside=beside, resume=resume, force=force)
    name = _use_detector() if model is None else model
    if paths == ["-"]:
        _predict_live(name, output, settings, force=force)
    elif settings.predict.engine == "ray":
        _predict_on_ray(paths, name, str(output), settings, resume=resume, force=force)
    else:
        _predict_here(paths, name, output, settings, extras, beside=beside, resume=resume, force=force)


def _use_detector() -> str:
    """The model of `crycli predict` without -m, which it names."""
    from crycli import console
    from crycli.builtin import BUNDLE

    console.note("Model: the built-in detector (cry or not_cry), not a medical device; -m takes another.")
    return str(BUNDLE)


def _refuse_predict_flags(
    paths: Sequence[str],
    settings: Config,
    output: str | None,
    extras: Extras,
    *,
    beside: bool,
    resume: bool,
    force: bool,
) -> None:
    """Refuse arguments of `crycli predict` that do not go together."""
    if resume and force:
        raise typer.BadParameter("goes on with an output, and --force replaces it: give one", param_hint="--resume")
    if resume and output is None and not beside and extras.embeddings is None:
        raise typer.BadParameter("goes on with an output: name it with -o", param_hint="--resume")
    if beside and output is not None:
        raise typer.BadParameter("takes the place of -o", param_hint="--beside")
    given = {"--segments": extras.segments, "--embeddings": extras.embeddings, "--plot": extras.plot}
    extra = next((flag for flag, value in given.items() if value is not None), "--beside" if beside else None)
    _refuse_same({"-o": output, **given})
    if "-" in paths:
        if len(paths) > 1:
            raise typer.BadParameter("standard input is answered by itself: give no other PATH", param_hint="-")
        if extra is not None or resume:
            raise typer.BadParameter("is not for standard input", param_hint=extra or "--resume")
        if settings.predict.engine == "ray":
            raise typer.BadParameter("standard input is answered here: leave the engine out", param_hint="--engine")
    if settings.predict.engine == "ray":
        if output is None:
            raise typer.BadParameter("the engine ray writes a folder of parquet files: name it", param_hint="-o")
        if extra is not None:
            raise typer.BadParameter("is not for the engine ray", param_hint=extra)


def _refuse_same(outputs: Mapping[str, str | Path | None]) -> None:
    """Refuse outputs of which two are the same file or folder."""
    flags: dict[str, str] = {}
    for flag, path in outputs.items():
        if path is None:
            continue
        other = flags.setdefault(os.path.realpath(path), flag)
        if other != flag:
            raise typer.BadParameter(f"and {other} are the same, {path}: give each a name of its own", param_hint=flag)


def _predict_here(
    paths: Sequence[str],
    model: str,
    output: str | None,
    settings: Config,
    extras: Extras,
    *,
    beside: bool,
    resume: bool,
    force: bool,
) -> None:
    """Answer for recordings on this machine."""
    from crycli import console
    from crycli.inputs import find_inputs
    from crycli.predicting import Job
    from crycli.results import BESIDE_ENDINGS, refuse_taken

    file = Path(output) if output is not None else None
    form = _form(settings, file, beside=beside)
    if file is not None and not resume:
        refuse_taken([file], resume=False, force=force)  # before the seconds in which torch is loaded
    recordings = find_inputs(paths)
    job = Job(model, recordings, "csv" if form == "table" else form, settings, extras, resume=resume, force=force)
    with _results(job, form, file, beside=beside) as results:
        if form != "table" and file is None and not beside and sys.stdout.isatty():
            outcome = job.run(results)  # the rows themselves are the progress; a live bar would stand in their way
        else:
            with console.progress() as on_step:
                outcome = job.run(results, on_step)
    if outcome.finished:
        console.note("Nothing is left to do: the output is finished.")
    elif output is not None:
        console.note(f"The answers are in {output}.")
    elif beside and form != "table":
        console.note(f"The answers are beside the recordings, each in NAME{BESIDE_ENDINGS[form]}.")
    for flag, made in (("segments", extras.segments), ("vectors", extras.embeddings), ("timelines", extras.plot)):
        if made is not None and _is_made(made):
            console.note(f"The {flag} are in {made}.")
    _exit_incomplete(outcome.failed, outcome.recordings, outcome.reasons)


def _is_made(output: Path) -> bool:
    """Whether there is a file, or a folder that holds something."""
    return any(output.iterdir()) if output.is_dir() else output.exists()


def _form(settings: Config, output: Path | None, *, beside: bool) -> Form | Literal["table"]:
    """What the rows become: as the settings say, else by the ending of the file, else a table on a terminal."""
    from crycli.tables import form_of

    chosen = settings.predict.format
    if chosen == "auto":
        if output is not None:
            return form_of(output)
        return "table" if sys.stdout.isatty() and not beside else "csv"
    if chosen == "table" and (output is not None or beside):
        raise typer.BadParameter("a table is for a terminal; a file takes another format", param_hint="--format")
    return chosen


def _results(job: Job, form: Form | Literal["table"], file: Path | None, *, beside: bool) -> Results:
    if form == "table":
        from crycli.terminal import TableResults

        return TableResults(job, job.open(None) if job.wants_vectors else None)
    return job.open("beside" if beside else file or sys.stdout)


def _exit_incomplete(failed: int, recordings: int, reasons: Sequence[tuple[str, str]] = ()) -> None:
    """Say what could not be read, and exit with `INCOMPLETE` where there is any such recording."""
    from crycli import console

    if not failed:
        return
    for path, error in reasons:
        console.warning(f"{path}: {error}")
    more = ": the column error names the others" if 0 < len(reasons) < failed else ""
    console.note(f"{failed:,} of {recordings:,} recordings could not be read{more}.", "yellow")
    raise typer.Exit(INCOMPLETE)


def _predict_live(model: str, output: str | None, settings: Config, *, force: bool) -> None:
    """Answer for standard input while it comes."""
    from crycli.outputs import check_file
    from crycli.predicting import predict_live

    if sys.stdin.isatty():
        raise typer.BadParameter(
            "standard input is the keyboard: pipe sound into it, as in `arecord -f S16_LE -r 16000 | crycli predict -`",
            param_hint="-",
        )
    file = Path(output) if output is not None else None
    form = _form(settings, file, beside=True)  # rows that come one by one make no table
    if form == "table":
        raise typer.BadParameter("rows that come one by one make no table", param_hint="--format")
    if file is not None:
        check_file(file, force=force)
    predict_live(model, sys.stdin.buffer, file or sys.stdout, form, settings)


def _predict_on_ray(
    paths: Sequence[str], model: str, output: str, settings: Config, *, resume: bool, force: bool
) -> None:
    """Answer for recordings on a cluster."""
    from crycli import console
    from crycli.cluster import predict_on_ray
    from crycli.inputs import find_inputs

    recordings = find_inputs(paths)
    with console.progress() as on_step:
        outcome = predict_on_ray(model, recordings, output, settings, resume=resume, force=force, on_step=on_step)
    kept = f", {outcome.resumed:,} of them there before" if outcome.resumed else ""
    files = "1 parquet file" if outcome.shards == 1 else f"{outcome.shards:,} parquet files"
    console.note(f"The answers are in {output}: {files}{kept}.")
    _exit_incomplete(outcome.failed, outcome.recordings)


@command
def export(
    model: Model,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="BUNDLE", help="The folder for the bundle.")],
    form: Annotated[str | None, typer.Option("--format", help="onnx, onnx-int8 or torch.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="Compare on the test part of what `crycli prepare` wrote; score it twice."),
    ] = None,
    clips: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="Compare on recordings, or folders of them. Repeatable.")
    ] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    force: Force = False,
) -> None:
    """Export a classifier to a bundle that runs without torch, compared with the original."""
    from crycli import console
    from crycli.exporting import export_bundle
    from crycli.inputs import find_inputs

    settings = _config(config, assignments, export__format=form)
    given = find_inputs(clips or [])
    with console.progress() as on_step:
        made = export_bundle(model, output, settings, clips=given, data=data, force=force, on_step=on_step)
    if not console.is_quiet():
        header = ("", "before", "after")
        console.table(f"{made.folder} ({made.format})", header, made.rows(), numeric=header[1:])


@command
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="The folder for all it makes.")] = Path(
        "crycli-demo"
    ),
    config: ConfigFile = None,
    assignments: Assignments = None,
    force: Force = False,
) -> None:
    """Run all five on synthetic cries, showing each command."""
    from crycli import console
    from crycli.config import Config, flatten
    from crycli.manifest import read_manifest
    from crycli.outputs import claim_folder
    from crycli.synthesis import write_recordings

    chosen, defaults = flatten(_config(config, assignments)), flatten(Config())
    claim_folder(output, force=force, owned=DEMO_FOLDERS)
    console.note(
        "Synthesising cries. They prove nothing about babies: this shows how the commands go together.", "bold"
    )
    with console.progress() as on_step:
        count = write_recordings(output / "recordings", on_step=on_step)
    common = [*(["-c", str(config)] if config else [])]
    common += [part for assignment in assignments or () for part in ("--set", assignment)]
    recordings, data, run, report, bundle = (str(output / name) for name in DEMO_FOLDERS)
    console.note(f"{count} recordings are in {recordings}.")

    def step(*arguments: str) -> None:
        line = [*console.global_flags(), *arguments, *common]
        console.note(f"\n$ crycli {shlex.join(line)}", "bold")
        code = app(line, standalone_mode=False)
        if code:
            raise typer.Exit(code)

    def unless_set(key: str, *flags: str) -> tuple[str, ...]:
        """The demo's own choice, where the user has made none."""
        return flags if chosen[key] == defaults[key] else ()

    # Each synthetic baby has clips of every label; the expression keeps a baby on one side of the split.
    step("prepare", recordings, "-o", data, *unless_set("data.group_by", "--set", r"data.group_by=baby-\d+"))
    own = [*unless_set("model.backbone", "--backbone", "mini"), *unless_set("train.epochs", "--epochs", "15")]
    step("train", data, "-o", run, *own)
    step("eval", run, data, "-o", report)
    unheard = {clip.label: os.path.relpath(clip.path) for clip in read_manifest(Path(data) / "test.csv")}
    step("predict", *unheard.values(), "-m", run)
    step("export", run, "-o", bundle)
    step("predict", *unheard.values(), "-m", bundle)
    console.note(
        "\nThe synthetic labels differ by construction, so a high score here is no achievement, and it says nothing "
        "about what can be told from a real baby's cry.",
        "bold",
    )


@command
def config(
    file: ConfigFile = None,
    assignments: Assignments = None,
    schema: Annotated[bool, typer.Option("--schema", help="The JSON schema, for editors.")] = False,
) -> None:
    """Show the resolved configuration as YAML, or its JSON schema."""
    from crycli import console
    from crycli.config import to_schema, to_yaml

    settings = _config(file, assignments)
    console.result(to_schema() if schema else to_yaml(settings))


def _open_closed_streams() -> None:
    """Put the null device where a standard stream is closed, as after `2>&-`: Python has None there."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # in the order of their descriptors
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def main() -> None:
    """The entry point."""
    _open_closed_streams()
    for name in ("SIGTERM", "SIGHUP"):  # so that worker processes are ended and the cache is written
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda number, frame: sys.exit(128 + number))
    try:
        app()
    except OSError as error:  # outside the commands, as where the help cannot be written
        reason = machine_error(error)
        if reason is None:
            raise
        sys.exit(f"error: {reason}")
