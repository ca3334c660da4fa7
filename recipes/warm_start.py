"""A first training of the detector's network, many times faster than `crycli train`: the start that it goes on from.

    python recipes/warm_start.py DATA -o START -c recipes/detector.yaml --cries corpora/cries
        [--without COLUMN=VALUE,...] [--heard FILE]

The first two convolutions of mini-random start as the filters of a spectrogram. Here they stay so, and what they make
of each training clip and of some augmented copies is computed once (hearing.py). The rest of the network learns from
that, and from two others that did so before it (distillation.py). START is a folder that `model.backbone` takes;
`crycli train` then goes on with the head, and calibrates.

DATA is what `crycli prepare` wrote; its validation and test parts are not looked at. --cries are synthesised ones, to
learn from and not to be measured with. With --without the clips of all parts are learnt from, but for those with one
of these values in that column: `fold=1` for cross-validation, `corpus=esc10` for a corpus from which nothing shall be
learnt. How well these are told apart, each heard as a whole, is printed at the end. --heard keeps what was computed of
the clips for the next training on the same DATA, some GB.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from distillation import Material, learn
from hearing import RATE, recall
from sklearn.metrics import roc_auc_score

from crycli import audio
from crycli.checkpoint import load_feature_extractor
from crycli.config import Config, load_config
from crycli.manifest import PARTS, Clip, read_manifest

STEPS = 1400  # updates; of its two teachers twice as many
VOICED = ("laughter", "voice", "animal", "singing")  # kinds that sounds.py makes in the way of its cries
CRY = "cry"
SYNTHESISED = "synthetic"  # the corpus of corpora.py
RECALL = 0.9


def main() -> None:
    """Compute, train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder that `crycli prepare` wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a new folder")
    parser.add_argument("-c", "--config", type=Path, required=True)
    parser.add_argument("--cries", type=Path, metavar="FOLDER", help="more of them, in .flac files")
    parser.add_argument("--without", metavar="COLUMN=VALUE,...", default="", help="learn nothing from such clips")
    parser.add_argument("--heard", type=Path, metavar="FILE", help="an .npz file: read where it exists, else written")
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args()
    if given.output.exists():
        parser.error(f"{given.output} exists: name a new folder")
    if given.cries and not given.cries.is_dir():
        parser.error(f"{given.cries} is no folder")
    config = load_config(given.config, ["model.backbone=mini-random", "model.keep_head=false"], {})
    clips = [clip for part in PARTS for clip in read_manifest(given.data / f"{part}.csv")]
    learnt = _are_learnt(clips, given.data, given.without)
    more = sorted(given.cries.glob("*.flac")) if given.cries else []
    clips += [Clip(path, CRY, path.stem) for path in more]
    learnt = np.append(learnt, np.ones(len(more), bool))
    labels = sorted({clip.label for clip in clips})
    features, lengths = recall(given.heard, clips, labels, config)
    features, lengths = features[learnt], lengths[learnt]
    truth = np.array([labels.index(clip.label) for clip, taken in zip(clips, learnt, strict=True) if taken])
    material = Material(features, lengths, truth, _are_often(clips)[learnt])
    model = learn(config, labels, labels.index(CRY), material, given.steps)
    model.save_pretrained(given.output)
    load_feature_extractor(None).save_pretrained(given.output)
    if given.without:
        left_out = [clip for clip, taken in zip(clips, learnt, strict=True) if not taken]
        _report(model, left_out, labels.index(CRY), config)


def _are_learnt(clips: Sequence[Clip], data: Path, without: str) -> npt.NDArray[np.bool_]:
    """(clips,), which of the clips of all parts the network learns from."""
    if not without:
        count = len(read_manifest(data / f"{PARTS[0]}.csv"))  # the training part comes first
        return np.arange(len(clips)) < count
    column, _, given = without.partition("=")
    values = given.split(",")
    return np.array([str(getattr(clip, column, clip.extra.get(column))) not in values for clip in clips])


def _are_often(clips: Sequence[Clip]) -> npt.NDArray[np.bool_]:
    """(clips,), which are drawn more often than others: all laughter, and what is made as the synthesised cries are.

    Or that way itself would tell a cry.
    """
    kinds = [(clip.extra.get("kind"), clip.corpus == SYNTHESISED) for clip in clips]
    return np.array([kind == "laughter" or (synthesised and kind in VOICED) for kind, synthesised in kinds])


def _report(model: Any, clips: Sequence[Clip], positive: int, config: Config) -> None:
    """Print how well the model tells the label `positive` from the others, of clips heard whole."""
    found = np.zeros(len(clips))
    truth = np.array([clip.label == model.config.id2label[positive] for clip in clips])
    for index, clip in enumerate(clips):
        samples = audio.load(clip.path, RATE, clip.start, clip.end)[: round(config.data.max_seconds * RATE)]
        with torch.no_grad():
            found[index] = model(torch.from_numpy(audio.normalise(samples))[None]).logits.softmax(-1)[0, positive]
    threshold = np.quantile(found[truth], 1.0 - RECALL)
    print(f"left out: {len(clips):,} clips, {truth.sum():,} of them {CRY}; AUC {roc_auc_score(truth, found):.3f}")
    print(f"where {RECALL:.0%} of them are found, of the others {np.mean(found[~truth] >= threshold):.1%} are too")


if __name__ == "__main__":
    main()
