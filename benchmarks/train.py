"""Clips a second while training: crycli against the stock recipe, on the same backbone, clips, batch and epochs.

The stock recipe is that of transformers' audio-classification example: AutoModelForAudioClassification and the plain
Trainer, each clip decoded, cut and normalised when its turn comes, each batch padded to its longest clip. Both sides
decode with crycli's decoder, which favours the stock one, and run in processes of their own, in turns. Printed are

- clips a second over the training steps (validation, checkpoints and start-up apart),
- the share of that time spent waiting for batches, and what crycli pays once to decode all clips beforehand,
- the peak of memory,
- what share of a bare loop of forward, backward and update on batches that lie ready crycli reaches.

    python benchmarks/train.py DATA                      # a folder that `crycli prepare` wrote; the mini backbone
    python benchmarks/train.py DATA --backbone base      # of base size, random weights
    python benchmarks/train.py DATA --mixed              # clips cut to 1 to 7 seconds, as from phones
    python benchmarks/train.py DATA --backbone base --frozen   # 100 epochs of a head, against one forward pass

On a GPU, `--precision bf16` and the utilisation that nvidia-smi gives are what to look at.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

SHORTEST, LONGEST = 1.0, 7.0  # seconds, with --mixed


def main() -> None:
    """Run the sides in turns and print their rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder that `crycli prepare` wrote")
    parser.add_argument("--backbone", default="mini", help="mini or base, both with random weights, or a folder")
    parser.add_argument("--clips", type=int, default=128, help="training clips that are used")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--precision", default="no", choices=["no", "bf16", "fp16"])
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--mixed", action="store_true", help="cut the clips to between 1 and 7 seconds")
    parser.add_argument("--rounds", type=int, default=3, help="of each side, in turns")
    parser.add_argument("--frozen", action="store_true", help="train the head alone, for 100 epochs, on all clips")
    parser.add_argument("--side", choices=["stock", "crycli", "bare"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(SIDES[arguments.side](arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        if arguments.frozen:
            _train_frozen(arguments, Path(folder))
        else:
            _compare(arguments, Path(folder))


def _compare(arguments: argparse.Namespace, folder: Path) -> None:
    _make_data(arguments, folder / "data")
    _make_backbone(arguments.backbone, folder / "backbone")
    results: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(arguments.rounds):
        for side, found in results.items():
            command = [sys.executable, *sys.argv, "--side", side, "--folder", str(folder)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{arguments.clips} clips, {arguments.epochs} epochs, batch {arguments.batch}, {arguments.backbone} backbone")
    print(f"{'':8}{'clips/s':>9}{'(all rounds)':>28}{'waiting':>9}{'decoding':>10}{'memory':>9}{'GPU busy':>10}")
    for side, found in results.items():
        middle = _median(found)
        rounds = " ".join(f"{result['rate']:.2f}" for result in found)
        busy = f"{middle['busy']:.0%}" if middle["busy"] >= 0 else "-"
        print(
            f"{side:8}{middle['rate']:9.2f}{rounds:>28}{middle['waiting']:9.1%}{middle['decoding']:8.1f} s"
            f"{middle['megabytes']:6.0f} MB{busy:>10}"
        )
    crycli, stock, bare = (_median(results[side]) for side in ("crycli", "stock", "bare"))
    ratios = [one["rate"] / other["rate"] for one, other in zip(results["crycli"], results["stock"], strict=True)]
    print(f"crycli / stock: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"crycli / bare loop: {crycli['rate'] / bare['rate']:.2f}")
    clips = arguments.clips * arguments.epochs
    with_decoding = clips / (clips / crycli["rate"] + crycli["decoding"])
    print(f"crycli / stock with the decoding beforehand: {with_decoding / stock['rate']:.2f}")


def _train_frozen(arguments: argparse.Namespace, folder: Path) -> None:
    """Time a bare forward pass over the clips of training and validation, and 100 epochs on a frozen backbone."""
    import torch

    from crycli import training
    from crycli.checkpoint import build_model
    from crycli.config import load_config
    from crycli.dataset import DataCollatorCTCWithPadding, Windows, prepare_datasets, window_length
    from crycli.networks import pick_device

    _make_backbone(arguments.backbone, folder / "backbone")
    settings = [f"model.backbone={folder / 'backbone'}", "model.freeze=backbone", "train.epochs=100"]
    config = load_config(None, [*settings, f"device={arguments.device}", f"cache={folder / 'cache'}"])
    prepared = prepare_datasets(arguments.data, config, parts=("train", "validation"))  # decoded for both
    device = pick_device(config.device)
    model: Any = build_model(config, folder / "backbone", prepared.labels).to(device).eval()
    extractor = prepared.feature_extractor
    collate = DataCollatorCTCWithPadding(extractor)
    clips = 0
    started = time.perf_counter()
    for part in ("train", "validation"):
        windows = Windows(prepared.parts[part], extractor, window_length(config, extractor))
        clips += len(windows)
        with torch.inference_mode():
            for index in range(len(windows)):
                batch = collate([windows[index]])
                model(batch["input_values"].to(device), batch["attention_mask"].to(device))
    _synchronise()
    forward = time.perf_counter() - started
    started = time.perf_counter()
    training.train(arguments.data, folder / "run", config)
    trained = time.perf_counter() - started
    print(f"{clips} clips, {arguments.backbone} backbone: one forward pass takes {forward:.1f} s")
    print(f"100 epochs on the frozen backbone, all of `train`: {trained:.1f} s, {trained / forward:.2f} times as long")


def _median(results: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(result[name] for result in results) for name in results[0]}


def _make_data(arguments: argparse.Namespace, folder: Path) -> None:
    """train.csv and validation.csv with so many clips, drawn with a fixed seed."""
    from dataclasses import replace

    from crycli.manifest import read_manifest, write_manifest

    folder.mkdir()
    generator = np.random.default_rng(0)
    clips = read_manifest(arguments.data / "train.csv")
    chosen = [clips[index] for index in generator.permutation(len(clips))[: arguments.clips]]
    if arguments.mixed:
        for index, clip in enumerate(chosen):
            whole = clip.duration or LONGEST
            length = min(float(generator.uniform(SHORTEST, LONGEST)), whole)
            first = (clip.start or 0.0) + float(generator.uniform(0.0, whole - length))
            chosen[index] = replace(clip, start=first, end=first + length, duration=length)
    arguments.clips = len(chosen)
    write_manifest(folder / "train.csv", chosen)
    labels = {clip.label for clip in chosen}
    validation = [clip for clip in read_manifest(arguments.data / "validation.csv") if clip.label in labels]
    write_manifest(folder / "validation.csv", validation[: arguments.batch])


def _make_backbone(name: str, folder: Path) -> None:
    """A plain checkpoint that both sides start from."""
    import shutil

    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    from crycli.mini import MINI_ARCHITECTURE, initialise

    if name not in ("mini", "base"):
        shutil.copytree(name, folder)
        return
    torch.manual_seed(0)
    model = Wav2Vec2Model(Wav2Vec2Config(**(MINI_ARCHITECTURE if name == "mini" else {})))
    if name == "mini":
        initialise(model)
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(folder)


def _timed(kind: type, results: dict[str, float]) -> type:
    """A Trainer that measures its own steps and how long it waits for batches."""

    class Timed(kind):  # type: ignore[misc]
        def get_batch_samples(self, *arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            if self._step_ended is None:
                self._step_ended = started
            batches = super().get_batch_samples(*arguments, **options)
            results["waited"] = results.get("waited", 0.0) + time.perf_counter() - started
            return batches

        def training_step(self, model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
            results["clips"] = results.get("clips", 0) + len(inputs["labels"])
            return super().training_step(model, inputs, *arguments, **options)

        _step_ended: float | None = None

    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        """From the first request of a batch in an epoch to the end of its last step."""

        began = 0.0

        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            results["last"] = time.perf_counter() - self.began

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            _synchronise()
            results["seconds"] = results.get("seconds", 0.0) + max(results["last"], time.perf_counter() - self.began)

    original = Timed.__init__

    def initialise(self: Any, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        self.add_callback(Clock())

    Timed.__init__ = initialise  # type: ignore[method-assign]
    return Timed


def _synchronise() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


class _Utilisation:
    """The share of the time in which the GPU had work, as nvidia-smi samples it; -1 where there is none."""

    def __init__(self) -> None:
        self._samples: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> _Utilisation:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _sample(self) -> None:
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not self._over.wait(0.5):
            try:
                self._samples.append(float(subprocess.run(command, capture_output=True, text=True).stdout) / 100)
            except (OSError, ValueError):
                return

    def share(self) -> float:
        busy = [sample for sample in self._samples if sample > 0]
        return statistics.median(busy) if busy else -1.0


def _result(measured: dict[str, float], decoding: float, busy: float) -> dict[str, float]:
    import torch

    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    if torch.cuda.is_available():
        memory = torch.cuda.max_memory_allocated() / 1e6
    return {
        "rate": measured["clips"] / measured["seconds"],
        "waiting": measured["waited"] / measured["seconds"],
        "decoding": decoding,
        "megabytes": memory,
        "busy": busy,
    }


def _crycli(arguments: argparse.Namespace) -> dict[str, float]:
    from crycli import training
    from crycli.config import load_config

    measured: dict[str, float] = {}
    training.CTCTrainer = _timed(training.CTCTrainer, measured)  # type: ignore[misc]
    decoded: list[float] = []

    def decode(*positional: Any, **options: Any) -> Any:
        started = time.perf_counter()
        result = prepare(*positional, **options)
        decoded.append(time.perf_counter() - started)
        return result

    prepare, training.prepare_datasets = training.prepare_datasets, decode
    config = load_config(None, _settings(arguments))
    with tempfile.TemporaryDirectory() as folder, _Utilisation() as utilisation:
        import datasets

        datasets.config.HF_DATASETS_CACHE = Path(folder)  # decoded anew in each round
        training.train(arguments.folder / "data", Path(folder) / "run", config)
    return _result(measured, sum(decoded), utilisation.share())


def _settings(arguments: argparse.Namespace) -> list[str]:
    return [
        f"model.backbone={arguments.folder / 'backbone'}",
        f"model.freeze={'none' if arguments.backbone == 'mini' else 'encoder'}",
        f"train.epochs={arguments.epochs}",
        f"train.batch_size={arguments.batch}",
        f"train.precision={arguments.precision}",
        f"device={arguments.device}",
    ]


def _stock(arguments: argparse.Namespace) -> dict[str, float]:
    from datasets import Dataset
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, Trainer, TrainingArguments

    from crycli import audio
    from crycli.manifest import read_manifest

    clips = read_manifest(arguments.folder / "data" / "train.csv")
    labels = sorted({clip.label for clip in clips})
    extractor = AutoFeatureExtractor.from_pretrained(arguments.folder / "backbone")
    model = AutoModelForAudioClassification.from_pretrained(arguments.folder / "backbone", num_labels=len(labels))
    if arguments.backbone != "mini":
        model.freeze_feature_encoder()
    rate = extractor.sampling_rate

    def transform(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        waves = [
            audio.load(clips[index].path, rate, clips[index].start, clips[index].end)[: 10 * rate]
            for index in batch["clip"]
        ]
        inputs = extractor(waves, sampling_rate=rate)
        return {
            "input_values": inputs["input_values"],
            "attention_mask": inputs["attention_mask"],
            "labels": batch["label"],
        }

    rows = Dataset.from_dict({"clip": range(len(clips)), "label": [labels.index(clip.label) for clip in clips]})
    rows.set_transform(transform)
    measured: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, _Utilisation() as utilisation:
        settings = TrainingArguments(
            output_dir=folder,
            num_train_epochs=arguments.epochs,
            per_device_train_batch_size=arguments.batch,
            bf16=arguments.precision == "bf16",
            fp16=arguments.precision == "fp16",
            use_cpu=arguments.device == "cpu",
            remove_unused_columns=False,
            save_strategy="no",
            disable_tqdm=True,
            report_to=[],
        )
        trainer = _timed(Trainer, measured)(model, settings, train_dataset=rows, processing_class=extractor)
        trainer.train()
    return _result(measured, 0.0, utilisation.share())


def _bare(arguments: argparse.Namespace) -> dict[str, float]:
    """Forward, backward and update on batches that lie ready on the device, in crycli's order."""
    import torch

    from crycli.checkpoint import build_model
    from crycli.config import load_config
    from crycli.dataset import DataCollatorCTCWithPadding, TrainingClips, prepare_datasets
    from crycli.networks import pick_device
    from crycli.sampling import ClipSampler

    config = load_config(None, _settings(arguments))
    prepared = prepare_datasets(arguments.folder / "data", config, parts=("train",))
    device = pick_device(config.device)
    model: Any = build_model(config, arguments.folder / "backbone", prepared.labels)
    if arguments.backbone != "mini":
        model.freeze_feature_encoder()
    model.to(device).train()
    rows, collate = TrainingClips(prepared, config), DataCollatorCTCWithPadding(prepared.feature_extractor)
    lengths = list(prepared.parts["train"]["length"][:])
    order = list(ClipSampler([0] * len(rows), lengths, arguments.batch, seed=0, balanced=False, group_by_length=True))
    batches = []
    for first in range(0, len(order), arguments.batch):
        batch = collate([rows[key] for key in order[first : first + arguments.batch]])
        batches.append({name: value.to(device) for name, value in batch.items() if name != "clips"})
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    types = {"bf16": torch.bfloat16, "fp16": torch.float16}
    with _Utilisation() as utilisation:
        started = time.perf_counter()
        for _ in range(arguments.epochs):
            for batch in batches:
                with torch.autocast(device, types.get(arguments.precision), enabled=arguments.precision in types):
                    loss = model(**batch).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                optimizer.zero_grad()
        _synchronise()
        seconds = time.perf_counter() - started
    measured = {"clips": len(rows) * arguments.epochs, "seconds": seconds, "waited": 0.0}
    return _result(measured, 0.0, utilisation.share())


SIDES = {"stock": _stock, "crycli": _crycli, "bare": _bare}

if __name__ == "__main__":
    main()
