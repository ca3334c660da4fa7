"""Search for settings with Optuna: one run a trial, scored on the validation part; the test part is never read."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crycli import __version__, recipe
from crycli.checkpoint import hash_weights, locate_backbone, read_json
from crycli.config import Config, Interval, flatten, load_config, setting_paths, to_yaml
from crycli.errors import CheckpointError, ConfigError, CrycliError, DataError, TrainingError
from crycli.outputs import claim_folder, make_folder, refuse_existing, settle, write_bytes, write_json, write_text
from crycli.progress import OnStep, Step, silent
from crycli.resuming import STUDY_FILE, refuse_other_settings, training_files

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.samplers import TPESampler
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

STUDY_NAME = "search"

SECTIONS = ("model", "augment", "train")
OTHER_SETTINGS = ("data.max_seconds",)
"""The one setting of the data that changes neither which clips there are nor how they are split."""
YARDSTICKS = ("train.select_by",)
"""Trials could not be compared if each were scored by another measure."""

UNPRUNED_TRIALS = 5
"""Trials that run to their end before any is pruned: Optuna's own default for the median."""
UNPRUNED_SHARE = 1 / 3
"""Of the epochs: while the learning rate rises, scores say little."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchTrial:
    """One trial.

    Attributes:
        number: from 1; its run is the folder trial-NUMBER.
        state: finished, pruned (stopped early, worse than the median of the others) or failed.
        score: the best validation score of its epochs; None where it has none.
        settings: what was tried: key path to value.
        remark: where it was pruned, or why it failed.
    """

    number: int
    state: str
    score: float | None
    settings: dict[str, Any]
    remark: str


@dataclass(frozen=True)
class SearchResult:
    """What `search` found.

    Attributes:
        trials: in their order.
        best: the one with the best score; of equal ones that with the lowest validation loss.
        select_by: the name of the score.
        remark: a plain sentence on what the best score is worth.
        unreadable: recordings of the training and validation parts that could not be read.
    """

    trials: tuple[SearchTrial, ...]
    best: SearchTrial
    select_by: str
    remark: str
    unreadable: int


@dataclass(frozen=True)
class _Search:
    """What the trials share.

    Attributes:
        data: the dataset.
        output: the folder of the search.
        config: the settings that are not tried.
        space: what is tried, as Optuna's distributions.
        study: Optuna's memory of the trials.
        storage: the file behind it.
    """

    data: Path
    output: Path
    config: Config
    space: Mapping[str, BaseDistribution]
    study: Study
    storage: RDBStorage


def search(
    data: Path,
    output: Path,
    config: Config,
    trials: int,
    *,
    resume: bool = False,
    force: bool = False,
    on_step: OnStep = silent,
) -> SearchResult:
    """Train with settings drawn from `search.space` and keep the model with the best validation score.

    Settings are drawn by a tree-structured Parzen estimator (Bergstra et al. 2011, Algorithms for hyper-parameter
    optimization), seeded by `train.seed`; a trial that falls below the median of the others is stopped early. A trial
    whose settings do not go together, whose loss diverges or which finds no memory has failed, and the search goes on.

    Writes into `output`: search.db (Optuna's), trial-NNNN/ (a run each, without checkpoints once it is over), and in
    the end model/, config.yaml, history.csv and curves.png of the best trial, and metrics.json with all of them.

    Args:
        data: a folder that `prepare_dataset_csv` wrote; its test part is not read.
        output: the folder for the search.
        config: `search.space` names what is tried; all else is common to the trials.
        trials: how many in all, those before an interruption included.
        resume: go on where an earlier call was interrupted; the result is that of an uninterrupted one.
        force: replace an earlier run or search.
        on_step: told of the progress.

    Raises:
        ConfigError: Optuna is not installed, the space names a setting that cannot be tried or a value that the
            setting refuses, several processes were started, or what is resumed was begun with other settings.
        DataError: the data cannot be used, or what is resumed was begun with others.
        TrainingError: no trial was finished.
        OutputError: the output exists and neither `resume` nor `force` is given, or it cannot be written.
    """
    _refuse_several_processes()
    _import_optuna()
    if trials < 1:
        raise ConfigError(f"a search needs a trial or more, not {trials}")
    if not resume:
        refuse_existing(output, force=force)
    space = _read_space(config)
    begun_with = _hash_manifests(data) | _hash_backbone(config)
    if resume:
        _refuse_other_search(output, config)
        make_folder(output)
    else:
        claim_folder(output, force=force, owned=training_files(output))
    with _open_study(output) as (study, storage):
        _refuse_other_data(study, begun_with, output)
        task = _Search(data, output, config, space, study, storage)
        if not (output / "config.yaml").is_file():
            write_text(output / "config.yaml", to_yaml(config))
        for number in range(1, trials + 1):
            _run_trial(task, number, partial(_show, on_step, f"{number}/{trials}"))
        return _finish(task)


def _refuse_several_processes() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("a search trains its trials in one process: start it without torchrun or accelerate")


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ConfigError('a search needs Optuna: pip install "crycli[search]"') from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _show(on_step: OnStep, which: str, step: Step) -> None:
    row = None if step.row is None else {"trial": which, **step.row}
    on_step(replace(step, name=f"trial {which}: {step.name}", row=row))


def _read_space(config: Config) -> dict[str, BaseDistribution]:
    """What is tried, as Optuna's distributions; every value is checked to be one that the setting takes.

    Raises:
        ConfigError: a key or a value that cannot be tried; the message names it.
    """
    if not config.search.space:
        raise ConfigError("search.space is empty: name settings and the values to try")
    return {key: _read_entry(config, key, values) for key, values in config.search.space.items()}


def _read_entry(config: Config, key: str, values: list[Any] | Interval) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    _refuse_setting(key)
    if isinstance(values, list):
        # As JSON: Optuna itself takes neither lists nor dictionaries, and takes 1, 1.0 and true for one value.
        choices = list(dict.fromkeys(_to_json(key, value) for value in values))
        if not choices:
            raise ConfigError(f"search.space: {key} has no values to try")
        for choice in choices:
            _check_value(config, key, json.loads(choice))
        return CategoricalDistribution(choices)
    if values.whole and not (values.low.is_integer() and values.high.is_integer()):
        raise ConfigError(f"search.space: {key} from {values.low:g} to {values.high:g}: whole numbers need whole ends")
    for end in (values.low, values.high):
        _check_value(config, key, int(end) if values.whole else end)
    if values.whole:
        return IntDistribution(int(values.low), int(values.high), log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def _refuse_setting(key: str) -> None:
    if key not in setting_paths():
        above = key.rpartition(".")[0]
        if above in setting_paths():
            raise ConfigError(f"search.space: {key} is no setting by itself: try {above} as a whole")
        try:
            load_config(None, [f"{key}=null"])
        except ConfigError as error:  # which knows what may be meant
            raise ConfigError(f"search.space: {error}") from None
    section = key.partition(".")[0]
    if key in YARDSTICKS:
        raise ConfigError(f"search.space: {key} is what the trials are compared by: all need the same")
    if section == "data" and key not in OTHER_SETTINGS:
        raise ConfigError(
            f"search.space: {key} changes the clips or their split, so scores could not be compared: "
            f"of the data, {' and '.join(OTHER_SETTINGS)} alone can be tried"
        )
    if section not in (*SECTIONS, "data"):
        raise ConfigError(
            f"search.space: {key} changes nothing that is learnt: settings of {', '.join(SECTIONS)} and "
            f"{' and '.join(OTHER_SETTINGS)} can be tried"
        )


def _to_json(key: str, value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        raise ConfigError(f"search.space: {key} cannot be {value!r}") from None


def _check_value(config: Config, key: str, value: object) -> None:
    try:
        _with_settings(config, {key: value})
    except ConfigError as error:
        hint = "; whole: true draws whole numbers" if isinstance(value, float) and "integer" in str(error) else ""
        raise ConfigError(f"search.space: {error}{hint}") from None


def _with_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    """The configuration with some settings changed.

    Raises:
        ConfigError: they are not valid, or not together.
    """
    others = {key: value for key, value in flatten(config).items() if key not in settings}
    return load_config(
        None, [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()], others
    )


def _hash_manifests(data: Path) -> dict[str, str]:
    if not data.is_dir():
        raise DataError(f"no folder {data}: make it with `crycli prepare RECORDINGS -o {data}`")
    settle(data)
    files = [data / f"{part}.csv" for part in ("train", "validation")]
    for file in files:
        if not file.is_file():
            raise DataError(f"no {file}: make it with `crycli prepare`")
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _hash_backbone(config: Config) -> dict[str, str]:
    """The files with the weights that all trials start from; none where that is what is tried."""
    if "model.backbone" in config.search.space:
        return {}
    hashes = hash_weights(locate_backbone(config))
    return {f"{name} of {config.model.backbone}": key for name, key in hashes.items()}


def _refuse_other_search(output: Path, config: Config) -> None:
    """Raise where a search that is to be resumed was begun with another space or other settings, or is no search."""
    if not (output / STUDY_FILE).is_file():
        if output.is_dir() and any(output.iterdir()):
            raise DataError(f"{output} is not a search of `crycli train --search`: nothing to resume there")
        return
    file = output / "config.yaml"
    if not file.is_file():
        return
    begun = load_config(file)
    before, now = begun.search.space, config.search.space
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if changed:
        differences = "; ".join(
            f"{key} was {_shown(before.get(key))} and is now {_shown(now.get(key))}" for key in changed
        )
        raise ConfigError(f"cannot resume {output}: in search.space {differences}: resume with the same, or start anew")
    # What is tried stands there as the best trial has it, once the search is over.
    tried = {key: value for key, value in flatten(begun).items() if key in before}
    refuse_other_settings(output, _with_settings(config, tried))


def _shown(values: list[Any] | Interval | None) -> str:
    if values is None:
        return "not there"
    return str(values.model_dump() if isinstance(values, Interval) else values)


@contextmanager
def _open_study(output: Path) -> Iterator[tuple[Study, RDBStorage]]:
    """Optuna's study in `output`, a new one where there is none.

    Raises:
        DataError: the file is damaged.
    """
    optuna = _import_optuna()
    from sqlalchemy import URL
    from sqlalchemy.exc import DatabaseError, OperationalError

    file = output.absolute() / STUDY_FILE
    try:
        storage = optuna.storages.RDBStorage(URL.create("sqlite", database=str(file)).render_as_string())
    except OperationalError:  # a full disk, say
        raise
    except DatabaseError:
        raise DataError(f"{file} is damaged: start the search anew with --force") from None
    try:
        study = optuna.create_study(storage=storage, study_name=STUDY_NAME, direction="maximize", load_if_exists=True)
        yield study, storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _refuse_other_data(study: Study, hashes: dict[str, str], output: Path) -> None:
    """Raise where the search was begun with other manifests or weights; note them where it is new."""
    begun = study.user_attrs.get("manifests")
    if begun is None:
        study.set_user_attr("manifests", hashes)
        return
    changed = [name for name, key in hashes.items() if begun.get(name, key) != key]
    if changed:
        raise DataError(
            f"cannot resume {output}: {' and '.join(changed)} {'is' if len(changed) == 1 else 'are'} not what it was "
            f"begun with: put the old one back, or start anew"
        )


def _folder(output: Path, number: int) -> Path:
    return output / f"trial-{number:04d}"


def _run_trial(task: _Search, number: int, on_step: OnStep) -> None:
    """Bring a trial to its end; does nothing where it is there already."""
    folder = _folder(task.output, number)
    known = task.study.get_trials(deepcopy=False)
    if number > len(known) or not known[number - 1].state.is_finished():
        _train(task, _take_trial(task, number), folder, on_step)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _take_trial(task: _Search, number: int) -> Trial:
    """A new trial, or the one that was running when the search was interrupted, with its settings drawn."""
    from optuna.trial import Trial

    study = task.study
    # A sampler of its own for each trial: what it draws does not depend on when the search was interrupted.
    study.sampler = _sampler(task.config.train.seed, number)
    if number > len(study.get_trials(deepcopy=False)):
        trial = study.ask()
    else:
        identity = task.storage.get_study_id_from_name(STUDY_NAME)
        trial = Trial(study, task.storage.get_trial_id_from_study_id_trial_number(identity, number - 1))
    for key, values in task.space.items():
        _draw(trial, key, values)
    return trial


def _sampler(seed: int, number: int) -> TPESampler:
    import numpy as np
    from optuna.samplers import TPESampler

    return TPESampler(seed=int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))


def _draw(trial: Trial, key: str, values: BaseDistribution) -> None:
    """Draw a setting; one that the trial has already stays as it is."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(values, CategoricalDistribution):
        trial.suggest_categorical(key, values.choices)
    elif isinstance(values, IntDistribution):
        trial.suggest_int(key, values.low, values.high, log=values.log)
    elif isinstance(values, FloatDistribution):
        trial.suggest_float(key, values.low, values.high, log=values.log)


def _settings(params: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """What Optuna drew, as values of settings, in the order of the space."""
    return {
        key: json.loads(params[key]) if isinstance(params[key], str) else params[key]
        for key in config.search.space
        if key in params
    }


def _train(task: _Search, trial: Trial, folder: Path, on_step: OnStep) -> None:
    """Train a trial, or go on with it, and tell Optuna how it went."""
    import torch
    from optuna.trial import TrialState

    from crycli import training

    number = trial.number + 1
    try:
        config = _with_settings(task.config, _settings(trial.params, task.config))
        if "pruned" not in trial.user_attrs:  # or it was interrupted right after that
            begun = (folder / "config.yaml").is_file()
            on_epoch = _reporter(task.study, trial, config)
            training.train(task.data, folder, config, resume=begun, force=not begun, on_step=on_step, on_epoch=on_epoch)
    except (ConfigError, CheckpointError, TrainingError, MemoryError, torch.OutOfMemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        logger.warning("trial %d failed: %s", number, reason)
        trial.set_user_attr("failed", reason)
        task.study.tell(trial, state=TrialState.PRUNED)  # so that the sampler takes its settings for bad ones
        return
    except CrycliError as error:
        raise type(error)(f"trial {number}: {error}") from error
    if "pruned" in trial.user_attrs:
        task.study.tell(trial, state=TrialState.PRUNED)
        return
    validation = read_json(folder / "metrics.json")["validation"]
    trial.set_user_attr("validation", validation)
    task.study.tell(trial, validation[config.train.select_by])


def _reporter(study: Study, trial: Trial, config: Config) -> Callable[[Mapping[str, Any]], bool]:
    """For `train`: takes each epoch's scores to Optuna, and stops the trial where it falls below the median."""
    from optuna.pruners import MedianPruner

    score, epochs = f"validation_{config.train.select_by}", recipe.epochs(config)
    study.pruner = MedianPruner(UNPRUNED_TRIALS, n_warmup_steps=int(epochs * UNPRUNED_SHARE) + 1)
    reported = set(study.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def on_epoch(row: Mapping[str, Any]) -> bool:
        epoch = int(row["epoch"])
        if epoch not in reported:  # an epoch that was interrupted after this is trained again
            reported.add(epoch)
            trial.report(float(row[score]), epoch)
        if epoch >= epochs or not trial.should_prune():
            return True
        logger.info("trial %d: pruned after epoch %d, below the median of the others", trial.number + 1, epoch)
        trial.set_user_attr("pruned", epoch)
        return False

    return on_epoch


def _describe(trial: FrozenTrial, config: Config) -> SearchTrial:
    from optuna.trial import TrialState

    number, settings = trial.number + 1, _settings(trial.params, config)
    if trial.state == TrialState.COMPLETE:
        return SearchTrial(number, "finished", trial.value, settings, "")
    if "failed" in trial.user_attrs:
        return SearchTrial(number, "failed", None, settings, trial.user_attrs["failed"])
    reported = max(trial.intermediate_values.values(), default=None)
    return SearchTrial(number, "pruned", reported, settings, f"after epoch {trial.user_attrs['pruned']}")


def _finish(task: _Search) -> SearchResult:
    """Put the best trial's model in the search's own folder, and all trials in metrics.json."""
    known = [trial for trial in task.study.get_trials(deepcopy=False) if trial.state.is_finished()]
    rows = tuple(_describe(trial, task.config) for trial in known)
    finished = [
        (row, trial.user_attrs["validation"]) for row, trial in zip(rows, known, strict=True) if row.state == "finished"
    ]
    if not finished:
        raise TrainingError(f"none of the {len(rows)} trials was finished: the first one failed: {rows[0].remark}")
    best, validation = max(finished, key=lambda entry: (entry[0].score or 0.0, -entry[1]["loss"]))
    select_by = task.config.train.select_by
    score = select_by.replace("_", " ").replace("f1", "F1").replace("auc", "AUC")
    remark = (
        f"Trial {best.number} of {len(rows)} has the best validation {score}, {best.score:.3f}. It was chosen for "
        f"that, so the score flatters it: `crycli eval` on the test part gives the honest figure."
    )
    folder = _folder(task.output, best.number)
    run = read_json(folder / "metrics.json")
    result = SearchResult(rows, best, select_by, remark, run["unreadable"])
    _copy_best(folder, task.output)
    _write_metrics(result, {"best_epoch": run["best_epoch"], "validation": validation}, task.output)
    return result


def _copy_best(folder: Path, output: Path) -> None:
    """Copy a run's results, the model whole or not at all."""
    unfinished = output / ".model.partial"
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(folder / "model", unfinished)
    shutil.rmtree(output / "model", ignore_errors=True)
    unfinished.rename(output / "model")
    for name in ("config.yaml", "history.csv", "curves.png"):
        write_bytes(output / name, (folder / name).read_bytes())


def _write_metrics(result: SearchResult, of_best: Mapping[str, Any], output: Path) -> None:
    table: list[dict[str, Any]] = []
    best: float | None = None
    for trial in result.trials:
        if trial.state == "finished" and trial.score is not None:
            best = trial.score if best is None else max(best, trial.score)
        table.append({**asdict(trial), "best_so_far": best})
    write_json(
        output / "metrics.json",
        {
            "crycli_version": __version__,
            "select_by": result.select_by,
            "remark": result.remark,
            "unreadable": result.unreadable,
            "best": {**asdict(result.best), **of_best},
            "trials": table,
        },
    )
