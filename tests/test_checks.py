"""Checks of a whole dataset: held against brute force, closed forms, scikit-learn and simulations."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from crycli.checks import (
    Confound,
    confound_warnings,
    confounds,
    corpus_warnings,
    detectable,
    effective_groups,
    label_warnings,
    leakage,
    leaked_clips,
    quantiles,
    summarise,
)
from crycli.manifest import Clip

Parts = dict[str, list[Clip]]


def clip(label: str, group: str, name: str = "0", **measures: Any) -> Clip:
    return Clip(Path(f"{label}-{group}-{name}.wav"), label, group, **measures)


def alone(label: str, count: int, **measures: Any) -> list[Clip]:
    """Clips that are a group each."""
    return [clip(label, f"{label}-{number}", **measures) for number in range(count)]


def part(groups: str, label: str = "cry") -> list[Clip]:
    """A clip for each letter, which is its group."""
    return [clip(label, group, str(number)) for number, group in enumerate(groups)]


def measured(measure: str, value: float) -> dict[str, Any]:
    return {measure: float(value)}


def auc_of(clips: Sequence[Clip], measure: str, label: str) -> float:
    return next(entry.auc for entry in confounds(clips) if (entry.measure, entry.label) == (measure, label))


PARTS_OF_LETTERS = st.dictionaries(
    st.sampled_from(["train", "validation", "test", "1", "2", "3"]), st.text("abcdefgh", max_size=12).map(part)
)


# Leaks


@given(parts=PARTS_OF_LETTERS)
def test_there_is_a_leak_where_two_parts_share_a_group_and_nowhere_else(parts: Parts) -> None:
    groups = {name: {clip.group for clip in clips} for name, clips in parts.items()}
    sharing = {
        frozenset((one, other)) for one in parts for other in parts if one != other and groups[one] & groups[other]
    }
    leaks = leakage(parts)
    assert sorted(map(sorted, sharing)) == sorted(sorted((leak.part, leak.other)) for leak in leaks)
    for leak in leaks:
        shared = groups[leak.part] & groups[leak.other]
        assert leak.groups == len(shared)
        assert leak.clips == sum(clip.group in shared for clip in parts[leak.part])
        assert leak.total == len(parts[leak.part])
        assert leak.share == pytest.approx(leak.clips / leak.total)
        assert set(leak.examples) <= shared and len(leak.examples) == min(3, len(shared))


@given(parts=PARTS_OF_LETTERS)
def test_leaked_clips_are_those_whose_group_is_in_any_other_part(parts: Parts) -> None:
    expected = {}
    for name, clips in parts.items():
        elsewhere = {clip.group for other, some in parts.items() if other != name for clip in some}
        expected[name] = sum(clip.group in elsewhere for clip in clips)
    expected.pop("train", None)
    assert leaked_clips(parts) == expected


def test_a_leak_is_told_from_the_side_that_is_held_out() -> None:
    (leak,) = leakage({"test": part("aaabcd"), "train": part("ax")})
    assert (leak.part, leak.other, leak.clips, leak.total) == ("test", "train", 3, 6)
    (leak,) = leakage({"training": part("ax"), "eval": part("aaabcd")})
    assert (leak.part, leak.other) == ("eval", "training")
    (leak,) = leakage({"1": part("ab"), "2": part("bcd")})
    assert (leak.part, leak.other) == ("1", "2")


def test_the_examples_of_a_leak_are_the_groups_with_most_clips() -> None:
    (leak,) = leakage({"train": part("abcd"), "test": part("abbcccdddd")})
    assert leak.examples == ("d", "c", "b")


def test_clips_without_a_group_are_one_each_and_leak_only_as_the_same_recording() -> None:
    clips = [replace(one, group="") for one in part("abcd")]
    assert leakage({"train": clips[:2], "test": clips[2:]}) == []
    assert leakage({"train": clips[:3], "test": clips[2:]})[0].clips == 1


# Confounds


def test_a_recorder_of_its_own_gives_a_label_away() -> None:
    clips = alone("cry", 30, sample_rate=8_000, codec="amrnb") + alone("noise", 60, sample_rate=44_100, codec="vorbis")
    found = confounds(clips)
    assert {(entry.measure, entry.label, entry.clips) for entry in found} == {
        (measure, label, count) for measure in ("sample_rate", "codec") for label, count in (("cry", 30), ("noise", 60))
    }
    assert [entry.auc for entry in found] == pytest.approx([1.0] * 4)


def test_what_is_the_same_for_all_clips_is_no_measure() -> None:
    clips = alone("cry", 30, sample_rate=8_000, channels=1, duration=5.0) + alone(
        "noise", 30, sample_rate=8_000, channels=1, duration=5.0
    )
    assert confounds(clips) == []
    assert confounds([]) == []


@pytest.mark.parametrize("measure", ["bandwidth_hz", "duration", "loudness_db"])
def test_the_auc_of_a_quantity_is_that_of_its_distributions(measure: str) -> None:
    """Two normal distributions, d standard deviations apart, have an AUC of the normal distribution at d / sqrt(2)."""
    draw = np.random.default_rng(0)
    for distance in (0.0, 0.5, 1.5):
        clips = [
            clip(label, f"{label}{number}", **measured(measure, draw.normal(mean)))
            for label, mean in (("cry", 0.0), ("noise", distance))
            for number in range(2000)
        ]
        assert auc_of(clips, measure, "cry") == pytest.approx(norm.cdf(distance / 2**0.5), abs=0.025)


def test_the_auc_of_a_category_is_that_of_its_likelihood_ratio() -> None:
    draw = np.random.default_rng(0)
    shares = {"cry": (0.6, 0.1, 0.3), "noise": (0.2, 0.2, 0.6)}
    clips = [
        clip(label, f"{label}{number}", codec=str(draw.choice(["a", "b", "c"], p=share)))
        for label, share in shares.items()
        for number in range(2000)
    ]
    ratio = {"a": 3.0, "b": 0.5, "c": 0.5}
    expected = roc_auc_score([one.label == "cry" for one in clips], [ratio[one.codec] for one in clips])
    assert auc_of(clips, "codec", "cry") == pytest.approx(expected, abs=0.02)


def test_a_rare_label_is_found_that_shares_a_recorder_with_a_common_one() -> None:
    """Of 14 other labels 10 have another sample rate and 4 the same: (10 + 4 / 2) / 14."""
    sizes = {"hungry": 380, "tired": 40, "burping": 20, "pain": 20, "cold": 20}
    clips = [one for label, size in sizes.items() for one in alone(label, size, sample_rate=8_000)]
    clips += [one for number in range(10) for one in alone(f"noise {number}", 40, sample_rate=44_100)]
    for label in sizes:
        assert auc_of(clips, "sample_rate", label) == pytest.approx(12 / 14, abs=1e-9)
    (warning,) = confound_warnings(confounds(clips), 0.8)
    assert warning == (
        "the sample rate alone tells hungry (AUC 0.86), tired (0.86), burping (0.86) and 2 more "
        "(hungry: always 8 kHz, the others 29%): a model may learn that and not the sound"
    )


def test_a_label_between_two_others_is_told() -> None:
    draw = np.random.default_rng(0)
    means = {"short": 1.0, "middle": 5.0, "long": 9.0}
    clips = [
        clip(label, f"{label}{number}", duration=float(draw.normal(mean, 0.5)))
        for label, mean in means.items()
        for number in range(60)
    ]
    assert auc_of(clips, "duration", "middle") > 0.95


def test_a_group_that_is_known_by_heart_is_no_confound() -> None:
    """Each baby has a recorder of its own and one label: by clip it tells all, and of another baby nothing."""
    clips = [
        clip("hungry" if number % 2 else "tired", str(number), str(take), codec=f"codec {number}")
        for number in range(60)
        for take in range(20)
    ]
    assert auc_of(clips, "codec", "hungry") == pytest.approx(0.5, abs=1e-9)


def test_clips_without_a_measure_are_left_out_of_it() -> None:
    draw = np.random.default_rng(0)
    known = [
        clip(label, f"{label}{number}", duration=float(draw.normal()), codec="flac")
        for label in ("cry", "noise")
        for number in range(50)
    ]
    unknown = [replace(one, group=f"{one.group}?", duration=None, codec="") for one in known]
    found = confounds(known + unknown)
    assert {entry.measure for entry in found} == {"duration"}
    assert {entry.clips for entry in found} == {50}
    assert confounds(unknown) == []


def test_the_order_of_the_clips_does_not_matter() -> None:
    clips = nothing_tells(np.random.default_rng(1), {"a": 40, "b": 30, "c": 9})
    mixed = random.Random(0).sample(clips, len(clips))
    found, again = confounds(clips, seed=3), confounds(mixed, seed=3)
    assert [entry.auc for entry in found] == pytest.approx([entry.auc for entry in again])
    assert [entry.detail for entry in found] == [entry.detail for entry in again]


def nothing_tells(draw: np.random.Generator, labels: dict[str, int], largest: int = 1) -> list[Clip]:
    """Clips whose measures are those of their group, whatever the label."""
    clips = []
    for label, count in labels.items():
        left = count
        while left:
            size = min(left, int(draw.integers(1, largest + 1)))
            bandwidth, duration, loudness = draw.normal(size=3)
            measures = {
                "corpus": str(draw.choice(["x", "y"])),
                "sample_rate": int(draw.choice([8_000, 16_000, 44_100, 48_000])),
                "codec": str(draw.choice(["a", "b", "c"])),
                "channels": int(draw.integers(1, 3)),
                "bandwidth_hz": 4_000.0 + 500.0 * float(bandwidth),
                "duration": float(np.exp(duration)),
                "loudness_db": -20.0 + float(loudness),
            }
            clips += [clip(label, f"{label}-{left}", str(take), **measures) for take in range(size)]
            left -= size
    return clips


@pytest.mark.parametrize("largest", [1, 4])
def test_chance_is_warned_of_in_at_most_one_dataset_in_twenty(largest: int) -> None:
    draw = np.random.default_rng(0)
    labels = {f"rare {number}": 8 for number in range(5)} | {f"common {number}": 40 for number in range(5)}
    warned = by_auc_alone = 0
    datasets = 60
    for _ in range(datasets):
        found = confounds(nothing_tells(draw, labels, largest))
        warned += bool(confound_warnings(found, 0.8))
        by_auc_alone += any(entry.auc >= 0.8 for entry in found)
    assert warned / datasets <= 0.05
    assert by_auc_alone / datasets > 0.1  # so that the guard is what keeps them out


def test_a_label_of_three_groups_is_never_a_confound() -> None:
    clips = alone("common", 100, codec="vorbis") + alone("other", 100, codec="vorbis")
    few = [clip("few", str(number % 3), str(number), codec="amrnb") for number in range(30)]
    enough = [clip("few", str(number % 15), str(number), codec="amrnb") for number in range(30)]
    assert auc_of(clips + few, "codec", "few") == 1.0
    assert confound_warnings(confounds(clips + few), 0.8) == []
    assert len(confound_warnings(confounds(clips + enough), 0.8)) == 1


def test_one_line_for_each_measure_names_the_labels_from_the_threshold_on() -> None:
    def entry(measure: str, label: str, auc: float, chance_auc: float = 0.6) -> Confound:
        return Confound(measure, label, auc, chance_auc, 50, f"{label}: so")

    found = [
        entry("duration", "tired", 0.8),
        entry("duration", "pain", 0.79),
        entry("codec", "hungry", 0.92),
        entry("codec", "tired", 0.88),
        entry("codec", "rare", 0.95, chance_auc=0.96),
    ]
    assert confound_warnings(found, 0.8) == [
        "the codec alone tells hungry (AUC 0.92) and tired (0.88) (hungry: so): "
        "a model may learn that and not the sound",
        "the duration alone tells tired (AUC 0.80) (tired: so): a model may learn that and not the sound",
    ]
    assert confound_warnings(found, 0.97) == []


def test_measures_that_tell_the_same_share_a_line() -> None:
    found = [Confound(measure, "tired", 0.9, 0.6, 50, f"by {measure}") for measure in ("codec", "corpus", "channels")]
    (line,) = confound_warnings(found, 0.8)
    assert "alone tells tired (AUC 0.90)" in line
    assert all(f"the {name}" in line for name in ("codec", "corpus", "number of channels"))


def test_a_corpus_that_stops_where_the_others_go_on_is_named() -> None:
    narrow = [Clip(Path(f"n{number}"), "a", str(number), "phones", bandwidth_hz=4000.0) for number in range(20)]
    wide = [Clip(Path(f"w{number}"), "b", f"w{number}", "studio", bandwidth_hz=9000.0 + number) for number in range(20)]
    (line,) = corpus_warnings(narrow + wide)
    assert line.startswith("every clip of phones stops at 4 kHz and nearly all others go beyond 9 kHz")
    assert corpus_warnings(narrow) == corpus_warnings(wide) == []
    touching = [replace(clip, bandwidth_hz=4000.0) for clip in wide[:3]]
    assert corpus_warnings(narrow + wide + touching) == []


def test_what_tells_a_label_is_said_in_words() -> None:
    clips = [
        *alone("cry", 38, channels=1, bandwidth_hz=4_000.0),
        *[clip("cry", f"stereo {number}", channels=2, bandwidth_hz=3_400.0) for number in range(2)],
        *alone("rain", 20, channels=2, bandwidth_hz=16_000.0),
        *alone("sea", 200, channels=2, bandwidth_hz=20_000.0),
    ]
    details = {entry.measure: entry.detail for entry in confounds(clips) if entry.label == "cry"}
    assert details == {
        "channels": "cry: 95% 1-channel, the others 0%",
        "bandwidth_hz": "cry: mostly 4 kHz, the others 16 to 20 kHz",
    }


def test_the_checks_do_not_import_scikit_learn_or_scipy() -> None:
    code = (
        "import sys; from pathlib import Path; from crycli.checks import confounds; from crycli.manifest import Clip\n"
        "clips = [Clip(Path(str(n)), 'ab'[n % 2], str(n), duration=float(n), codec='xyz'[n % 3]) for n in range(60)]\n"
        "assert confounds(clips)\n"
        "print([name for name in ('sklearn', 'scipy', 'pandas', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# What a part can detect


def power(chance: float, gain: float, count: float) -> float:
    """Of the test that rejects beyond 1.96 standard errors of the rate under chance, by the normal approximation."""
    critical = norm.ppf(0.975) * (chance * (1 - chance) / count) ** 0.5
    return float(norm.sf((critical - gain) / ((chance + gain) * (1 - chance - gain) / count) ** 0.5))


@pytest.mark.parametrize(("common", "rare"), [(20, 20), (50, 30), (90, 30), (400, 60)])
def test_the_detectable_accuracy_is_where_the_power_is_80_percent(common: int, rare: int) -> None:
    found = detectable("test", alone("common", common) + alone("rare", rare))
    assert found is not None and found.accuracy is not None
    baseline = common / (common + rare)
    assert found.baseline == pytest.approx(baseline)
    solution = brentq(lambda gain: power(baseline, gain, common + rare) - 0.8, 1e-6, 1 - baseline - 1e-6)
    assert found.accuracy == pytest.approx(solution, abs=1e-6)


def rejects(observed: Any, chance: float, count: float) -> Any:
    return np.abs(observed - chance) > norm.ppf(0.975) * (chance * (1 - chance) / count) ** 0.5


def test_simulated_models_with_the_detectable_accuracy_are_found_out_in_80_of_100_test_parts() -> None:
    """Each is right or wrong on whole groups, of 1 to 5 clips."""
    draw = np.random.default_rng(0)
    sizes = draw.integers(1, 6, 150)
    clips = [
        clip("common" if group % 10 < 6 else "rare", str(group), str(take))
        for group, size in enumerate(sizes)
        for take in range(size)
    ]
    found = detectable("test", clips)
    assert found is not None and found.accuracy is not None
    right = draw.random((20_000, len(sizes))) < found.baseline + found.accuracy
    accuracy = right @ sizes / sizes.sum()
    count = effective_groups(clips)
    assert count < found.groups == 150
    assert rejects(accuracy, found.baseline, count).mean() == pytest.approx(0.8, abs=0.02)


def test_simulated_models_with_the_detectable_balanced_accuracy_are_found_out_in_80_of_100_test_parts() -> None:
    draw = np.random.default_rng(0)
    groups = {"hungry": 120, "tired": 40, "pain": 20}
    found = detectable("test", [one for label, count in groups.items() for one in alone(label, count)])
    assert found is not None and found.balanced_accuracy is not None

    def balanced_accuracies(recall: float) -> Any:
        return np.mean([draw.binomial(count, recall, 40_000) / count for count in groups.values()], axis=0)

    by_chance = balanced_accuracies(1 / 3)
    low, high = np.quantile(by_chance, (0.025, 0.975))
    better = balanced_accuracies(1 / 3 + found.balanced_accuracy)
    assert ((better < low) | (better > high)).mean() == pytest.approx(0.8, abs=0.03)


def test_more_clips_of_the_same_groups_detect_nothing_more() -> None:
    clips = alone("hungry", 30) + alone("tired", 20)
    often = [replace(one, path=Path(f"{take}-{one.path}")) for one in clips for take in range(10)]
    once, ten = detectable("test", clips), detectable("test", often)
    assert once is not None and ten is not None
    assert (ten.clips, ten.groups) == (500, 50)
    assert ten.accuracy == pytest.approx(once.accuracy)
    assert ten.balanced_accuracy == pytest.approx(once.balanced_accuracy)


@given(common=st.integers(1, 300), rare=st.integers(1, 300))
def test_no_improvement_goes_beyond_perfection_and_more_groups_never_detect_less(common: int, rare: int) -> None:
    one, two = (detectable("test", alone("a", common * times) + alone("b", rare * times)) for times in (1, 2))
    assert one is not None and two is not None
    for before, after, room in (
        (one.accuracy, two.accuracy, 1 - one.baseline),
        (one.balanced_accuracy, two.balanced_accuracy, 0.5),
    ):
        if before is not None:
            assert after is not None
            assert 0 < after <= before <= room


def test_a_part_in_which_even_perfection_is_not_significant_detects_nothing() -> None:
    """19 of 20 by guessing: 1.96 standard errors are 0.096, and perfection is 0.05 better."""
    found = detectable("test", alone("hungry", 19) + alone("tired", 1))
    assert found is not None
    assert found.accuracy is None
    assert detectable("test", alone("hungry", 20)) is None
    assert detectable("test", []) is None


# Labels


def test_labels_are_told_of_in_a_line_each_the_rarest_first() -> None:
    parts = {
        "train": [*alone("hungry", 50), *part("ab", "lonely"), *part("cdefgh", "tired"), *part("i", "wet")],
        "validation": [*part("jklmn", "hungry"), *part("op", "tired")],
        "test": [*part("qrstu", "hungry"), *part("v", "tired"), *part("wxy", "lonely")],
    }
    assert label_warnings(parts, 5) == [
        "label wet is missing from validation and test: its clips come from 1 group",
        "label lonely is missing from validation and has 3 groups in test: its clips come from 5 groups",
        "label tired has 2 groups in validation and 1 group in test: its scores there mean little",
    ]
    assert [line.split()[1] for line in label_warnings(parts, 1)] == ["wet", "lonely"]


def test_a_label_of_two_groups_is_too_rare_for_any_split() -> None:
    parts = {"train": [*part("a", "pain"), *alone("hungry", 9)], "test": [*part("b", "pain"), *part("cde", "hungry")]}
    assert label_warnings(parts, 1) == ["label pain has 2 groups in all: too few to train, select and test on"]


@given(labels=st.integers(0, 60), min_groups=st.integers(1, 6))
def test_the_lines_on_labels_stay_few_and_each_rare_label_is_counted(labels: int, min_groups: int) -> None:
    names = [f"label{number}" for number in range(labels)]
    parts = {name: [clip(label, f"{label}-{name}") for label in names] for name in ("train", "validation", "test")}
    lines = label_warnings(parts, min_groups)
    if min_groups == 1:
        assert lines == []
        return
    assert len(lines) <= 6
    assert len(lines) == labels or lines[-1].startswith(f"{labels - 5} more labels have fewer than {min_groups} groups")


def test_folds_are_all_held_out() -> None:
    folds = {str(fold): [clip("cry", f"{fold}-{number}") for number in range(4)] for fold in range(1, 6)}
    assert label_warnings(folds, 4) == []
    assert label_warnings(folds, 5) == [
        "label cry has 4 groups in 1, 4 groups in 2, 4 groups in 3 and 2 more: its scores there mean little"
    ]


# Sums and quantiles


@given(letters=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), max_size=30))
def test_the_clips_and_minutes_of_the_labels_add_up(letters: list[tuple[str, str]]) -> None:
    clips = [clip(label, group, str(number), duration=60.0) for number, (label, group) in enumerate(letters)]
    summary = summarise([*clips, clip("a", "x", "unmeasured")])
    assert summary["clips"] == len(letters) + 1 == sum(some["clips"] for some in summary["labels"].values())
    assert summary["minutes"] == len(letters) == sum(some["minutes"] for some in summary["labels"].values())
    groups: dict[str, set[str]] = defaultdict(set, {"a": {"x"}})
    for label, group in letters:
        groups[label].add(group)
    assert summary["groups"] == len(set().union(*groups.values()))
    assert {label: some["groups"] for label, some in summary["labels"].items()} == {
        label: len(some) for label, some in sorted(groups.items())
    }


def test_quantiles_are_those_of_numpy_for_the_labels_that_have_the_measure() -> None:
    values = np.random.default_rng(0).normal(size=31)
    clips = [clip("cry", str(number), loudness_db=float(value)) for number, value in enumerate(values)]
    found = quantiles([*clips, clip("cry", "unmeasured"), clip("noise", "unmeasured")], "loudness_db")
    assert list(found) == ["cry"]
    assert found["cry"] == pytest.approx(np.percentile(values, [0, 25, 50, 75, 100]))


# Real recordings


@pytest.fixture(scope="module")
def real_clips(real_data: Path) -> list[Clip]:
    """DonateACry and ESC-10: labels from the folders, groups from the names, measures from the headers."""
    group_of: dict[str, Callable[[Path], str]] = {
        "donateacry": lambda file: file.name[:36].lower(),
        "esc10": lambda file: file.stem.split("-")[1],
    }
    clips = []
    for corpus, group in group_of.items():
        for file in sorted((real_data / corpus).glob("*/*.*")):
            header = soundfile.info(file)
            measures = {"duration": header.duration, "sample_rate": header.samplerate, "codec": header.subtype}
            clips.append(Clip(file, file.parent.name, group(file), corpus, **measures))
    return clips


def test_two_corpora_are_told_apart_by_their_recorder_whatever_the_labels(real_clips: list[Clip]) -> None:
    cries = {one.label for one in real_clips if one.corpus == "donateacry"} | {"004 - Baby cry"}
    merged = [replace(one, label="cry" if one.label in cries else "not_cry") for one in real_clips]
    for clips, label in ((real_clips, "hungry"), (merged, "cry")):
        warnings = confound_warnings(confounds(clips), 0.8)
        for measure in ("sample rate", "codec", "corpus"):
            assert any(f" tells {label} " in warning and f"the {measure}" in warning for warning in warnings)
        assert any("always donateacry" in warning or "92% donateacry" in warning for warning in warnings)
    assert confound_warnings(confounds([one for one in real_clips if one.corpus == "donateacry"]), 0.8) == []


def test_a_split_by_clip_puts_most_babies_on_both_sides(real_clips: list[Clip]) -> None:
    clips = [one for one in real_clips if one.corpus == "donateacry"]
    shares = []
    for seed in range(20):
        mixed = random.Random(seed).sample(clips, len(clips))
        parts = {"train": mixed[:320], "validation": mixed[320:411], "test": mixed[411:]}
        shares += [leak.share for leak in leakage(parts) if (leak.part, leak.other) == ("test", "train")]
        assert leaked_clips(parts)["test"] / 46 >= shares[-1]
    assert np.mean(shares) == pytest.approx(0.66, abs=0.04)
    assert 0.45 < min(shares) <= max(shares) < 0.87
