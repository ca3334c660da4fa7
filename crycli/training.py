"""Fine-tuning with the Hugging Face Trainer: the one module that uses it."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.trainer_callback import PrinterCallback

from crycli import __version__, metrics
from crycli.checkpoint import MINI, build_model, locate_backbone, quiet_libraries, read_json, save_model_folder
from crycli.config import Config, flatten, load_config, to_yaml
from crycli.dataset import DataCollatorCTCWithPadding, PreparedData, prepare_datasets
from crycli.errors import CheckpointError, ConfigError, DataError, TrainingError
from crycli.inference import pick_device, softmax
from crycli.manifest import write_rows
from crycli.model import Wav2Vec2ForSpeechClassification
from crycli.outputs import claim_folder, make_folder, refuse_existing, write_json, write_text
from crycli.progress import OnStep, Step, silent

RUN_FILES = ("model", "checkpoints", "logs", "config.yaml", "metrics.json", "history.csv")

LEARNING_RATES = {"mini": 1e-3, "pretrained": 3e-5}
"""For `train.learning_rate: auto`: from scratch, and for fine-tuning as in wav2vec 2.0 (arXiv 2006.11477)."""

HISTORY_COLUMNS = (
    "epoch",
    "step",
    "train_loss",
    "learning_rate",
    "validation_loss",
    "validation_accuracy",
    "validation_balanced_accuracy",
    "validation_macro_f1",
)

RESUMABLE_CHANGES = frozenset({"workers", "device", "offline", "train.keep_checkpoints"})
"""Settings that do not change what is learnt; sections other than data, model and train do not either."""

CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")

logger = logging.getLogger(__name__)


class CTCTrainer(Trainer):
    """The Trainer for clips: padded batches with masks, validation scores, crycli's progress instead of prints.

    Attributes:
        prepared: the data it was made with, recordings left out among them.
        latest_loss: of the last batch, a scalar still on the device.
    """

    def __init__(
        self, model: Wav2Vec2ForSpeechClassification, args: TrainingArguments, prepared: PreparedData, on_step: OnStep
    ) -> None:
        self.prepared = prepared
        self.latest_loss: torch.Tensor | None = None
        super().__init__(
            model=model,
            args=args,
            data_collator=DataCollatorCTCWithPadding(prepared.feature_extractor),
            train_dataset=prepared.parts["train"],
            eval_dataset=prepared.parts["validation"],
            processing_class=prepared.feature_extractor,
            compute_metrics=self._score,
        )
        self.remove_callback(PrinterCallback)
        self.add_callback(_ProgressCallback(self, on_step))

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One forward and backward pass; keeps the loss for the progress display."""
        self.latest_loss = super().training_step(*args, **kwargs).detach()
        return self.latest_loss

    def _score(self, prediction: transformers.EvalPrediction) -> dict[str, float]:
        logits, truth = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        if not np.isfinite(logits).all():
            raise TrainingError(
                f"the network's answers are no longer numbers after {self.state.global_step} updates: lower "
                f"train.learning_rate (it is {self.args.learning_rate:g}) and start anew"
            )
        report = metrics.score(self.prepared.labels, truth, softmax(logits))
        return {
            "accuracy": report.accuracy,
            "balanced_accuracy": report.balanced_accuracy,
            "macro_f1": report.macro_f1,
            # The best epoch has the best macro-F1; equal ones, common on small sets, differ by their log loss.
            "selection": report.macro_f1 - 1e-9 * report.log_loss,
        }


class _ProgressCallback(TrainerCallback):
    """Tells `on_step` of every update, logs a line an epoch."""

    def __init__(self, trainer: CTCTrainer, on_step: OnStep) -> None:
        self._trainer = trainer
        self._on_step = on_step
        self._score = ""
        self._loss = ""
        self._loss_at = 0.0
        self._validated = 0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        loss = self._trainer.latest_loss
        # Once a second: reading the loss waits for the GPU.
        if loss is not None and time.monotonic() - self._loss_at > 1.0:
            self._loss_at = time.monotonic()
            self._loss = f"loss {float(loss):.3f}"
        epochs = int(args.num_train_epochs)
        clips = len(self._trainer.prepared.parts["train"])
        epoch = min(int(state.epoch or 0) + 1, epochs)
        parts = [f"epoch {epoch}/{epochs}", self._loss, self._score]
        done = round((state.epoch or 0.0) * clips)
        self._on_step(Step("train", done, epochs * clips, detail=", ".join(part for part in parts if part)))

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        total = len(self._trainer.prepared.parts["validation"])
        self._validated = min(self._validated + args.eval_batch_size, total)
        self._on_step(Step("validate", self._validated, total))

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._validated = 0
        rows = history(state)
        if not rows:
            return
        row = rows[-1]
        self._score = f"validation macro-F1 {row['validation_macro_f1']:.3f}"
        loss = row["train_loss"]
        logger.info(
            "epoch %d/%d: loss %s, validation loss %.3f, balanced accuracy %.3f, macro-F1 %.3f",
            row["epoch"],
            int(args.num_train_epochs),
            "-" if loss is None else f"{loss:.3f}",
            row["validation_loss"],
            row["validation_balanced_accuracy"],
            row["validation_macro_f1"],
        )
        write_history(Path(str(args.output_dir)).parent / "history.csv", rows)


@dataclass(frozen=True)
class WeightCounts:
    """How many weights a network has, and how many of them are trained."""

    total: int
    trained: int


def count_weights(model: torch.nn.Module) -> WeightCounts:
    """Count a network's weights."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return WeightCounts(sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained))


def train(
    data: Path,
    output: Path,
    config: Config | None = None,
    *,
    resume: bool = False,
    force: bool = False,
    on_step: OnStep = silent,
) -> CTCTrainer:
    """Fine-tune a classifier.

    Writes into `output`: model/ (complete, the epoch with the best validation macro-F1), checkpoints/, logs/
    (TensorBoard), config.yaml, metrics.json and history.csv.

    Args:
        data: a folder that `prepare_dataset_csv` wrote.
        output: the run's folder.
        config: the defaults where None.
        resume: go on from the newest whole checkpoint in `output`; from the start where there is none. The weights
            are those of an uninterrupted run.
        force: replace an earlier run.
        on_step: told of the progress.

    Returns:
        The trainer, with the best weights loaded.

    Raises:
        DataError: the data cannot be used.
        CheckpointError: the backbone is missing or damaged.
        ConfigError: the machine cannot do what is configured, or a resumed run was begun with other settings.
        TrainingError: the loss is no longer a number.
        OutputError: the output exists and neither `resume` nor `force` is given, or it cannot be written.
    """
    config = config or Config()
    if resume:
        _refuse_changes(output, config, data)
    else:
        refuse_existing(output, force=force)
    device = pick_device(config.device)
    precision = resolve_precision(config.train.precision, device)
    quiet_libraries()
    backbone = locate_backbone(config)
    prepared = prepare_datasets(data, config, parts=("train", "validation"), on_step=on_step)
    model = build_model(config, backbone, prepared.labels, prepared.feature_extractor.sampling_rate)
    _freeze(model, config)
    if resume:
        make_folder(output)
    else:
        claim_folder(output, force=force, owned=RUN_FILES)
    write_text(output / "config.yaml", to_yaml(config))
    make_folder(output / "checkpoints")
    write_json(output / "checkpoints" / "data.json", _data_key(data))
    trainer = CTCTrainer(model, _arguments(config, output, device, precision), prepared, on_step)
    trainer.add_callback(TensorBoardCallback(_tensorboard_writer(output / "logs")))
    counts = count_weights(model)
    logger.info(
        "%s: %s weights, %s of them trained; %d clips, %s, precision %s",
        config.model.backbone,
        f"{counts.total:,}",
        f"{counts.trained:,}",
        len(prepared.parts["train"]),
        device,
        precision,
    )
    newest = newest_checkpoint(output / "checkpoints") if resume else None
    if newest is not None:
        logger.info("going on from %s", newest)
    elif resume:
        logger.info("no checkpoint in %s yet: starting from the beginning", output)
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=str(newest) if newest is not None else None)
    save_model_folder(model, prepared.feature_extractor, output / "model")
    _write_metrics(trainer, model, output, config, device, precision, time.monotonic() - started)
    return trainer


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


def _freeze(model: Wav2Vec2ForSpeechClassification, config: Config) -> None:
    freeze = config.model.freeze
    if freeze == "auto":
        freeze = "none" if config.model.backbone == MINI else "encoder"
    if freeze == "encoder":
        model.freeze_feature_encoder()
    elif freeze == "backbone":
        model.freeze_backbone()


def _arguments(config: Config, output: Path, device: str, precision: str) -> TrainingArguments:
    settings = config.train
    rate = settings.learning_rate
    if rate == "auto":
        rate = LEARNING_RATES["mini" if config.model.backbone == MINI else "pretrained"]
    return TrainingArguments(
        output_dir=str(output / "checkpoints"),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=rate,
        warmup_steps=settings.warmup_share,  # below 1 it is a share
        weight_decay=settings.weight_decay,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=device == "cpu",
        dataloader_pin_memory=device == "cuda",
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="selection",
        greater_is_better=True,
        save_total_limit=settings.keep_checkpoints,
        restore_callback_states_from_checkpoint=True,
        seed=settings.seed,
        report_to=[],
        disable_tqdm=True,
    )


def _tensorboard_writer(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(log_dir=str(folder))


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; None where there is none. Damaged ones, as a kill leaves them, are removed.

    Raises:
        CheckpointError: the best epoch so far, which the checkpoint refers to, is not there any more.
    """
    named = [(CHECKPOINT_NAME.fullmatch(path.name), path) for path in folder.glob("checkpoint-*")]
    by_step = sorted(((int(name[1]), path) for name, path in named if name), reverse=True)
    for _, checkpoint in by_step:
        if _is_whole(checkpoint):
            _point_to_best(checkpoint)
            return checkpoint
        logger.warning("%s is damaged or was not written to its end: taking the one before", checkpoint)
        shutil.rmtree(checkpoint)
    return None


def _is_whole(checkpoint: Path) -> bool:
    """Whether all that a resumed run needs is there and not cut short."""
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))  # written last
        with safe_open(checkpoint / "model.safetensors", framework="pt"):  # checks the length
            pass
    except (OSError, ValueError, SafetensorError):
        return False
    # torch.save writes zip archives, whose directory stands at their end.
    zipped = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
    return "global_step" in state and all(zipfile.is_zipfile(checkpoint / name) for name in zipped)


def _point_to_best(checkpoint: Path) -> None:
    """Let a checkpoint's state name the best epoch where it lies now: the Trainer keeps the path as once typed.

    Where that path does not exist, as after a move, the Trainer would keep the last epoch's weights instead.
    """
    file = checkpoint / "trainer_state.json"
    state = read_json(file)
    best = checkpoint.with_name(f"checkpoint-{state['best_global_step']}")
    if not best.is_dir():
        raise CheckpointError(f"{best}, the best epoch so far, is gone: start anew with --force")
    write_json(file, {**state, "best_model_checkpoint": str(best)})


def _data_key(data: Path) -> dict[str, str]:
    """The manifests that decide what is learnt, and their SHA-256: a moved dataset has the same."""
    files = [data / f"{part}.csv" for part in ("train", "validation")]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()}


def _refuse_changes(output: Path, config: Config, data: Path) -> None:
    """Raise where a run that is to be resumed was begun with other settings or data."""
    file = output / "config.yaml"
    if not file.is_file():
        if output.is_dir() and any(output.iterdir()):
            raise DataError(f"{output} is not a run of `crycli train`: nothing to resume there")
        return
    before, now = flatten(load_config(file)), flatten(config)
    changed = [
        f"{key} was {before[key]} and is now {now[key]}"
        for key in now
        if before[key] != now[key]
        and key not in RESUMABLE_CHANGES
        and key.partition(".")[0] in {"data", "model", "train"}
    ]
    if changed:
        raise ConfigError(f"cannot resume {output}: {'; '.join(changed)}: resume with the same settings, or start anew")
    key_file = output / "checkpoints" / "data.json"
    if not key_file.is_file():
        return
    begun, now_there = read_json(key_file), _data_key(data)
    for name, key in now_there.items():
        if begun.get(name) != key:
            raise DataError(f"cannot resume {output}: {data / name} is not the one that it was begun with: start anew")


def history(state: TrainerState) -> list[dict[str, Any]]:
    """One row an epoch from the Trainer's log, with the keys of `HISTORY_COLUMNS`."""
    rows: list[dict[str, Any]] = []
    train: dict[str, Any] = {}
    for entry in state.log_history:
        if "loss" in entry:
            train = entry
        if "eval_macro_f1" in entry:
            same_epoch = train.get("step") == entry["step"]
            rows.append(
                {
                    "epoch": round(entry["epoch"]),
                    "step": entry["step"],
                    "train_loss": train["loss"] if same_epoch else None,
                    "learning_rate": train["learning_rate"] if same_epoch else None,
                    **{f"validation_{key[5:]}": value for key, value in entry.items() if key.startswith("eval_")},
                }
            )
    return rows


def best_epoch(state: TrainerState) -> dict[str, Any]:
    """The row of `history` whose weights were kept."""
    return next(row for row in history(state) if row["step"] == state.best_global_step)


def write_history(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write history.csv."""
    text = [{key: "" if row[key] is None else f"{row[key]:.6g}" for key in HISTORY_COLUMNS} for row in rows]
    write_rows(file, HISTORY_COLUMNS, text)


def _write_metrics(
    trainer: CTCTrainer,
    model: torch.nn.Module,
    output: Path,
    config: Config,
    device: str,
    precision: str,
    seconds: float,
) -> None:
    best = best_epoch(trainer.state)
    counts = count_weights(model)
    write_json(
        output / "metrics.json",
        {
            "crycli_version": __version__,
            "backbone": config.model.backbone,
            "labels": trainer.prepared.labels,
            "weights": counts.total,
            "weights_trained": counts.trained,
            "clips": {part: len(dataset) for part, dataset in trainer.prepared.parts.items()},
            "unreadable": len(trainer.prepared.unreadable),
            "epochs": config.train.epochs,
            "best_epoch": best["epoch"],
            "validation": {
                key.removeprefix("validation_"): best[key] for key in HISTORY_COLUMNS if key.startswith("validation_")
            },
            "seconds": round(seconds, 3),
            "device": device,
            "precision": precision,
            "torch_version": str(torch.__version__),
            "transformers_version": transformers.__version__,
        },
    )
