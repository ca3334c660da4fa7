"""Does it learn? crycli against MFCC statistics with classical classifiers, on the same folds, in one run.

    python benchmarks/learn.py RECORDINGS -o OUT [--set KEY=VALUE ...]     # a folder that `crycli prepare` understands
    python benchmarks/learn.py RECORDINGS -o OUT --only baselines

The folds are those of `crycli prepare --folds 5`: groups respected, ESC's official ones honoured. The baselines see all
clips outside the fold; crycli sets a grouped share of them aside to choose its epoch. The mean and the standard
deviation are over the folds; the interval is a bootstrap over groups on the pooled out-of-fold answers. An interrupted
run goes on when the command is repeated. Where nothing can be learnt, as from DonateACry's labels, chance is the honest
answer.

The baselines: mean, standard deviation, least, largest and middle value over time of 20 MFCCs, and the standard
deviation and largest value of their differences (of 20 such sets the one with which the SVM did best on ESC-10),
standardised; an SVM with an RBF kernel (C = 10), a random forest of 500 trees, logistic regression, each with balanced
class weights. They need librosa, which `pip install crycli[augment]` brings.

crycli: mini-random, as mini has heard the folds, with `RECIPE` below, which was found on ESC-10's fourth fold.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np

FOLDS = 5

RECIPE = (
    "model.backbone=mini-random",
    "model.pooling=mean_std",
    "train.batch_size=16",
    "train.learning_rate=0.002",
    "train.schedule=cosine",
    "train.label_smoothing=0.1",
    "train.weight_decay=0.05",
    "augment.probability=0.8",
    "augment.speed=0.2",
    "augment.shift_seconds=1.5",
    "augment.polarity=true",
    "augment.mixup=0.4",
    "data.validation_share=0.1",
)


def main() -> None:
    """Prepare the folds, run the baselines and crycli, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="+", help="what `crycli prepare` takes")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a folder for the folds and the runs")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of crycli")
    parser.add_argument("--only", choices=["baselines", "crycli"])
    arguments = parser.parse_args()

    from crycli.config import load_config
    from crycli.prepare import prepare_dataset_csv

    config = load_config(None, [*RECIPE, *arguments.set], {"data.folds": FOLDS})
    data = arguments.output / "data"
    if not (data / "train.csv").is_file():
        prepare_dataset_csv(arguments.recordings, data, config)
    print(f"{'':22}{'accuracy':>20}{'balanced accuracy':>20}{'95% interval':>18}{'macro AUC':>11}{'CPU min/fold':>14}")
    if arguments.only != "crycli":
        _run_baselines(data)
    if arguments.only != "baselines":
        _run_crycli(data, arguments.output / "runs", config)


def _cpu_minutes() -> float:
    """Of this process and those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used) / 60


def _show(name: str, folds: list[dict[str, float]], report: Any, interval: Any, minutes: float) -> None:
    cells = [f"{name:22}"]
    for key in ("accuracy", "balanced_accuracy"):
        values = [fold[key] for fold in folds]
        cells.append(f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}".rjust(20))
    auc = "-" if report.macro_auc is None else f"{report.macro_auc:.3f}"
    cells += [f"{interval.low:.3f} to {interval.high:.3f}".rjust(18), auc.rjust(11), f"{minutes:.1f}".rjust(14)]
    print("".join(cells), flush=True)


def _read_clips(data: Path) -> list[Any]:
    from crycli.manifest import PARTS, read_manifest

    return [clip for part in PARTS for clip in read_manifest(data / f"{part}.csv")]


def _run_baselines(data: Path) -> None:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    clips = _read_clips(data)
    started = _cpu_minutes()
    features = np.stack([_mfcc_statistics(clip) for clip in clips])
    minutes = (_cpu_minutes() - started) / FOLDS
    models: dict[str, Any] = {
        "MFCC + SVM": SVC(C=10.0, class_weight="balanced", random_state=0),
        "MFCC + random forest": RandomForestClassifier(500, class_weight="balanced", random_state=0),
        "MFCC + logistic": LogisticRegression(class_weight="balanced", max_iter=5000),
    }
    for name, model in models.items():
        _cross_validate(name, make_pipeline(StandardScaler(), model), features, clips, minutes)


def _cross_validate(name: str, model: Any, features: Any, clips: list[Any], minutes: float) -> None:
    from crycli import bootstrap, metrics

    names = sorted({clip.label for clip in clips})
    truth = np.array([names.index(clip.label) for clip in clips])
    fold_of = np.array([clip.fold for clip in clips])
    probabilities = np.zeros((len(clips), len(names)))
    started = _cpu_minutes()
    folds = []
    for fold in range(1, FOLDS + 1):
        test = fold_of == fold
        model.fit(features[~test], truth[~test])
        columns = model[-1].classes_
        if hasattr(model, "predict_proba"):
            probabilities[np.ix_(test, columns)] = model.predict_proba(features[test])
        else:  # an SVM: its margins order the clips, and its own answer must stay the largest
            margins = model.decision_function(features[test])
            margins = np.stack([-margins, margins], axis=1) if margins.ndim == 1 else margins
            probabilities[np.ix_(test, columns)] = np.exp(margins) / np.exp(margins).sum(axis=1, keepdims=True)
        report = metrics.score(names, truth[test], probabilities[test])
        folds.append({"accuracy": report.accuracy, "balanced_accuracy": report.balanced_accuracy})
    groups = [clip.group for clip in clips]
    report = metrics.score(names, truth, probabilities, groups)
    intervals = bootstrap.intervals(names, truth, None, probabilities.argmax(axis=1), groups)
    _show(name, folds, report, intervals["balanced_accuracy"], minutes + (_cpu_minutes() - started) / FOLDS)


def _mfcc_statistics(clip: Any) -> Any:
    """(140,) statistics over time of 20 MFCCs and their differences."""
    import librosa

    from crycli import audio

    samples = audio.load(clip.path, 22_050, clip.start, clip.end)
    mfcc = librosa.feature.mfcc(y=samples, sr=22_050, n_mfcc=20)
    width = min(9, mfcc.shape[1] // 2 * 2 - 1)
    delta = librosa.feature.delta(mfcc, width=max(3, width), mode="nearest")
    over_time = [np.mean, np.std, np.min, np.max, np.median]
    statistics = [function(mfcc, axis=1) for function in over_time] + [delta.std(axis=1), delta.max(axis=1)]
    return np.concatenate(statistics)


def _run_crycli(data: Path, output: Path, config: Any) -> None:
    from crycli import bootstrap
    from crycli.crossval import cross_validate
    from crycli.manifest import read_table

    started, began = _cpu_minutes(), time.monotonic()
    result = cross_validate(data, output, config, FOLDS, resume=output.is_dir())
    minutes = (_cpu_minutes() - started) / FOLDS
    rows = read_table(output / "predictions.csv").to_dict("records")
    names = list(result.report.labels)
    answered = [row for row in rows if row["label"]]
    truth, predicted = (
        np.array([names.index(str(row[column])) for row in answered]) for column in ("true_label", "label")
    )
    intervals = bootstrap.intervals(names, truth, None, predicted, [str(row["group"]) for row in answered])
    folds = [{"accuracy": fold.accuracy, "balanced_accuracy": fold.balanced_accuracy} for fold in result.folds]
    _show("crycli, mini-random", folds, result.report, intervals["balanced_accuracy"], minutes)
    print(result.remark)
    print(f"{(time.monotonic() - began) / 60:.1f} minutes on {os.cpu_count()} cores for what was not there before")


if __name__ == "__main__":
    main()
