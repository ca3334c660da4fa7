"""The report of an evaluation: page, Markdown and metrics.json hold the same figures, and nobody's code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import cry
from test_pages import HOSTILE, Page

from crycli import __version__, pages
from crycli.answers import Answers
from crycli.appraisal import Appraisal, Leakage, Rival, against, appraise, score
from crycli.config import Config, EvalConfig
from crycli.evalreport import (
    LABEL_SCORES,
    SCORES,
    About,
    Example,
    build_metrics,
    label_rows,
    metrics_schema,
    number,
    p_value,
    pictures,
    render_page,
    summary_rows,
    to_markdown,
)
from crycli.explaining import Occlusion
from crycli.manifest import Clip
from crycli.metricsfile import MetricsFile
from crycli.outputs import json_text
from crycli.splitcheck import SplitComparison

CONFIG = Config(eval=EvalConfig(draws=100))
NAMES = ("hungry", "tired", "burping")
ABOUT = About("runs/first", "test", "cries", "crycli eval runs/first cries -o report", 3, 1.5, CONFIG)


def answers(
    names: tuple[str, ...] = NAMES, *, clips: int = 60, groups: int = 20, skill: float = 2.0, seed: int = 0
) -> Answers:
    """Answers that are the better, the greater the skill; every label occurs."""
    random = np.random.default_rng(seed)
    truth = np.arange(clips) % len(names)
    logits = random.normal(size=(clips, len(names)))
    logits[np.arange(clips), truth] += skill
    shares, before = (np.exp(factor * logits) for factor in (1.0, 2.0))
    found = tuple(
        Clip(
            Path(f"{names[label]}-{row}.wav"),
            names[label],
            f"baby {row % groups}",
            corpus=("donateacry", "esc50")[row % 2],
            duration=4.0,
        )
        for row, label in enumerate(truth)
    )
    probabilities = shares / shares.sum(axis=1, keepdims=True)
    uncalibrated = before / before.sum(axis=1, keepdims=True)
    return Answers(names, found, truth, probabilities.argmax(axis=1), probabilities, uncalibrated)


def rival(name: str, of: Answers) -> Rival:
    other = replace(of, predicted=np.roll(of.predicted, 1), probabilities=None, uncalibrated=None)
    return Rival(name, score(other, CONFIG), against(of, other, CONFIG))


def comparison(of: Appraisal) -> SplitComparison:
    other = of.rivals[0]
    return SplitComparison(
        of.scores.report, other.scores.report, of.scores.intervals, other.scores.intervals, other.difference
    )


def example(clip: Clip, answered: str, occlusion: Occlusion | None = None) -> Example:
    samples = cry(400.0, 1.0)
    sound = pages.thumbnail(samples, 16_000), pages.player(samples, 16_000)
    return Example("hit" if answered == clip.label else "mistake", clip, answered, 0.8, *sound, occlusion)


@pytest.fixture(scope="module")
def full() -> Appraisal:
    """A report with something everywhere."""
    of = answers()
    met = np.arange(60) % 20 < 2
    leakage = Leakage({"train": ["baby 0", "baby 1"], "validation": []}, 6, score(of.select(~met), CONFIG))
    return replace(appraise(of, CONFIG), rivals=(rival("always 'hungry'", of),), leakage=leakage)


@pytest.fixture(scope="module")
def others(full: Appraisal) -> tuple[Rival, ...]:
    return (rival("runs/second", full.answers),)


@pytest.fixture(scope="module")
def page(full: Appraisal, others: tuple[Rival, ...]) -> str:
    clip = full.answers.clips[0]
    shown = [
        example(clip, "tired", Occlusion(0.5, (0.0, 0.3, -0.1, 0.0))),
        replace(example(clip, clip.label), thumbnail="", player=""),
    ]
    return render_page(full, ABOUT, shown, pictures(full), others, comparison(full))


def text_of(page: str) -> str:
    return " ".join(" ".join(Page(page).texts).split())


def every_number(found: Any) -> Iterator[float]:
    if isinstance(found, dict | list):
        for item in found.values() if isinstance(found, dict) else found:
            yield from every_number(item)
    elif isinstance(found, float):
        yield found


def test_the_page_needs_no_other_file_and_runs_nothing(page: str) -> None:
    parsed = Page(page)
    for tag, name, value in parsed.attributes:
        if name in ("src", "href"):
            assert value.startswith("data:" if tag in ("img", "audio") else "#"), (tag, value[:60])
        assert not name.startswith("on")
    assert {"script", "link", "iframe", "object"}.isdisjoint(tag for tag, *_ in parsed.tags)
    assert not re.search(r"https?:|@import|url\(", page)
    assert "default-src 'none'" in page


def test_links_lead_somewhere_and_what_is_drawn_has_a_name(page: str) -> None:
    parsed = Page(page)
    ids = [value for _, name, value in parsed.attributes if name == "id"]
    assert len(set(ids)) == len(ids)
    targets = {value[1:] for _, name, value in parsed.attributes if name == "href"}
    assert targets == set(ids)
    for tag, *attributes in parsed.tags:
        assert tag != "img" or "alt" in attributes
        assert tag != "svg" or {"aria-label", "aria-hidden"} & set(attributes)


def test_metrics_json_holds_what_was_found(full: Appraisal, others: tuple[Rival, ...]) -> None:
    found = build_metrics(full, ABOUT, others, comparison(full))
    report, intervals = full.scores.report, full.scores.intervals
    for key in ("clips", "groups", "chance_balanced_accuracy", "commonest_label", "commonest_accuracy", *SCORES):
        assert found[key] == getattr(report, key), key
    assert set(found["intervals"]) == set(SCORES) - {"calibration_error"}
    assert found["intervals"]["kappa"] == {"low": intervals["kappa"].low, "high": intervals["kappa"].high}
    assert tuple(found["labels"]) == NAMES
    for key in LABEL_SCORES:
        assert found["labels"]["tired"][key] == getattr(report.labels["tired"], key)
        assert found["labels"]["tired"]["intervals"][key]["low"] == intervals[f"{key}/tired"].low
    assert found["confusion"] == [list(row) for row in report.confusion]
    assert found["crycli_version"] == __version__
    assert (found["model"], found["split"], found["unreadable"]) == ("runs/first", "test", 3)
    assert found["verdict"]["sentence"] == full.verdict.sentence
    assert found["verdict"]["p"] == full.verdict.p
    assert [entry["name"] for entry in found["baselines"] + found["others"]] == ["always 'hungry'", "runs/second"]
    assert found["others"][0]["difference"]["value"] == others[0].difference.value
    assert found["leakage"]["groups"] == {"train": ["baby 0", "baby 1"], "validation": []}
    assert found["leakage"]["without"]["clips"] == 54
    assert found["split_comparison"]["leaks"] == comparison(full).leaks
    assert [entry["value"] for entry in found["slices"]] == [one.value for one in full.slices]
    assert found["calibration"]["temperature"] == 1.5
    assert sum(entry["clips"] for entry in found["calibration"]["reliability"]) == 60


def test_the_schema_describes_and_demands_every_key(full: Appraisal) -> None:
    schema = json.loads(metrics_schema())
    for entry in [schema, *schema["$defs"].values()]:
        assert set(entry["required"]) == set(entry["properties"])
        assert entry["additionalProperties"] is False
        for key, content in entry["properties"].items():
            assert content.get("description"), key
    assert set(build_metrics(full, ABOUT)) == set(schema["properties"])


def test_what_is_written_fits_the_schema_and_holds_finite_numbers(full: Appraisal, others: tuple[Rival, ...]) -> None:
    found = build_metrics(full, ABOUT, others, comparison(full))
    text = json_text(found)
    assert MetricsFile.model_validate_json(text).model_dump(mode="json") == found
    assert all(np.isfinite(value) for value in every_number(found))


def test_the_one_table_stands_in_the_page_and_in_the_markdown(
    full: Appraisal, others: tuple[Rival, ...], page: str
) -> None:
    header, rows = summary_rows(full, others)
    assert header == ("score", "value", "95% interval", "always 'hungry'", "runs/second")
    assert len(rows) == len(SCORES)
    report = full.scores.report
    assert rows[0][:2] == ("accuracy", f"{report.accuracy:.3f}")
    interval = full.scores.intervals["accuracy"]
    assert rows[0][2] == f"{interval.low:.3f} to {interval.high:.3f}"
    assert rows[0][4] == f"{others[0].scores.report.accuracy:.3f}"
    markdown, shown = to_markdown(full, ABOUT, others), text_of(page)
    for row in rows:
        assert f"| {' | '.join(row)} |" in markdown
        assert " ".join(row) in shown
    for row in label_rows(full)[1]:
        assert f"| {' | '.join(row)} |" in markdown


def test_the_page_leads_with_the_verdict_and_raises_the_alarm_where_groups_are_shared(
    full: Appraisal, page: str
) -> None:
    clean = render_page(
        replace(full, leakage=Leakage({"train": [], "validation": []}, 0, None)), ABOUT, [], pictures(full)
    )
    assert full.verdict.better_than_chance
    for found, alarm in ((page, True), (clean, False)):
        assert ('class="alarm"' in found) == alarm
        assert text_of(found).index(full.verdict.sentence) < text_of(found).index("Scores over all clips")
    assert "None found" in text_of(clean)
    assert "Not known" in to_markdown(replace(full, leakage=None), ABOUT)
    leaking = text_of(page)
    assert "Leakage: 10% of these clips" in leaking
    assert "baby 0 , baby 1" in leaking
    without = full.leakage.without if full.leakage else None
    assert without is not None
    both = (full.scores.report.log_loss, without.report.log_loss)
    assert re.search(rf"log loss {number(both[0])} \S+ to \S+ {number(both[1])} ", leaking)


def test_guesses_raise_the_alarm() -> None:
    appraisal = appraise(answers(skill=0.0), CONFIG)
    assert 'class="alarm"' in render_page(appraisal, ABOUT, [], pictures(appraisal))


def test_mcnemar_is_not_asked_of_the_mean_of_many_guesses() -> None:
    of = answers()
    always, guessing = appraise(of, CONFIG, train=of.clips).rivals  # no recording is there for the third
    assert always.difference.p_mcnemar is not None
    assert guessing.difference.p_mcnemar is None
    assert guessing.difference.interval is not None


def test_answers_without_probabilities_have_dashes_and_no_curves() -> None:
    appraisal = appraise(replace(answers(), probabilities=None, uncalibrated=None), CONFIG)
    found = build_metrics(appraisal, ABOUT)
    assert found["calibration"] is None
    assert found["macro_auc"] is None
    rows = {row[0]: row[1:] for row in summary_rows(appraisal)[1]}
    for title in ("macro AUC", "average precision", "log loss", "Brier score", "calibration error"):
        assert rows[title] == ("-", "-")
    assert "| log loss | - | - |" in to_markdown(appraisal, ABOUT)
    page = render_page(appraisal, ABOUT, [], pictures(appraisal))
    assert "log loss - -" in text_of(page)
    assert 'id="confidence"' not in page
    assert {name.partition(".")[0] for name in pictures(appraisal)} == {
        "confusion_matrix",
        "confusion_matrix_normalised",
    }


@pytest.mark.parametrize("case", ["one label", "one group", "one clip"])
def test_a_part_that_can_show_nothing_gives_a_report_that_says_so(case: str) -> None:
    of = answers(groups=1 if case == "one group" else 20)
    chosen = {"one label": of.truth == 0, "one group": of.truth >= 0, "one clip": np.arange(60) == 0}[case]
    appraisal = appraise(of.select(chosen), CONFIG)
    found = build_metrics(appraisal, ABOUT)
    json_text(found)
    assert found["verdict"]["better_than_chance"] is None
    page = render_page(appraisal, ABOUT, [], pictures(appraisal))
    assert 'class="alarm"' in page
    assert appraisal.verdict.sentence in text_of(page)
    assert ("| macro AUC | - | - |" in to_markdown(appraisal, ABOUT)) == (case != "one group")
    if case != "one label":
        assert found["intervals"] == {}
        assert all(row[2] == "-" for row in summary_rows(appraisal)[1])


def test_pictures_are_of_both_kinds(full: Appraisal) -> None:
    stems = ("confusion_matrix", "confusion_matrix_normalised", "roc", "precision_recall", "reliability")
    found = pictures(full)
    assert set(found) == {f"{stem}.{form}" for stem in (*stems, "risk_coverage") for form in ("png", "svg")}
    for name, content in found.items():
        assert content.startswith(b"\x89PNG") if name.endswith("png") else b"<svg" in content[:1000]
    for stem in stems:
        assert f"({stem}.png)" in to_markdown(full, ABOUT)


def test_nobodys_names_are_taken_for_markup() -> None:
    def report(names: tuple[str, ...]) -> tuple[list[tuple[str, ...]], str]:
        of = answers(names, clips=40, groups=20)
        first = names[0]
        about = About(first, first, first, first, 0, None)
        appraisal = replace(
            appraise(of, CONFIG),
            rivals=(rival(first, of),),
            leakage=Leakage({first: [first], "validation": []}, 2, score(of.select(of.truth > 0), CONFIG)),
        )
        clip = replace(of.clips[0], path=Path(first.replace("/", "").replace("\0", "")), group=first)
        shown = [replace(example(clip, names[1]), occlusion=Occlusion(0.5, (0.3, 0.1)))]
        return Page(render_page(appraisal, about, shown, pictures(appraisal))).tags, to_markdown(appraisal, about)

    odd = (*HOSTILE, "a|b", "*star* [link](x)", "$x$ `code`")
    tags, markdown = report(odd)
    assert tags == report(tuple(f"{row:02}".ljust(len(name), "x") for row, name in enumerate(odd)))[0]
    markdown.encode()
    table = markdown[markdown.index("| label |") :].split("\n\n")[0].splitlines()
    assert len(table) == len(odd) + 2
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {8}
    assert not re.search(r"(?<!\\)[<`]", "\n".join(table))


def test_the_strip_lies_under_the_time_it_is_about(full: Appraisal) -> None:
    clip = replace(full.answers.clips[0], duration=4.0)
    parsed = Page(
        render_page(full, ABOUT, [example(clip, "tired", Occlusion(0.5, (0.01, 0.3, -0.1, 0.0)))], pictures(full))
    )
    boxes = [value for tag, name, value in parsed.attributes if (tag, name) == ("svg", "viewbox")]
    assert "0 0 4.0 2" in boxes  # four half seconds of a clip of four seconds reach half-way
    assert "Without 0.5 to 1.0 s the answer loses most: 0.30 of its 0.80." in parsed.texts


def test_the_risk_coverage_curve_is_thinned_to_101_points_with_both_ends() -> None:
    appraisal = appraise(answers(clips=350), CONFIG)
    whole = appraisal.risk_coverage
    assert whole is not None
    assert len(whole.coverage) == 350
    curve = build_metrics(appraisal, ABOUT)["calibration"]["risk_coverage"]
    assert len(curve["coverage"]) == len(curve["risk"]) == len(curve["threshold"]) == 101
    assert (curve["coverage"][0], curve["coverage"][-1]) == (whole.coverage[0], 1.0)
    assert (curve["risk"][-1], curve["area"]) == (whole.risk[-1], whole.area)


def test_numbers_have_three_places_and_p_is_never_nought() -> None:
    assert [number(value) for value in (None, 0.12345, -0.00001, -0.5)] == ["-", "0.123", "0.000", "-0.500"]
    assert [p_value(p) for p in (None, 0.0005, 0.04, 1.0)] == ["-", "under 0.001", "0.040", "1.000"]
