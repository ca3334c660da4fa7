"""The Hugging Face Trainer for clips: our loss, order, scores and progress in place of its own."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import transformers
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from crycli import metrics
from crycli.calibration import clip_probabilities
from crycli.config import Config
from crycli.dataset import PreparedData
from crycli.errors import TrainingError
from crycli.losses import ClassificationLoss
from crycli.model import SpeechClassification
from crycli.progress import OnStep, Step
from crycli.sampling import ClipSampler, ProcessBatches

HISTORY_COLUMNS = (
    "epoch",
    "step",
    "train_loss",
    "learning_rate",
    "validation_loss",
    "validation_accuracy",
    "validation_balanced_accuracy",
    "validation_macro_f1",
    "validation_macro_auc",
)

STEPS_BETWEEN_LOOKS = 20
"""Several processes agree on what the clock says only so often: each time they wait for each other."""

CLIPS_NAMED = 8
DIVERGED = 3.0  # times the loss of the first epoch, or that of guessing

OnEpoch = Callable[[Mapping[str, Any]], bool]
"""Told each row of the history; training stops where it returns False."""

logger = logging.getLogger(__name__)


class TrainingRows(Protocol):
    """What is trained on: rows for the keys of `ClipSampler`."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: tuple[int, int, int]) -> dict[str, Any]: ...


class ValidationRows(Protocol):
    """What is validated on: rows, and the clip that each belongs to."""

    clips: Any

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Task:
    """What a trainer works on.

    Attributes:
        prepared: the clips.
        training: their rows.
        validation: those of the validation part.
        collate: rows to a batch.
        loss: of a batch.
        sampler: the order of the training rows.
    """

    prepared: PreparedData
    training: TrainingRows
    validation: ValidationRows
    collate: Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]
    loss: ClassificationLoss
    sampler: ClipSampler


class CTCTrainer(Trainer):
    """The Trainer for clips: padded batches with masks, validation scores, crycli's progress instead of prints.

    Attributes:
        prepared: the data it was made with, recordings left out among them.
        task: what it works on.
        report: the validation scores of the last epoch.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        task: Task,
        config: Config,
        on_step: OnStep,
        on_epoch: OnEpoch | None = None,
    ) -> None:
        self.prepared = task.prepared
        self.report: metrics.Report | None = None
        self.task = task
        self._config = config
        self._watch = _LossWatch(self)
        self._losses = _EpochLoss()
        super().__init__(
            model=model,
            args=args,
            data_collator=task.collate,
            train_dataset=task.training,
            eval_dataset=task.validation,
            processing_class=task.prepared.feature_extractor,
            compute_metrics=self._score,
        )
        # The loss below is divided by the clips of the whole update already.
        self.loss_is_scaled_for_ga = True
        self.remove_callback(PrinterCallback)
        self.add_callback(_Order(self, task.sampler))
        self.add_callback(_Clock(self, config.train.checkpoint_minutes))
        self.add_callback(_Progress(self, on_step, on_epoch))

    @property
    def truth(self) -> Any:
        """(clips,) the labels of the validation clips."""
        return np.asarray(self.prepared.parts["validation"]["labels"][:])

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The batches of this process, which no wrapper of accelerate deals out once more."""
        args = self.args
        batches = ProcessBatches(self.task.sampler, args.train_batch_size, args.process_index, args.world_size)
        rows: Any = self.task.training
        return DataLoader(
            rows,
            batch_sampler=batches,
            persistent_workers=False,  # a loader draws from torch's random state when it starts: in each epoch
            collate_fn=self.task.collate,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
        )

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor:
        """The clips of an update: over its batches and all processes."""
        clips = torch.tensor(sum(len(batch["labels"]) for batch in batch_samples), device=device)
        return self.accelerator.gather(clips).sum() if self.args.world_size > 1 else clips

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The loss of a batch as its share of the update's; while validating, plain cross entropy."""
        labels = inputs.pop("labels")
        inputs.pop("clips", None)
        outputs = model(**inputs)
        if model.training:
            # Gradients are averaged over the processes, and the clips are those of all.
            loss = self.task.loss(outputs.logits, labels, num_items_in_batch) * self.args.world_size
        else:
            loss = nn.functional.cross_entropy(outputs.logits.float(), labels)
        return (loss, outputs) if return_outputs else loss

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """One forward and backward pass."""
        clips = inputs["clips"]
        loss = super().training_step(model, inputs, num_items_in_batch).detach()
        self._losses.add(loss, num_items_in_batch, self.args.world_size, len(clips))
        self._watch.look(loss, clips)
        return loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted."""
        return 0

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW with a learning rate of its own for the backbone."""
        if self.optimizer is None:
            network: Any = self.model if model is None else model
            decayed = set(self.get_decay_parameter_names(network))
            prefix = f"{getattr(network, 'base_model_prefix', '')}."
            groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
            for name, parameter in network.named_parameters():
                if parameter.requires_grad:
                    groups.setdefault((name.startswith(prefix), name in decayed), []).append(parameter)
            rate = self.args.learning_rate
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, network)
            self.optimizer = kind(
                [
                    {
                        "params": parameters,
                        "weight_decay": self.args.weight_decay if decay else 0.0,
                        "lr": rate * (self._config.train.backbone_rate if backbone else 1.0),
                    }
                    for (backbone, decay), parameters in sorted(groups.items())
                ],
                **options,
            )
        return self.optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the epoch's mean training loss over all its clips, those before an interruption too."""
        if "loss" in logs:
            logs["loss"] = self._losses.mean(self)
        super().log(logs, start_time)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._watch.settle()
        self._losses.note(self)
        super()._save_checkpoint(model, trial)

    def loss_so_far(self) -> float:
        """The mean training loss of the epoch so far, over the clips of this process."""
        return self._losses.so_far()

    def restore_losses(self) -> None:
        """Take up the sum of the losses of an epoch that was broken off."""
        self._losses.restore(self.state)

    def _score(self, prediction: transformers.EvalPrediction) -> dict[str, float]:
        self._watch.settle()
        logits = np.asarray(prediction.predictions)
        if not np.isfinite(logits).all():
            raise TrainingError(
                f"the network's answers are no longer numbers after {self.state.global_step} updates: lower "
                f"train.learning_rate (it is {self.args.learning_rate:g}) and start anew"
            )
        report = self.report = metrics.score(self.prepared.labels, self.truth, self.clip_probabilities(logits))
        scores: dict[str, Any] = {
            "log_loss": report.log_loss,
            "accuracy": report.accuracy,
            "balanced_accuracy": report.balanced_accuracy,
            "macro_f1": report.macro_f1,
        }
        if report.macro_auc is not None:
            scores["macro_auc"] = report.macro_auc
        # Equal scores, common on small sets, differ by their log loss.
        scores["selection"] = scores[self._config.train.select_by] - 1e-9 * scores["log_loss"]
        return scores

    def clip_probabilities(self, logits: Any) -> metrics.Probabilities:
        """(clips, labels) from the logits of the validation part's windows, (windows, labels)."""
        return clip_probabilities(logits, self.task.validation.clips, len(self.prepared.parts["validation"]))


class _EpochLoss:
    """The mean loss of an epoch. The Trainer's own forgets what came before an interruption."""

    def __init__(self) -> None:
        self._sum: torch.Tensor | float = 0.0
        self._clips = 0.0

    def add(self, loss: torch.Tensor, clips_of_update: Any, processes: int, clips: int) -> None:
        self._sum = self._sum + loss * clips_of_update / processes
        self._clips += clips

    def so_far(self) -> float:
        return float(self._sum) / max(self._clips, 1.0)

    def _totals(self, trainer: CTCTrainer) -> tuple[float, float]:
        values = torch.stack([torch.as_tensor(self._sum).float().cpu(), torch.tensor(self._clips)])
        if trainer.args.world_size > 1:
            values = trainer.accelerator.reduce(values.to(trainer.args.device), "sum").cpu()
        return float(values[0]), float(values[1])

    def mean(self, trainer: CTCTrainer) -> float:
        total, clips = self._totals(trainer)
        self._sum, self._clips = 0.0, 0.0
        return total / max(clips, 1.0)

    def note(self, trainer: CTCTrainer) -> None:
        """Leave the sum so far in the log, which the checkpoint holds."""
        if self._clips:
            total, clips = self._totals(trainer)
            entry = {"step": trainer.state.global_step, "loss_so_far": total, "clips_so_far": clips}
            trainer.state.log_history.append(entry)

    def restore(self, state: TrainerState) -> None:
        last = state.log_history[-1] if state.log_history else {}
        if "loss_so_far" in last:
            first = torch.distributed.get_rank() == 0 if torch.distributed.is_initialized() else True
            self._sum, self._clips = (last["loss_so_far"], last["clips_so_far"]) if first else (0.0, 0.0)


class _LossWatch:
    """Stops a training whose loss is no number any more, naming the clips of the batch.

    On a GPU it looks one step later: to wait for the loss of a step would leave the GPU without work.
    """

    def __init__(self, trainer: CTCTrainer) -> None:
        self._trainer = trainer
        self._waiting: Callable[[], None] | None = None

    def look(self, loss: torch.Tensor, clips: torch.Tensor) -> None:
        """Check this step, on a GPU the one before."""
        self.settle()
        step = self._trainer.state.global_step
        if loss.device.type != "cuda":
            self._check(loss, clips, step)
            return
        copied = torch.empty_like(loss, device="cpu", pin_memory=True).copy_(loss, non_blocking=True)
        arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrival.record()

        def check() -> None:
            arrival.synchronize()
            self._check(copied, clips, step)

        self._waiting = check

    def settle(self) -> None:
        """Check what has not been looked at yet."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting()

    def _check(self, loss: torch.Tensor, clips: torch.Tensor, step: int) -> None:
        if bool(torch.isfinite(loss)):
            return
        paths = [str(self._trainer.prepared.parts["train"][int(clip)]["path"]) for clip in clips.tolist()]
        named = ", ".join(dict.fromkeys(paths[:CLIPS_NAMED])) + (" ..." if len(paths) > CLIPS_NAMED else "")
        raise TrainingError(
            f"the loss is no number any more at step {step + 1}, in the batch of {named}: lower train.learning_rate "
            f"(it is {self._trainer.args.learning_rate:g}), or look at these recordings"
        )


class _Order(TrainerCallback):
    """Tells the sampler which epoch it is."""

    def __init__(self, trainer: CTCTrainer, sampler: ClipSampler) -> None:
        self._trainer = trainer
        self._sampler = sampler

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._trainer.restore_losses()

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._sampler.set_epoch(current_epoch(state))


class Unfreezing(TrainerCallback):
    """Gradual unfreezing: the head alone in the first epoch, then so many more of the last layers in each further one.

    Howard and Ruder 2018, Universal language model fine-tuning (arXiv 1801.06146), section 3.3.
    """

    def __init__(self, model: SpeechClassification, layers: int) -> None:
        self._layers = layers
        self._model = model
        self._trained = [parameter for parameter in model.backbone.parameters() if parameter.requires_grad]

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Choose what this epoch trains."""
        from_top = self._model.layers_from_top()
        count = current_epoch(state) * self._layers
        all_of_it = 0 < count >= len(from_top)  # mini has no layers
        chosen = {id(parameter) for layer in from_top[:count] for parameter in layer.parameters()}
        for parameter in self._trained:
            parameter.requires_grad = all_of_it or id(parameter) in chosen


class _Clock(TrainerCallback):
    """Asks for a checkpoint within an epoch when the last one is old."""

    def __init__(self, trainer: CTCTrainer, minutes: float) -> None:
        self._trainer = trainer
        self._seconds = minutes * 60.0
        self._saved = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # The last update of an epoch is followed by its validation, without which it must not be resumed, and a save.
        whole_epochs = float(state.epoch or 0.0).is_integer()
        late = time.monotonic() - self._saved > self._seconds and not whole_epochs
        if args.world_size > 1:
            if state.global_step % STEPS_BETWEEN_LOOKS:
                return
            flag = torch.tensor(float(late), device=args.device)
            late = bool(self._trainer.accelerator.reduce(flag, "sum") > 0)
        if late:
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._saved = time.monotonic()


class _Progress(TrainerCallback):
    """Tells `on_step` of every update and shows a row for every epoch."""

    def __init__(self, trainer: CTCTrainer, on_step: OnStep, on_epoch: OnEpoch | None) -> None:
        self._trainer = trainer
        self._on_step = on_step
        self._on_epoch = on_epoch
        self._detail = ""
        self._looked = 0.0
        self._validated = 0
        self._began = self._ended = 0.0
        self._began_at = 0.0  # epochs
        self._started, self._started_at = time.monotonic(), 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._started, self._started_at = time.monotonic(), state.epoch or 0.0

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._began, self._began_at = time.monotonic(), state.epoch or 0.0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        clips = len(self._trainer.prepared.parts["train"])
        epochs = int(args.num_train_epochs)
        self._ended = time.monotonic()
        if self._ended - self._looked > 1.0:  # reading the loss waits for the GPU
            self._looked = self._ended
            self._detail = f"loss {self._trainer.loss_so_far():.3f}"
        epoch = min(int(state.epoch or 0) + 1, epochs)
        done = round((state.epoch or 0.0) * clips)
        self._on_step(Step("train", done, epochs * clips, detail=f"epoch {epoch}/{epochs}, {self._detail}"))

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        total = len(self._trainer.prepared.parts["validation"])
        self._validated = min(self._validated + args.eval_batch_size * args.world_size, total)
        self._on_step(Step("validate", self._validated, total))

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._validated = 0
        rows = history(state)
        if not rows:
            return
        self._warn_of_divergence(rows)
        epoch, epochs = round(state.epoch or 0), int(args.num_train_epochs)
        self._on_step(Step("epoch", epoch, epochs, "epochs", row=self._row(state)))
        if self._on_epoch is not None and args.process_index == 0 and not self._on_epoch(rows[-1]):
            control.should_training_stop = True

    def _row(self, state: TrainerState) -> dict[str, str]:
        row = history(state)[-1]
        epoch, epochs = state.epoch or 0.0, state.num_train_epochs
        clips = len(self._trainer.prepared.parts["train"])
        rate = (epoch - self._began_at) * clips / max(self._ended - self._began, 1e-9)
        left = (time.monotonic() - self._started) / max(epoch - self._started_at, 1e-9) * (epochs - epoch)
        selection = next(entry["eval_selection"] for entry in reversed(state.log_history) if "eval_selection" in entry)
        best = state.best_metric is None or selection > state.best_metric  # which is compared only after this
        return {
            "epoch": f"{row['epoch']}/{epochs}",
            "train loss": _number(row["train_loss"]),
            "validation loss": _number(row["validation_loss"]),
            "macro F1": _number(row["validation_macro_f1"]),
            "balanced acc.": _number(row["validation_balanced_accuracy"]),
            "learning rate": "-" if row["learning_rate"] is None else f"{row['learning_rate']:.1e}",
            "clips/s": f"{rate:,.1f}",
            "time left": _duration(left),
            "": "best so far" if best else "",
        }

    def _warn_of_divergence(self, rows: list[dict[str, Any]]) -> None:
        losses = [row["train_loss"] for row in rows if row["train_loss"] is not None]
        guessing = math.log(len(self._trainer.prepared.labels))
        grown = [loss > DIVERGED * min(guessing, losses[0]) for loss in losses]
        if grown and grown[-1] and not any(grown[:-1]):
            logger.warning(
                "the training loss is %.3g, and guessing has %.3g, it diverges: lower train.learning_rate (it is %g)",
                losses[-1],
                guessing,
                self._trainer.args.learning_rate,
            )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def current_epoch(state: TrainerState) -> int:
    """The epoch that begins or goes on, from 0."""
    return int((state.epoch or 0.0) + 1e-6)


def history(state: TrainerState) -> list[dict[str, Any]]:
    """One row an epoch from the Trainer's log, with the keys of `HISTORY_COLUMNS`; None where a value is missing."""
    rows: list[dict[str, Any]] = []
    train: dict[str, Any] = {}
    for entry in state.log_history:
        if "loss" in entry:
            train = entry
        if "eval_macro_f1" in entry:
            same_epoch = train.get("step") == entry["step"]
            row: dict[str, Any] = {
                "epoch": round(entry["epoch"]),
                "step": entry["step"],
                "train_loss": train["loss"] if same_epoch else None,
                "learning_rate": train["learning_rate"] if same_epoch else None,
                "validation_loss": entry["eval_log_loss"],
            }
            scores = {f"validation_{key[5:]}": value for key, value in entry.items() if key.startswith("eval_")}
            rows.append({column: row.get(column, scores.get(column)) for column in HISTORY_COLUMNS})
    return rows


def best_epoch(state: TrainerState) -> dict[str, Any]:
    """The row of `history` whose weights were kept."""
    return next(row for row in history(state) if row["step"] == state.best_global_step)
