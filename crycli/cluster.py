"""The same answers from many machines: Ray Data hands shards of the list of recordings to workers, one a core.

Each worker writes its shards itself, so neither rows nor sound pass through the machine that began the work. A worker
that dies is replaced, and its shard is done again. ray is imported only where there is something left to do.
"""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
import re
import socket
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crycli import __version__
from crycli.audio import Excerpt, Location
from crycli.bundles import file_names
from crycli.checkpoint import Classifier, find_classifier
from crycli.config import Config
from crycli.errors import ConfigError, CrycliError, OutputError
from crycli.inference import Predictor, WindowPolicy, load_predictor, read_calibration, read_policy
from crycli.journal import refuse_other_task
from crycli.outputs import json_text
from crycli.parallel import worker_count
from crycli.predicting import describe_task, kind_of_rows, layout_for
from crycli.predictions import Row
from crycli.progress import OnStep, Step, silent
from crycli.remote import Folder, is_url
from crycli.results import describe_layout, describe_recordings
from crycli.tables import Layout, require_pyarrow, write_parquet

TASK_FILE = "_task.json"
"""What the shards are the answer to. Readers of parquet folders skip what begins with an underscore."""
SUCCESS_FILE = "_SUCCESS"
"""Written last: all shards are there."""
SHARD = re.compile(r"part-(\d{5,})\.parquet")
OWN_FILE = re.compile(rf"{TASK_FILE}|{SUCCESS_FILE}|{SHARD.pattern}|\..+\.partial")
SECONDS_TO_ANSWER = 10.0
MOST_ATTEMPTS = 4  # at a shard: what kills so many workers is in the shard

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What became of it.

    Attributes:
        recordings: in all.
        failed: of these, those without an answer.
        shards: files in all.
        resumed: of these, those that were there already.
    """

    recordings: int
    failed: int
    shards: int
    resumed: int = 0


@dataclass(frozen=True)
class _Job:
    """What a worker needs to know.

    Attributes:
        files: reference to the model's files, name to (bytes,) uint8, of which each machine gets one copy.
        attempts: handle of the `_Attempts`.
        config: the settings.
        layout: what the rows are.
        output: where the shards go.
        version: of crycli, where the work was begun.
    """

    files: Any
    attempts: Any
    config: Config
    layout: Layout
    output: Location
    version: str


class _Attempts:
    """Counts how often each shard was begun; Ray itself would begin it again for ever."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, shard: int) -> int:
        """Count; returns which attempt this is, from 1."""
        self._begun[shard] += 1
        return self._begun[shard]


class ShardWriter:
    """Answers for the recordings of a shard and writes its file; lives in a process of its own, anywhere."""

    def __init__(self, job: _Job) -> None:
        self._job = job

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> dict[str, list[Any]]:
        """Take a shard: its number, and its recordings as `_pack` gives them. An error ends the run, not the worker."""
        shard = int(batch["shard"][0])
        answered: dict[str, list[Any]] = {"shard": [shard], "recordings": [0], "failed": [0], "error": [""]}
        try:
            self._refuse_deadly(shard)
            names, recordings = pickle.loads(batch["packed"][0])
            answered["recordings"] = [len(names)]
            answered["failed"] = [self._write(shard, names, recordings)]
        except CrycliError as error:
            answered["error"] = [str(error)]
        return answered

    def _refuse_deadly(self, shard: int) -> None:
        import ray

        if ray.get(self._job.attempts.begin.remote(shard)) > MOST_ATTEMPTS:
            raise CrycliError(
                f"{_shard_name(shard)} was begun {MOST_ATTEMPTS} times, and each time its worker died, as for want of "
                f"memory: go on with smaller shards, or without the recording that does it"
            )

    def _write(self, shard: int, names: Sequence[Location], recordings: Sequence[Excerpt]) -> int:
        """Returns how many recordings have no answer."""
        failed = 0

        def rows() -> Iterator[Row]:
            nonlocal failed
            for name, prediction in zip(names, self._predictor.predict(recordings), strict=True):
                failed += bool(prediction.error)
                yield from self._job.layout.rows(replace(prediction, path=name))

        with tempfile.TemporaryDirectory(prefix="crycli-") as folder:
            file = Path(folder, _shard_name(shard))
            try:
                write_parquet(file, self._job.layout.columns, rows())
            except OSError as error:
                raise OutputError(f"cannot write {file}: {error.strerror or error}") from error
            Folder(self._job.output).put(file, file.name)
        return failed

    @cached_property
    def _predictor(self) -> Predictor:
        import ray

        if self._job.version != __version__:
            raise ConfigError(
                f"{ray.util.get_node_ip_address()} has crycli {__version__}, and {self._job.version} began the work: "
                f"install the same on every machine"
            )
        with tempfile.TemporaryDirectory(prefix="crycli-") as folder:
            for name, content in ray.get(self._job.files).items():
                Path(folder, name).write_bytes(content)
            config = self._job.config.model_copy(update={"workers": 1})
            return load_predictor(folder, config, for_events=self._job.layout.kind == "events")


def predict_on_ray(
    name: str,
    recordings: Sequence[Excerpt],
    output: str | Path,
    config: Config | None = None,
    *,
    resume: bool = False,
    force: bool = False,
    on_step: OnStep = silent,
) -> Outcome:
    """Answer for recordings on the cluster that RAY_ADDRESS names, or on the cores of this machine.

    The rows are those of the local engine, in the order of the recordings: part-00000.parquet holds those of the first
    `predict.shard_size` recordings. The model is sent along; the recordings have to be where every machine finds them.

    Args:
        name: see `inference.load_predictor`.
        recordings: what to answer for.
        output: a folder that every machine writes to, or its URL.
        config: all settings; `config.workers` is how many processes work at most, 0 for as many as there are cores.
        resume: keep the shards that are there, if they are of the same task.
        force: replace the shards that are there.
        on_step: told when a shard is finished.

    Raises:
        ConfigError: ray or pyarrow is missing, a setting does not fit, or the task to be resumed is another one.
        CheckpointError: there is no such model.
        OutputError: the folder holds something, or cannot be written, or not by all.
        CrycliError: a worker failed.
    """
    config = config or Config()
    _refuse_impossible(config)
    classifier = find_classifier(name, offline=config.offline)
    kind = kind_of_rows(config.predict, "recordings")
    calibration = read_calibration(classifier.folder)
    policy = read_policy(classifier, config.predict, calibration, for_events=kind == "events")
    layout = layout_for(classifier, policy, config.predict, kind)
    size = config.predict.shard_size
    shards = {number: recordings[number * size :][:size] for number in range(math.ceil(len(recordings) / size))}
    folder = Folder(output)
    _claim(folder, _task(recordings, classifier, layout, policy, config), resume=resume, force=force)
    there = _count_failed(folder, shards)
    left = {number: shard for number, shard in shards.items() if number not in there}
    done = sum(len(shards[number]) for number in there)
    failed = sum(there.values())
    if left:
        on_step(Step("predict", done, len(recordings), "recordings"))
        for answered in _run(left, classifier.folder, config, layout, folder):
            done += answered["recordings"]
            failed += answered["failed"]
            on_step(Step("predict", done, len(recordings), "recordings"))
    _finish(folder, shards)
    return Outcome(len(recordings), failed, len(shards), resumed=len(there))


def _refuse_impossible(config: Config) -> None:
    if config.predict.format not in ("auto", "parquet"):
        raise ConfigError(f"predict.format: the engine ray writes parquet, not {config.predict.format}: leave it out")
    if config.predict.sort != "input":
        raise ConfigError("predict.sort: the engine ray keeps the order of the recordings: leave it out")
    require_pyarrow()
    try:
        import ray.data  # noqa: F401
    except ImportError:
        raise ConfigError('predict.engine: ray needs pip install "crycli[ray]"') from None


def _task(
    recordings: Sequence[Excerpt], classifier: Classifier, layout: Layout, policy: WindowPolicy, config: Config
) -> dict[str, Any]:
    """What must be the same for shards to be gone on with."""
    task = {
        "crycli": __version__,
        **describe_recordings(recordings),
        **describe_layout(layout),
        **describe_task(classifier, policy, config),
        "shard_size": config.predict.shard_size,
    }
    return dict(json.loads(json.dumps(task)))  # as it reads back: lists for tuples


def _claim(folder: Folder, task: Mapping[str, Any], *, resume: bool, force: bool) -> None:
    """Make the folder that of the task, with the shards that are there if they are of it, else without any."""
    there = folder.names()
    if resume and TASK_FILE in there:
        with folder.open(TASK_FILE) as stream:
            refuse_other_task(folder.name, json.load(stream), task)
        if SUCCESS_FILE in there:
            folder.remove(SUCCESS_FILE)  # a shard may have gone since
        return
    if resume and there:
        raise OutputError(f"{folder.name} holds nothing of the engine ray to resume: name another output")
    if there and not force:
        raise OutputError(
            f"{folder.name} exists and is not empty: name another output, go on with it (--resume), or replace what "
            f"the engine ray wrote there (--force)"
        )
    folder.create()
    for name in filter(OWN_FILE.fullmatch, there):
        folder.remove(name)
    folder.write(TASK_FILE, json_text(dict(task)))


def _count_failed(folder: Folder, shards: Iterable[int]) -> dict[int, int]:
    """The shards that are there and whole, and how many of their recordings have no answer."""
    import pyarrow
    import pyarrow.parquet

    there = folder.names()
    found: dict[int, int] = {}
    for number in shards:
        if _shard_name(number) not in there:
            continue
        with folder.open(_shard_name(number)) as stream:
            try:
                batches = pyarrow.parquet.ParquetFile(stream).iter_batches(columns=["error"])
                found[number] = sum(int(np.count_nonzero(batch["error"].to_numpy(False))) for batch in batches)
            except (pyarrow.ArrowException, OSError):
                logger.warning("%s in %s is damaged, and is made anew", _shard_name(number), folder.name)
    return found


def _run(
    shards: Mapping[int, Sequence[Excerpt]], model: Path, config: Config, layout: Layout, folder: Folder
) -> Iterator[dict[str, Any]]:
    """Have the shards written; gives for each, as it is finished, its number, its recordings and how many failed."""
    import ray
    import ray.data
    from ray.exceptions import RayActorError

    _refuse_silent_address(os.environ.get("RAY_ADDRESS", ""))
    with _connected(config) as cores:
        files = {name: np.fromfile(model / name, np.uint8) for name in file_names(model)}
        attempts = ray.remote(num_cpus=0)(_Attempts).remote()
        job = _Job(ray.put(files), attempts, config, layout, _absolute(folder.name), __version__)
        items = [{"shard": number, "packed": _pack(recordings)} for number, recordings in shards.items()]
        workers = min(len(items), config.workers or cores)
        answers = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            ShardWriter,
            fn_constructor_args=(job,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
            num_cpus=1,
        )
        try:
            for answered in answers.iter_rows():
                if answered["error"]:
                    raise CrycliError(answered["error"])
                _refuse_unshared(folder, answered["shard"])
                yield answered
        except RayActorError as error:
            raise CrycliError(f"workers die before they begin: {str(error).splitlines()[0]}") from None


def _refuse_silent_address(address: str) -> None:
    """Raise `ConfigError` where nothing answers; Ray had not given up after 150 s."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), SECONDS_TO_ANSWER).close()
    except OSError as error:
        raise ConfigError(f"RAY_ADDRESS: nothing answers at {address} ({error.strerror or error})") from None


@contextmanager
def _connected(config: Config) -> Iterator[int]:
    """Be connected to a cluster; gives the number of its cores."""
    import ray
    import ray.data

    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its errors are raised as well
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    begun = not ray.is_initialized()
    if begun:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports to its makers
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what Ray Data sets up itself is called an error
        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if not os.environ.get("RAY_ADDRESS"):
            cores = worker_count(config.workers)
            settings |= {"address": "local", "num_cpus": cores, "include_dashboard": False}
        try:
            ray.init(**settings)
        except Exception as error:  # RuntimeError, ConnectionError, AuthenticationError ...
            where = os.environ.get("RAY_ADDRESS") or "this machine"
            raise ConfigError(f"cannot begin with Ray on {where}: {str(error).strip().splitlines()[0]}") from None
    try:
        yield int(ray.cluster_resources().get("CPU", 1))
    finally:
        if begun:
            ray.shutdown()


def _shard_name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def _pack(recordings: Sequence[Excerpt]) -> bytes:
    """The names of recordings as they were given, and the recordings as a process in another folder finds them."""
    found = [replace(recording, path=_absolute(recording.path)) for recording in recordings]
    return pickle.dumps(([recording.path for recording in recordings], found))


def _absolute(location: Location) -> Location:
    return location if isinstance(location, str) and is_url(location) else Path(os.path.abspath(location))


def _refuse_unshared(folder: Folder, shard: int) -> None:
    if not folder.has(_shard_name(shard)):
        raise OutputError(
            f"{folder.name} is not the same folder on every machine: name one that is, or a URL such as "
            f"s3://bucket/answers"
        )


def _finish(folder: Folder, shards: Iterable[int]) -> None:
    """Say that all is there, and remove what workers that died had begun."""
    there = folder.names()
    for name in there:
        if OWN_FILE.fullmatch(name) and name.endswith(".partial"):
            folder.remove(name)
    folder.write(SUCCESS_FILE, "")
