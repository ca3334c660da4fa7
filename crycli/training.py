"""A dataset and a configuration to a trained model in a run's folder."""

from __future__ import annotations

import gc
import io
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import nn
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.trainer_utils import PredictionOutput

from crycli import __version__, bootstrap, embeddings, metrics, modelcard, recipe
from crycli.calibration import CALIBRATION_FILE, calibrate
from crycli.checkpoint import build_model, locate_backbone, quiet_libraries, read_json, save_model_folder
from crycli.config import Config, flatten, to_yaml
from crycli.convolution import speed_up_convolutions
from crycli.dataset import (
    DataCollatorCTCWithPadding,
    PreparedData,
    TrainingClips,
    Windows,
    prepare_datasets,
    window_length,
)
from crycli.dropout import speed_up_dropout
from crycli.errors import ConfigError, DataError, TrainingError
from crycli.figures import draw_confusion, draw_curves
from crycli.leakage import write_known
from crycli.lora import add_lora, merge_lora
from crycli.losses import ClassificationLoss, log_prior_of_labels, weights_of_labels
from crycli.manifest import write_rows
from crycli.model import SpeechClassification
from crycli.networks import pick_device
from crycli.outputs import claim_folder, make_folder, refuse_existing, write_bytes, write_json, write_text
from crycli.parallel import process_count, process_rank, worker_count
from crycli.progress import OnStep, silent
from crycli.resuming import (
    newest_checkpoint,
    refuse_other_backbone,
    refuse_other_clips,
    refuse_other_kind,
    refuse_other_settings,
    training_files,
    write_backbone,
    write_clips,
)
from crycli.sampling import ClipSampler
from crycli.trainer import HISTORY_COLUMNS, CTCTrainer, OnEpoch, Task, Unfreezing, best_epoch, history

SECONDS_BETWEEN_PICTURES = 30.0  # drawing one takes 0.4 s, as long as some epochs of a head alone
MOST_LOADERS = 8  # processes that prepare batches; more only wait
NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
"""How torch says, in a plain RuntimeError, that the CPU's memory is used up."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setup:
    """What a run works with.

    Attributes:
        output: the run's folder.
        config: the configuration.
        backbone: the folder of its weights; None for mini-random.
        prepared: the clips.
        training: those of the training part as the network sees them.
        device: torch's name for it.
        precision: "no", "fp16" or "bf16".
        on_step: told of the progress.
        on_epoch: told each row of the history; training stops where it returns False.
    """

    output: Path
    config: Config
    backbone: Path | None
    prepared: PreparedData
    training: TrainingClips
    device: str
    precision: str
    on_step: OnStep
    on_epoch: OnEpoch | None


def train(
    data: Path,
    output: Path,
    config: Config | None = None,
    *,
    resume: bool = False,
    force: bool = False,
    on_step: OnStep = silent,
    on_epoch: OnEpoch | None = None,
) -> CTCTrainer:
    """Fine-tune a classifier.

    Writes into `output`: model/ (complete, the epoch with the best validation score), checkpoints/, logs/
    (TensorBoard), config.yaml, metrics.json, history.csv and curves.png. Where several processes are started for it
    (torchrun, accelerate launch), they share the clips of each update, and the first one writes.

    Args:
        data: a folder that `prepare_dataset_csv` wrote.
        output: the run's folder.
        config: the defaults where None.
        resume: go on from the newest whole checkpoint in `output`; from the start where there is none. The weights
            are those of an uninterrupted run.
        force: replace an earlier run.
        on_step: told of the progress.
        on_epoch: told each row of the history; training stops after an epoch for which it returns False.

    Returns:
        The trainer, with the best weights loaded.

    Raises:
        DataError: the data cannot be used, or a resumed run was begun with others.
        CheckpointError: the backbone is missing or damaged.
        ConfigError: the machine cannot do what is configured, or a resumed run was begun with other settings.
        TrainingError: the loss is no longer a number, or the memory does not hold a single clip.
        OutputError: the output exists and neither `resume` nor `force` is given, or it cannot be written.
    """
    config = config or Config()
    first = process_rank() == 0
    if first:
        _refuse(output, config, resume=resume, force=force)
    device = pick_device(config.device)
    precision = resolve_precision(config.train.precision, device)
    quiet_libraries()
    backbone = locate_backbone(config)
    arguments = _arguments(config, output, device, precision)
    with arguments.main_process_first(desc="decoding"):
        prepared = prepare_datasets(data, config, parts=("train", "validation"), on_step=on_step if first else silent)
    _refuse_too_few(prepared, config)
    if first:
        _warn_of_idle_settings(config)
    clips = TrainingClips(prepared, config)  # what augment lacks is told before the folder is claimed
    setup = Setup(output, config, backbone, prepared, clips, device, precision, on_step if first else silent, on_epoch)
    network = _build(setup)
    if first:
        _begin(setup, resume=resume, force=force)
    started = time.monotonic()
    trainer, network = _fit(setup, network, resume=resume)
    with _inputs_of(network.classifier) as pooled:
        rows: Any = trainer.task.validation
        answers = trainer.predict(rows)
    if first:
        if process_count() == 1:
            _write_pictures(output / "logs", torch.cat(pooled), trainer)
        _finish(trainer, network, setup, answers, time.monotonic() - started)
    return trainer


def _refuse(output: Path, config: Config, *, resume: bool, force: bool) -> None:
    """Raise before any work where the output may not be written."""
    if resume:
        refuse_other_kind(output)
        refuse_other_settings(output, config)
    else:
        refuse_existing(output, force=force)


def _warn_of_idle_settings(config: Config) -> None:
    """Name those that say how the backbone is trained where it is not."""
    if recipe.effective_freeze(config) != "backbone":
        return
    settings = flatten(config)
    for name in ("train.unfreeze_layers", "augment.time_mask", "augment.feature_mask"):
        if settings[name] not in (0, "auto"):
            logger.warning("%s does nothing: with model.freeze=backbone the head alone is trained", name)


def _refuse_too_few(prepared: PreparedData, config: Config) -> None:
    clips = len(prepared.parts["train"])
    if clips < process_count():
        raise DataError(f"{clips} training clips cannot be dealt out to {process_count()} processes: start fewer")
    if config.train.select_by == "macro_auc" and len(set(prepared.parts["validation"]["labels"])) < 2:
        raise ConfigError("train.select_by: macro_auc needs validation clips of two labels or more")


def _begin(setup: Setup, *, resume: bool, force: bool) -> None:
    """Claim the run's folder and write down what the run begins with."""
    output = setup.output
    checkpoints = output / "checkpoints"
    if resume:
        make_folder(output)
        refuse_other_clips(checkpoints, setup.prepared)
        refuse_other_backbone(checkpoints, setup.config)
    else:
        claim_folder(output, force=force, owned=training_files(output))
    write_text(output / "config.yaml", to_yaml(setup.config))
    make_folder(checkpoints)
    write_clips(checkpoints, setup.prepared)
    write_backbone(checkpoints, setup.backbone)


def _build(setup: Setup) -> SpeechClassification:
    """The network at its start, with what is not trained frozen."""
    config, prepared = setup.config, setup.prepared
    network = build_model(config, setup.backbone, prepared.labels, prepared.feature_extractor.sampling_rate)
    _freeze(network, config)
    if config.model.lora_rank is not None:
        add_lora(network, config.model.lora_rank)
    if setup.device == "cpu":
        speed_up_dropout(network)
        if setup.precision == "no":
            speed_up_convolutions(network)
    return network


def _fit(setup: Setup, network: SpeechClassification, *, resume: bool) -> tuple[CTCTrainer, SpeechClassification]:
    """Train, with smaller batches and more of them an update where the memory runs out."""
    batch, accumulation = setup.config.train.batch_size, setup.config.train.gradient_accumulation
    while True:
        try:
            return _attempt(setup, network, batch, accumulation, resume=resume), network
        except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
            if not _out_of_memory(error):
                raise
        if batch == 1 or process_count() > 1:
            raise TrainingError(
                f"out of memory with a batch of {batch}: lower train.batch_size or data.max_seconds, "
                "freeze the backbone (model.freeze), or take a smaller one"
            )
        smaller = next(size for size in range(batch // 2, 0, -1) if batch % size == 0)
        batch, accumulation, resume = smaller, accumulation * batch // smaller, True
        logger.warning(
            "out of memory: going on from the last checkpoint with batches of %d, of which %d make an update",
            batch,
            accumulation,
        )
        del network
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        network = _build(setup)


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(sign in str(error) for sign in NO_MEMORY)


def _attempt(setup: Setup, network: SpeechClassification, batch: int, accumulation: int, *, resume: bool) -> CTCTrainer:
    """One try at the training, from the newest checkpoint where `resume` says so."""
    config = setup.config
    trained, task = _task(network, setup, batch * accumulation * process_count())
    loaders = 0
    if isinstance(task.training, TrainingClips) and (task.training.active or setup.device == "cuda"):
        loaders = min(worker_count(config.workers), MOST_LOADERS)
    arguments = _arguments(config, setup.output, setup.device, setup.precision, batch, accumulation, loaders)
    trainer = CTCTrainer(trained, arguments, task, config, setup.on_step, setup.on_epoch)
    if arguments.process_index == 0:
        writer = _tensorboard_writer(setup.output / "logs")
        trainer.add_callback(TensorBoardCallback(writer))
        trainer.add_callback(_EpochFiles(trainer, setup.output, writer))
    if config.train.unfreeze_layers:
        trainer.add_callback(Unfreezing(network, config.train.unfreeze_layers))
    if config.train.patience is not None:
        trainer.add_callback(EarlyStoppingCallback(config.train.patience))
    _describe(setup, network, trained)
    newest = _checkpoint(setup.output) if resume else None
    if newest is not None and _stopped_early(newest):
        arguments.num_train_epochs = read_json(newest / "trainer_state.json")["epoch"]
    trainer.train(resume_from_checkpoint=str(newest) if newest is not None else None)
    return trainer


def _describe(setup: Setup, network: nn.Module, trained: nn.Module) -> None:
    if process_rank() == 0:
        logger.info(
            "%s: %s weights, %s of them trained; %s clips, %s, precision %s",
            setup.config.model.backbone,
            f"{_size(network):,}",
            f"{_size(trained, trained=True):,}",
            f"{len(setup.prepared.parts['train']):,}",
            setup.device,
            setup.precision,
        )


def _checkpoint(output: Path) -> Path | None:
    newest = newest_checkpoint(output / "checkpoints")
    if newest is not None:
        logger.info("going on from %s", newest)
    else:
        logger.info("no checkpoint in %s yet: starting from the beginning", output)
    return newest


def _stopped_early(checkpoint: Path) -> bool:
    """Whether the run had decided to stop when it wrote a checkpoint; the Trainer would go on for another epoch."""
    callbacks = read_json(checkpoint / "trainer_state.json").get("stateful_callbacks", {})
    return bool(callbacks.get("TrainerControl", {}).get("args", {}).get("should_training_stop"))


def _task(network: SpeechClassification, setup: Setup, batch: int) -> tuple[nn.Module, Task]:
    """What is trained, and on what: the network on clips, or the head alone on what the backbone says about them."""
    config, prepared = setup.config, setup.prepared
    clips = prepared.parts["train"]
    labels = np.asarray(clips["labels"][:])
    extractor = prepared.feature_extractor
    sampler = ClipSampler(
        labels.tolist(),
        np.minimum(clips["length"][:], window_length(config, extractor)).tolist(),
        batch,
        seed=config.train.seed,
        balanced=config.train.sampling == "balanced",
        group_by_length=config.train.group_by_length,
    )
    loss = _loss(config, prepared.labels, np.bincount(labels, minlength=len(prepared.labels)))
    rows = setup.training
    if recipe.effective_freeze(config) == "backbone":
        reason = _why_not_embedded(network, rows)
        if not reason:
            return _embedded_task(network, setup, loss, sampler)
        logger.info("the frozen backbone is run anew in each epoch: %s", reason)
    validation = Windows(prepared.parts["validation"], extractor, window_length(config, extractor))
    collate = DataCollatorCTCWithPadding(extractor)
    return network, Task(prepared, rows, validation, collate, loss, sampler)


def _why_not_embedded(network: SpeechClassification, rows: TrainingClips) -> str:
    """Why what the backbone says cannot be computed once; empty where it can."""
    if rows.active:
        return "augment changes the clips"
    if not network.embeddable:
        layers = (
            f"the {network.config.layer_mode} layers" if network.config.layer_mode == "weighted" else "the last layer"
        )
        return f"{network.config.pooling_mode} pooling of {layers} is learnt from every frame"
    return ""


def _embedded_task(
    network: SpeechClassification, setup: Setup, loss: ClassificationLoss, sampler: ClipSampler
) -> tuple[nn.Module, Task]:
    train, validation = (
        embeddings.embed_part(network, setup.prepared, part, setup.config, setup.device, setup.precision, setup.on_step)
        for part in ("train", "validation")
    )
    rows = embeddings.EmbeddedClips(train, len(setup.prepared.parts["train"]), setup.config.train.seed)
    collate = embeddings.collate_embeddings
    return embeddings.Head(network), Task(setup.prepared, rows, validation, collate, loss, sampler)


def _loss(config: Config, labels: list[str], counts: Any) -> ClassificationLoss:
    settings = config.train
    weights = settings.class_weights
    if weights == "auto":
        balanced_otherwise = settings.sampling == "balanced" or settings.logit_adjustment > 0
        weights = "none" if balanced_otherwise else "balanced"
    drawn = np.ones(len(labels), dtype=np.int64) if settings.sampling == "balanced" else counts
    return ClassificationLoss(
        weights_of_labels(counts, labels, weights),
        log_prior_of_labels(drawn),
        focal_gamma=settings.focal_gamma,
        label_smoothing=settings.label_smoothing,
        logit_adjustment=settings.logit_adjustment,
    )


def resolve_precision(wanted: str, device: str) -> str:
    """The precision for a setting and a device: "no", "fp16" or "bf16".

    Raises:
        ConfigError: the device does not have it; on a CPU fp16 would silently do nothing.
    """
    has_bf16 = device == "cpu" or (device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False))
    if wanted == "auto":
        if device != "cuda":
            return "no"
        return "bf16" if has_bf16 else "fp16"
    if wanted == "fp16" and device != "cuda":
        raise ConfigError(f"train.precision: fp16 needs an NVIDIA GPU, and this runs on {device}: use auto, no or bf16")
    if wanted == "bf16" and not has_bf16:
        raise ConfigError(f"train.precision: this {device} has no bf16: use auto, no or fp16")
    return wanted


def _freeze(network: SpeechClassification, config: Config) -> None:
    freeze = recipe.effective_freeze(config)
    if freeze == "encoder":
        network.freeze_feature_encoder()
    elif freeze == "backbone":
        network.freeze_backbone()


def _arguments(
    config: Config,
    output: Path,
    device: str,
    precision: str,
    batch: int | None = None,
    accumulation: int | None = None,
    loaders: int = 0,
) -> TrainingArguments:
    settings = config.train
    return TrainingArguments(
        output_dir=str(output / "checkpoints"),
        num_train_epochs=recipe.epochs(config),
        per_device_train_batch_size=batch or settings.batch_size,
        per_device_eval_batch_size=batch or settings.batch_size,
        gradient_accumulation_steps=accumulation or settings.gradient_accumulation,
        learning_rate=recipe.learning_rate(config),
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup_share,  # below 1 it is a share
        weight_decay=settings.weight_decay,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=device == "cpu",
        dataloader_num_workers=loaders,
        dataloader_pin_memory=device == "cuda",
        remove_unused_columns=False,
        label_names=["labels"],
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        logging_nan_inf_filter=False,  # would wait for the GPU at each step
        load_best_model_at_end=True,
        metric_for_best_model="selection",
        greater_is_better=True,
        save_total_limit=settings.keep_checkpoints,
        restore_callback_states_from_checkpoint=True,
        seed=settings.seed,
        report_to=[],
        disable_tqdm=True,
    )


class _EpochFiles(TrainerCallback):
    """Writes history.csv after each epoch, and now and then the confusion matrix to TensorBoard."""

    def __init__(self, trainer: CTCTrainer, output: Path, writer: Any) -> None:
        self._trainer = trainer
        self._output = output
        self._writer = writer
        self._drawn = time.monotonic()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        rows = history(state)
        if not rows or self._trainer.report is None:
            return
        write_history(self._output / "history.csv", rows)
        if time.monotonic() - self._drawn > SECONDS_BETWEEN_PICTURES:
            self._drawn = time.monotonic()
            _add_confusion(self._writer, self._trainer.report, state.global_step)


def _add_confusion(writer: Any, report: metrics.Report, step: int) -> None:
    picture = np.asarray(Image.open(io.BytesIO(draw_confusion(report))).convert("RGB"))
    writer.add_image("validation/confusion_matrix", picture, step, dataformats="HWC")


def _tensorboard_writer(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(log_dir=str(folder))


def write_history(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write history.csv."""
    text = [{key: "" if row[key] is None else f"{row[key]:.6g}" for key in HISTORY_COLUMNS} for row in rows]
    write_rows(file, HISTORY_COLUMNS, text)


def _finish(
    trainer: CTCTrainer, network: SpeechClassification, setup: Setup, answers: PredictionOutput, seconds: float
) -> None:
    """Write the model with the best weights, and what there is to say about it."""
    output, config, prepared = setup.output, setup.config, setup.prepared
    logits = np.asarray(answers.predictions)
    probabilities = trainer.clip_probabilities(logits)
    groups = [clip.group for clip in prepared.clips["validation"]]
    report = metrics.score(prepared.labels, trainer.truth, probabilities, groups)
    intervals = bootstrap.intervals(prepared.labels, trainer.truth, None, probabilities.argmax(axis=1), groups)
    best, weights, trained = best_epoch(trainer.state), _size(network), _size(network, trained=True)
    rows = history(trainer.state)
    results: dict[str, Any] = {
        "crycli_version": __version__,
        "backbone": config.model.backbone,
        "labels": prepared.labels,
        "weights": weights,
        "weights_trained": trained,
        "clips": {part: len(dataset) for part, dataset in prepared.parts.items()},
        "unreadable": len(prepared.unreadable),
        "epochs": recipe.epochs(config),
        "best_epoch": best["epoch"],
        "validation": {
            name.removeprefix("validation_"): value for name, value in best.items() if name.startswith("validation_")
        },
        "validation_intervals": {
            name: [interval.low, interval.high] for name, interval in intervals.items() if f"validation_{name}" in best
        },
        "seconds": round(seconds, 3),
        "device": setup.device,
        "precision": setup.precision,
        "processes": process_count(),
        "torch_version": str(torch.__version__),
        "transformers_version": transformers.__version__,
    }
    if config.model.lora_rank is not None:
        merge_lora(network)
    calibration = calibrate(logits, trainer.task.validation.clips, trainer.truth)
    facts = modelcard.gather(
        config, prepared.clips, prepared.labels, report, intervals, weights, trained, best["epoch"]
    )

    def write_more(folder: Path) -> None:
        modelcard.write_card(folder / "README.md", facts)
        write_json(folder / CALIBRATION_FILE, calibration.to_json())
        write_known(folder, prepared.clips, {part: rows["digest"][:] for part, rows in prepared.parts.items()})

    save_model_folder(
        network,
        prepared.feature_extractor,
        output / "model",
        write_more,
    )
    write_history(output / "history.csv", rows)
    write_bytes(output / "curves.png", draw_curves(rows, best["epoch"]))
    write_json(output / "metrics.json", results)


def _size(network: nn.Module, *, trained: bool = False) -> int:
    """The number of a network's weights, of those that are trained."""
    return sum(weights.numel() for weights in network.parameters() if weights.requires_grad or not trained)


@contextmanager
def _inputs_of(module: nn.Module) -> Iterator[list[torch.Tensor]]:
    """What a module is called with while the block runs."""
    seen: list[torch.Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().float().cpu()))
    try:
        yield seen
    finally:
        hook.remove()


def _write_pictures(folder: Path, pooled: torch.Tensor, trainer: CTCTrainer) -> None:
    """For TensorBoard: the kept epoch's confusion matrix, and the validation windows' pooled vectors to project."""
    for earlier in (folder / "projector_config.pbtxt", *folder.glob("[0-9]*/")):  # as of a run that was finished before
        shutil.rmtree(earlier) if earlier.is_dir() else earlier.unlink(missing_ok=True)
    writer = _tensorboard_writer(folder)
    if trainer.report is not None:
        _add_confusion(writer, trainer.report, trainer.state.best_global_step or 0)
    names = [trainer.prepared.labels[label] for label in trainer.truth[trainer.task.validation.clips]]
    writer.add_embedding(pooled, metadata=names, tag="validation", global_step=trainer.state.best_global_step)
    writer.close()
