"""Clips a second: `crycli predict` against transformers' audio-classification pipeline, on the same weights and files.

The pipeline gets what its documentation shows: the model's folder, and a generator of clips, here decoded by soundfile
at the network's own rate, so that it has nothing to resample. crycli's sides run the command itself, which decodes,
classifies and writes a CSV: from the model folder, from the ONNX bundle and from the int8 bundle. Each side runs in a
process of its own, in turns; the clock runs from the model that is loaded and warm to the last answer. Printed are, for
each side,

- clips a second, in all rounds, and their ratio to the pipeline's of the same round: median and range,
- seconds from the start of the process to the loaded model, and the peak of memory,
- the largest difference from the pipeline in any probability, and labels that are others.

    python benchmarks/predict.py                               # mini, 200 synthetic clips of 1 to 7 seconds
    python benchmarks/predict.py --recordings recordings/      # cut from one's own recordings
    python benchmarks/predict.py --backbone base --clips 40    # of base size, random weights
    python benchmarks/predict.py --memory 10000                # peak of memory at 100 and at 10,000 clips, of a bundle
    python benchmarks/predict.py --cold                        # one short clip, from process start to the answer
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SHORTEST, LONGEST = 1.0, 7.0  # seconds
RATE = 16_000
LABELS = ["belly_pain", "burping", "discomfort", "hungry", "tired"]
FEW = 100  # clips, with --memory
MODELS = {"pipeline": "model", "crycli": "model", "bundle": "bundle", "int8": "int8"}
"""Each side's folder."""


def main() -> None:
    """Make the models and the clips, run the sides and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=Path, help="a folder to cut clips from; synthetic ones otherwise")
    parser.add_argument("--backbone", default="mini", choices=["mini", "base"])
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5, help="of each side, in turns")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--sides", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--memory", type=int, metavar="CLIPS", help="compare the peak of memory with that of 100 clips")
    parser.add_argument("--cold", action="store_true", help="time one short clip from process start to the answer")
    parser.add_argument("--side", choices=[*MODELS, "make"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side == "make":
        _make_models(arguments, arguments.folder)
        _make_clips(arguments, arguments.folder / "clips")
        return
    if arguments.side:
        measure = _pipeline if arguments.side == "pipeline" else _crycli
        print(json.dumps(measure(arguments)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Not in this process: on Linux a process begins with the peak of memory of the one that started it.
        subprocess.run([sys.executable, *sys.argv, "--side", "make", "--folder", name], check=True)
        if arguments.cold:
            _cold(arguments, folder)
        elif arguments.memory:
            _memory(arguments, folder)
        else:
            _compare(arguments, folder)


def _compare(arguments: argparse.Namespace, folder: Path) -> None:
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in arguments.sides}
    for _ in range(arguments.rounds):
        for side, found in results.items():
            found.append(_run(arguments, side, folder))
    print(f"{arguments.clips} clips of {SHORTEST:g} to {LONGEST:g} s, {arguments.backbone} backbone, {_machine()}")
    header = f"{'':9}{'clips/s':>9}{'of the pipeline':>26}{'loading':>9}{'memory':>9}{'difference':>12}{'flipped':>9}"
    print(header)
    for side, found in results.items():
        rate = statistics.median(result["rate"] for result in found)
        loading = statistics.median(result["loading"] for result in found)
        memory = statistics.median(result["megabytes"] for result in found)
        line = f"{side:9}{rate:9.2f}{_ratios(found, results.get('pipeline')):>26}{loading:7.2f} s{memory:6.0f} MB"
        if "pipeline" in results:
            difference, flipped = _differences(found[0]["answers"], results["pipeline"][0]["answers"])
            line += f"{difference:12.1e}{flipped:9}"
        print(line)
    for side, found in results.items():
        print(f"{side:9}" + " ".join(f"{result['rate']:.2f}" for result in found))


def _ratios(found: list[dict[str, Any]], pipeline: list[dict[str, Any]] | None) -> str:
    if pipeline is None:
        return "-"
    ratios = [one["rate"] / other["rate"] for one, other in zip(found, pipeline, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _differences(answers: list[list[float]], others: list[list[float]]) -> tuple[float, int]:
    """The largest difference in any probability, and in how many clips another label is the likeliest."""
    one, other = np.array(answers), np.array(others)
    return float(np.abs(one - other).max()), int((one.argmax(axis=1) != other.argmax(axis=1)).sum())


def _machine() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores, load {os.getloadavg()[0]:.1f}"


def _memory(arguments: argparse.Namespace, folder: Path) -> None:
    """The bundle's peak at few and at many clips; the many are further names of the same files."""
    peaks: dict[int, list[float]] = {FEW: [], arguments.memory: []}
    for count in peaks:
        _link(sorted((folder / "clips").iterdir()), folder / f"{count}", count)
    for _ in range(arguments.rounds):
        for count, found in peaks.items():
            found.append(_run(arguments, "bundle", folder, clips=f"{count}")["megabytes"])
    for count, found in peaks.items():
        print(f"{count:7,} clips: {statistics.median(found):.1f} MB ({min(found):.1f} to {max(found):.1f})")
    growth = statistics.median(peaks[arguments.memory]) - statistics.median(peaks[FEW])
    print(f"growth: {growth:+.1f} MB")


def _link(files: list[Path], folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        os.link(files[number % len(files)], folder / f"{number:06d}.wav")


def _cold(arguments: argparse.Namespace, folder: Path) -> None:
    """The bundle on one clip of two seconds, beside what importing its libraries takes, in turns."""
    import soundfile

    soundfile.write(folder / "short.wav", _noise(2.0, np.random.default_rng(1)), RATE)
    answer = ["-m", "crycli", "predict", str(folder / "short.wav"), "-m", str(folder / "bundle"), "--format", "csv"]
    libraries = "numpy, onnxruntime, pydantic, rich.console, soundfile, soxr, typer, yaml"
    sides = {"crycli predict": answer, "its libraries": ["-c", f"import {libraries}"], "python": ["-c", "pass"]}
    # Compiled, as pip leaves an installed package: crycli's modules take 0.1 s more where they have to be each time.
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder / "compiled")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    found: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(arguments.rounds + 1):  # the first one compiles and is not counted
        for side, command in sides.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, check=True, env=environment)
            found[side].append(time.perf_counter() - started)
    print(f"one clip of 2 s from a bundle, {arguments.backbone} backbone, {_machine()}")
    for side, seconds in found.items():
        print(f"{side:16}{statistics.median(seconds[1:]):.3f} s ({min(seconds[1:]):.3f} to {max(seconds[1:]):.3f})")


def _run(arguments: argparse.Namespace, side: str, folder: Path, clips: str = "clips") -> dict[str, Any]:
    """Measure a side in a process of its own."""
    link = folder / "now"
    link.unlink(missing_ok=True)
    link.symlink_to(folder / clips, target_is_directory=True)
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, __file__, "--side", side, "--folder", str(folder), "--device", arguments.device]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _make_models(arguments: argparse.Namespace, folder: Path) -> None:
    """A classifier with random weights, and its exports."""
    from crycli.checkpoint import build_model, load_feature_extractor, save_model_folder
    from crycli.config import load_config
    from crycli.exporting import export_bundle

    backbone = folder / "backbone" if arguments.backbone == "base" else None
    if backbone is not None:
        _make_backbone(backbone)
    config = load_config(None, [f"model.backbone={backbone or 'mini-random'}"])
    model = build_model(config, backbone, LABELS)
    save_model_folder(model, load_feature_extractor(backbone), folder / "model")
    wanted = {"bundle": "onnx", "int8": "onnx-int8"}
    needed = {"bundle"} if arguments.cold or arguments.memory else set(arguments.sides)
    for name in [name for name in wanted if name in needed]:
        # Of random weights the answers lie close together, and int8 may flip any number of them.
        settings = [f"export.format={wanted[name]}", "export.max_difference=1", "export.max_flipped=1"]
        export_bundle(str(folder / "model"), folder / name, load_config(None, settings))


def _make_backbone(folder: Path) -> None:
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    torch.manual_seed(0)
    Wav2Vec2Model(Wav2Vec2Config()).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(folder)


def _make_clips(arguments: argparse.Namespace, folder: Path) -> None:
    """So many wav files of mixed lengths at the network's rate, drawn with a fixed seed."""
    import soundfile

    from crycli import audio

    folder.mkdir()
    generator = np.random.default_rng(0)
    sources = list(audio.find_recordings(arguments.recordings)) if arguments.recordings else []
    for number in range(min(arguments.clips, FEW) if arguments.memory else arguments.clips):
        seconds = float(generator.uniform(SHORTEST, LONGEST))
        if sources:
            whole = audio.load(sources[int(generator.integers(len(sources)))], RATE)
            first = int(generator.uniform(0, max(len(whole) - seconds * RATE, 0)))
            samples = whole[first : first + round(seconds * RATE)]
        else:
            samples = _noise(seconds, generator)
        soundfile.write(folder / f"{number:06d}.wav", np.clip(samples, -1, 1), RATE)


def _noise(seconds: float, generator: np.random.Generator) -> np.ndarray:
    """Noise whose loudness and colour vary from clip to clip: (samples,)."""
    noise = generator.standard_normal(round(seconds * RATE))
    kernel = generator.standard_normal(int(generator.integers(1, 64)))
    return np.convolve(noise, kernel / np.abs(kernel).sum(), mode="same") * generator.uniform(0.02, 0.5)


def _pipeline(arguments: argparse.Namespace) -> dict[str, Any]:
    started = time.perf_counter()
    import soundfile
    from transformers import pipeline
    from transformers.utils import logging

    logging.set_verbosity_error()
    device = None if arguments.device == "auto" else arguments.device
    model = str(arguments.folder / "model")
    classify: Any = pipeline("audio-classification", model=model, trust_remote_code=True, device=device)
    classify({"raw": np.zeros(RATE, np.float32), "sampling_rate": RATE})  # the first one is slower
    loaded = time.perf_counter()

    def clips() -> Iterator[dict[str, Any]]:
        for file in sorted((arguments.folder / "now").iterdir()):
            samples, rate = soundfile.read(file, dtype="float32")
            yield {"raw": samples, "sampling_rate": rate}

    found = list(classify(clips(), top_k=None))
    seconds = time.perf_counter() - loaded
    scores = [{entry["label"]: entry["score"] for entry in answer} for answer in found]
    answers = [[answer[label] for label in LABELS] for answer in scores]
    return _result(answers, seconds, loaded - started)


def _crycli(arguments: argparse.Namespace) -> dict[str, Any]:
    started = time.perf_counter()
    from crycli import inference
    from crycli.cli import app

    load, loaded = inference.load_predictor, [0.0]

    def load_predictor(*positional: Any, **options: Any) -> Any:
        predictor = load(*positional, **options)
        loaded[0] = time.perf_counter()
        return predictor

    inference.load_predictor = load_predictor
    model, clips, output = arguments.folder / MODELS[arguments.side], arguments.folder / "now", arguments.folder / "csv"
    command = ["-q", "predict", clips, "-m", model, "-o", output, "--force", "--format", "csv"]
    app([*map(str, command), "--set", f"device={arguments.device}"], standalone_mode=False)
    seconds = time.perf_counter() - loaded[0]
    with output.open(encoding="utf-8", newline="") as stream:
        answers = [[float(row[f"p_{label}"]) for label in LABELS] for row in csv.DictReader(stream)]
    return _result(answers, seconds, loaded[0] - started)


def _result(answers: list[list[float]], seconds: float, loading: float) -> dict[str, Any]:
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes elsewhere
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return {"rate": len(answers) / seconds, "loading": loading, "megabytes": memory, "answers": answers}


if __name__ == "__main__":
    main()
