"""Parts and folds: no group is torn apart, each label is where its groups allow it, and what is kept stays."""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import settings as trials
from hypothesis import strategies as st

from crycli import splitting
from crycli.errors import DataError
from crycli.manifest import PARTS, Clip
from crycli.splitting import assign_folds, split

Table = dict[tuple[str, int], int]
"""(label, group) -> clips."""

TABLES = st.dictionaries(
    st.tuples(st.sampled_from("abcd"), st.integers(0, 12)), st.integers(1, 6), min_size=1, max_size=40
)
SMALL_TABLES = st.dictionaries(
    st.tuples(st.sampled_from("abc"), st.integers(0, 6)), st.integers(1, 6), min_size=3, max_size=14
)
SHARES = st.tuples(st.floats(0.05, 0.4), st.floats(0.05, 0.4))
SEEDS = st.integers(0, 99)
FOLDS = st.integers(2, 6)


@pytest.fixture(params=["few groups", "many groups"])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also as with so many groups that they are not all compared with each other."""
    if request.param == "many groups":
        monkeypatch.setattr(splitting, "MOST_COMPARISONS", 0)


def clips_of(table: Table, one_label_a_group: bool = False) -> list[Clip]:
    return [
        Clip(Path(f"{label}-{group}-{take}.wav"), label, f"{label if one_label_a_group else ''}{group}")
        for (label, group), takes in table.items()
        for take in range(takes)
    ]


def split_or_none(clips: list[Clip], shares: tuple[float, float], seed: int) -> dict[str, list[Clip]] | None:
    """None where there is too little to split."""
    try:
        return split(clips, *shares, seed)
    except DataError:
        return None


def folds_or_none(clips: list[Clip], folds: int, seed: int) -> list[Clip] | None:
    """None where there are too few groups."""
    try:
        return assign_folds(clips, folds, seed)
    except DataError:
        return None


def part_of(parts: Mapping[str, Iterable[Clip]]) -> dict[str, str]:
    return {clip.group: part for part, clips in parts.items() for clip in clips}


def fold_of(clips: Iterable[Clip]) -> dict[str, int]:
    return {clip.group: clip.fold for clip in clips if clip.fold is not None}


def groups_of(clips: Iterable[Clip]) -> dict[str, set[str]]:
    """Label to groups."""
    groups = defaultdict(set)
    for clip in clips:
        groups[clip.label].add(clip.group)
    return groups


def own_groups_of(clips: Sequence[Clip]) -> dict[str, set[str]]:
    """Label to those groups that bear no other label."""
    labels = defaultdict(set)
    for clip in clips:
        labels[clip.group].add(clip.label)
    return {label: {group for group in groups if len(labels[group]) == 1} for label, groups in groups_of(clips).items()}


@trials(max_examples=60)
@given(table=TABLES, shares=SHARES, seed=SEEDS)
def test_every_clip_is_in_exactly_one_part_and_no_group_in_two(
    table: Table, shares: tuple[float, float], seed: int
) -> None:
    clips = clips_of(table)
    parts = split_or_none(clips, shares, seed)
    if parts is None:
        return
    assert Counter(clip for part in parts.values() for clip in part) == Counter(clips)
    groups = [{clip.group for clip in part} for part in parts.values()]
    assert sum(map(len, groups)) == len(set.union(*groups))


@trials(max_examples=60)
@given(table=TABLES, shares=SHARES, seed=SEEDS, chance=st.randoms(use_true_random=False))
def test_the_order_of_the_clips_does_not_matter(
    table: Table, shares: tuple[float, float], seed: int, chance: random.Random
) -> None:
    clips = clips_of(table)
    shuffled = chance.sample(clips, len(clips))
    assert split_or_none(shuffled, shares, seed) == split_or_none(clips, shares, seed)


def test_the_order_of_the_windows_of_a_recording_does_not_matter() -> None:
    clips = clips_of({(label, group): 1 for label in "ab" for group in range(6)})
    windows = [replace(clip, start=float(start), end=start + 1.0) for clip in clips for start in range(3)]
    assert split(windows[::-1], 0.2, 0.2, 0) == split(windows, 0.2, 0.2, 0)


@trials(max_examples=60)
@given(table=SMALL_TABLES, shares=SHARES, seed=SEEDS)
def test_a_split_fails_only_where_none_trains_on_every_label_and_fills_each_part(
    table: Table, shares: tuple[float, float], seed: int
) -> None:
    clips = clips_of(table)
    labels_of = defaultdict(set)
    for clip in clips:
        labels_of[clip.group].add(clip.label)
    labels = {clip.label for clip in clips}
    possible = len(labels) >= 2 and any(
        set().union(*(labels_of[group] for group in labels_of.keys() - {*held_out})) == labels
        for held_out in itertools.combinations(labels_of, 2)
    )
    parts = split_or_none(clips, shares, seed)
    assert (parts is not None) == possible
    assert parts is None or all(parts.values())


@pytest.mark.usefixtures("size")
@trials(max_examples=60)
@given(table=TABLES, shares=SHARES, seed=SEEDS)
def test_every_label_is_trained_on_and_in_as_many_parts_as_it_has_groups_of_its_own(
    table: Table, shares: tuple[float, float], seed: int
) -> None:
    clips = clips_of(table)
    parts = split_or_none(clips, shares, seed)
    if parts is None:
        return
    for label, groups in own_groups_of(clips).items():
        reached = [part for part in PARTS if any(clip.label == label for clip in parts[part])]
        assert "train" in reached
        assert len(reached) >= min(len(PARTS), len(groups))


@trials(max_examples=30)
@given(table=SMALL_TABLES, seed=SEEDS)
def test_labels_that_share_groups_are_in_as_many_parts_as_the_best_split_of_all(table: Table, seed: int) -> None:
    clips = clips_of(table)
    parts = split_or_none(clips, (0.2, 0.2), seed)
    if parts is None:
        return
    labels_of = defaultdict(set)
    for clip in clips:
        labels_of[clip.group].add(clip.label)

    def held_out(part_of: Mapping[str, str]) -> int:
        """Labels in validation and in test, if every label is trained on and no part is empty."""
        labels = {
            part: set().union(*(labels_of[group] for group in part_of if part_of[group] == part)) for part in PARTS
        }
        whole = labels["train"] == {clip.label for clip in clips} and all(labels.values())
        return len(labels["validation"]) + len(labels["test"]) if whole else 0

    best = max(
        held_out(dict(zip(labels_of, some, strict=True))) for some in itertools.product(PARTS, repeat=len(labels_of))
    )
    assert held_out(part_of(parts)) == best


@pytest.mark.parametrize("seed", range(6))
def test_a_label_that_shares_all_its_groups_is_still_trained_on(seed: int) -> None:
    groups = {"a": ("g1", "g2"), "b": ("g4", "g3"), "x": ("g2", "g3")}
    clips = [
        Clip(Path(f"{label}-{group}-{take}.wav"), label, group)
        for label, some in groups.items()
        for group in some
        for take in range(3)
    ]
    assert {clip.label for clip in split(clips, 0.15, 0.15, seed)["train"]} == {"a", "b", "x"}


@trials(max_examples=8)
@given(
    groups=st.fixed_dictionaries({label: st.integers(40, 120) for label in "abc"}),
    shares=SHARES,
    seed=SEEDS,
    chance=st.randoms(use_true_random=False),
)
def test_with_many_small_groups_each_label_is_shared_out_as_asked(
    groups: dict[str, int], shares: tuple[float, float], seed: int, chance: random.Random
) -> None:
    table = {(label, group): chance.randint(1, 3) for label, count in groups.items() for group in range(count)}
    parts = split(clips_of(table, one_label_a_group=True), *shares, seed)
    for label in groups:
        total = sum(clip.label == label for part in parts.values() for clip in part)
        for part, share in zip(("validation", "test"), shares, strict=True):
            # A clip more or less than asked: the groups of one clip fill up what the larger ones leave.
            assert abs(sum(clip.label == label for clip in parts[part]) - share * total) <= 1.5


@pytest.mark.usefixtures("size")
def test_a_large_group_among_many_small_ones_upsets_no_share() -> None:
    table = {(label, group): 20 if group == 0 else 1 for label in "ab" for group in range(81)}
    parts = split(clips_of(table, one_label_a_group=True), 0.2, 0.2, 0)
    counts = {part: Counter(clip.label for clip in clips) for part, clips in parts.items()}
    assert counts == {"train": {"a": 60, "b": 60}, "validation": {"a": 20, "b": 20}, "test": {"a": 20, "b": 20}}


@trials(max_examples=30)
@given(table=TABLES, shares=SHARES, seed=SEEDS, chance=st.randoms(use_true_random=False))
def test_no_move_and_no_exchange_of_two_groups_that_are_not_kept_would_be_better(
    table: Table, shares: tuple[float, float], seed: int, chance: random.Random
) -> None:
    clips = clips_of(table)
    kept = {group: chance.choice(PARTS) for group in {clip.group: 0 for clip in clips} if chance.random() < 0.3}
    try:
        placed = part_of(split(clips, *shares, seed, kept=kept))
    except DataError:
        return
    refuse_better(clips, placed, kept, shares)


def test_no_move_and_no_exchange_would_be_better_in_a_table_of_sixty_groups_and_six_labels() -> None:
    for number in range(5):
        chance = random.Random(number)
        table = {
            (label, group): min(40, int(chance.paretovariate(0.9)))
            for group in range(60)
            for label in chance.choices("abcdef", (32, 16, 8, 4, 2, 1), k=chance.choice((1, 1, 2)))
        }
        clips = clips_of(table)
        refuse_better(clips, part_of(split(clips, 0.15, 0.15, 0)), {}, (0.15, 0.15))


def refuse_better(
    clips: list[Clip], placed: dict[str, str], kept: Mapping[str, str], shares: tuple[float, float]
) -> None:
    best = badness(clips, placed, shares)
    free = sorted(placed.keys() - kept.keys())
    moves = [placed | {group: part} for group in free for part in PARTS]
    exchanges = [placed | {a: placed[b], b: placed[a]} for a, b in itertools.combinations(free, 2)]
    for other in moves + exchanges:
        gaps, distance = badness(clips, other, shares)
        assert (gaps, distance + 1e-6) > best


def badness(clips: list[Clip], placed: Mapping[str, str], shares: tuple[float, float]) -> tuple[list[int], float]:
    """What a split avoids, the worst first: labels not trained on, empty parts and labels missing, chi-square."""
    counts = Counter((placed[clip.group], label) for clip in clips for label in (clip.label, "all"))
    totals = Counter(label for clip in clips for label in (clip.label, "all"))
    gaps = [(part, label) for part in PARTS for label in totals if not counts[part, label]]
    share = dict(zip(PARTS, (1 - sum(shares), *shares), strict=True))
    distance = sum(
        (counts[part, label] - share[part] * total) ** 2 / (share[part] * total)
        for part in PARTS
        for label, total in totals.items()
    )
    return [sum(part == "train" for part, _ in gaps), len(gaps)], distance


@pytest.mark.parametrize("kept", [{}, {"a0": "train"}, {"a2": "test", "b3": "validation"}])
def test_a_few_large_groups_among_small_ones_are_balanced_by_exchanges(kept: dict[str, str]) -> None:
    sizes = {"a": (40, 21, 9, 9, 9, 6, 6), "b": (30, 25, 15, 5, 5, 5, 5, 5, 5)}
    table = {(label, group): size for label, some in sizes.items() for group, size in enumerate(some)}
    parts = split(clips_of(table, one_label_a_group=True), 0.15, 0.15, 0, kept=kept)
    counts = {part: Counter(clip.label for clip in clips) for part, clips in parts.items()}
    assert counts == {"train": {"a": 70, "b": 70}, "validation": {"a": 15, "b": 15}, "test": {"a": 15, "b": 15}}


def test_a_share_as_good_as_nothing_gets_the_smallest_groups() -> None:
    table = {(label, group): 1 + group for label in "ab" for group in range(10)}
    parts = split(clips_of(table, one_label_a_group=True), 1e-9, 0.2, 0)
    assert sorted({clip.group for clip in parts["validation"]}) == ["a0", "b0"]


def test_splitting_nothing_or_one_label_is_refused() -> None:
    with pytest.raises(DataError, match="no clips"):
        split([], 0.15, 0.15, 0)
    with pytest.raises(DataError, match=r"one label alone \(a\)"):
        split(clips_of({("a", group): 1 for group in range(9)}), 0.15, 0.15, 0)


def test_too_few_groups_are_refused_with_the_parts_that_stay_empty() -> None:
    with pytest.raises(DataError, match=r"2 groups are too few to fill validation and test: .*data\.group_by"):
        split(clips_of({("a", 0): 5, ("b", 1): 5}), 0.15, 0.15, 0)


def test_another_seed_gives_another_split() -> None:
    clips = clips_of({(label, group): 1 for label in "ab" for group in range(30)}, one_label_a_group=True)
    assert split(clips, 0.15, 0.15, 0) == split(clips, 0.15, 0.15, 0)
    assert len({tuple(sorted(part_of(split(clips, 0.15, 0.15, seed)).items())) for seed in range(5)}) == 5


@pytest.mark.usefixtures("size")
@trials(max_examples=60)
@given(table=TABLES, added=TABLES, shares=SHARES, seed=SEEDS)
def test_no_kept_group_moves_whatever_is_added_and_new_groups_go_where_a_label_lacks(
    table: Table, added: Table, shares: tuple[float, float], seed: int
) -> None:
    old = clips_of(table)
    before = split_or_none(old, shares, seed)
    if before is None:
        return
    more = [
        replace(clip, path=Path(f"new-{clip.path}"))
        for clip in clips_of({(a, 4 + b): n for (a, b), n in added.items()})
    ]
    after = split(old + more, *shares, seed, kept=part_of(before))
    placed = part_of(after)
    assert {group: placed[group] for group in part_of(before)} == part_of(before)
    assert Counter(clip for part in after.values() for clip in part) == Counter(old + more)
    for label, groups in own_groups_of(old + more).items():
        stuck = {placed[group] for group in groups_of(old + more)[label] & part_of(before).keys()}
        reached = {placed[group] for group in groups_of(old + more)[label]}
        assert len(reached) >= min(len(PARTS), len(stuck) + len(groups - part_of(before).keys()))
        assert "train" in reached or groups_of(old + more)[label] <= part_of(before).keys()


def test_new_groups_make_up_for_what_the_kept_ones_lack() -> None:
    table = {(label, group): 1 for label in "ab" for group in range(20)}
    clips = clips_of(table, one_label_a_group=True)
    kept = {f"{label}{group}": "train" for label in "ab" for group in range(10)}
    parts = split(clips, 0.25, 0.25, 0, kept=kept)
    assert {part: Counter(clip.label for clip in some) for part, some in parts.items()} == {
        "train": {"a": 10, "b": 10},
        "validation": {"a": 5, "b": 5},
        "test": {"a": 5, "b": 5},
    }


def test_kept_groups_that_are_gone_are_ignored() -> None:
    clips = clips_of({(label, group): 1 for label in "ab" for group in range(8)})
    assert split(clips, 0.2, 0.2, 0, kept={"gone": "test"}) == split(clips, 0.2, 0.2, 0)
    assert assign_folds(clips, 3, 0, kept={"gone": 9}) == assign_folds(clips, 3, 0)


def test_a_kept_split_that_leaves_a_part_empty_is_refused() -> None:
    clips = clips_of({(label, group): 1 for label in "ab" for group in range(4)})
    with pytest.raises(DataError, match="kept has no clips left for test"):
        split(clips, 0.2, 0.2, 0, kept={"0": "train", "1": "train", "2": "train", "3": "validation"})


@trials(max_examples=60)
@given(table=TABLES, folds=FOLDS, seed=SEEDS, chance=st.randoms(use_true_random=False))
def test_folds_change_nothing_else_tear_no_group_apart_and_do_not_depend_on_the_order(
    table: Table, folds: int, seed: int, chance: random.Random
) -> None:
    clips = clips_of(table)
    assigned = folds_or_none(clips, folds, seed)
    assert (assigned is None) == (len({clip.group for clip in clips}) < folds)
    if assigned is None:
        return
    assert [replace(clip, fold=None) for clip in assigned] == clips
    assert {clip.fold for clip in assigned} == set(range(1, folds + 1))
    assert len({(clip.group, clip.fold) for clip in assigned}) == len({clip.group for clip in clips})
    shuffled = assign_folds(chance.sample(clips, len(clips)), folds, seed)
    assert fold_of(shuffled) == fold_of(assigned)


@pytest.mark.usefixtures("size")
@trials(max_examples=60)
@given(table=TABLES, folds=FOLDS, seed=SEEDS)
def test_every_label_is_in_as_many_folds_as_it_has_groups_of_its_own(table: Table, folds: int, seed: int) -> None:
    # Label e has ten groups of its own: enough for six folds, whatever the table.
    clips = clips_of(table | {("e", group): 1 for group in range(20, 30)})
    assigned = assign_folds(clips, folds, seed)
    for label, groups in own_groups_of(clips).items():
        assert len({clip.fold for clip in assigned if clip.label == label}) >= min(folds, len(groups))


@trials(max_examples=30)
@given(
    groups=st.fixed_dictionaries({label: st.integers(1, 40) for label in "abc"}), takes=st.integers(1, 3), folds=FOLDS
)
def test_groups_of_one_size_and_one_label_fill_the_folds_to_within_one(
    groups: dict[str, int], takes: int, folds: int
) -> None:
    assume(sum(groups.values()) >= folds)
    table = {(label, group): takes for label, count in groups.items() for group in range(count)}
    assigned = assign_folds(clips_of(table, one_label_a_group=True), folds, 0)
    for labels in ("a", "b", "c", "abc"):
        counts = Counter(clip.fold for clip in assigned if clip.label in labels)
        sizes = [counts[fold] for fold in range(1, folds + 1)]
        assert max(sizes) - min(sizes) <= takes


@trials(max_examples=60)
@given(table=TABLES, folds=FOLDS, seed=SEEDS, chance=st.randoms(use_true_random=False))
def test_given_folds_are_honoured_and_the_others_filled_around_them(
    table: Table, folds: int, seed: int, chance: random.Random
) -> None:
    clips = clips_of(table | {("e", group): 1 for group in range(20, 30)})
    kept = {group: chance.randint(1, folds) for group in sorted({clip.group for clip in clips if clip.label != "e"})}
    assigned = assign_folds(clips, folds, seed, kept=kept)
    assert {group: fold_of(assigned)[group] for group in kept} == kept
    # Label e has ten groups of its own left: enough for six folds.
    assert {clip.fold for clip in assigned if clip.label == "e"} == set(range(1, folds + 1))


def test_new_groups_even_out_the_given_folds() -> None:
    clips = clips_of({("a", group): 1 for group in range(30)})
    assigned = assign_folds(clips, 3, 0, kept={str(group): 1 for group in range(10)} | {"10": 2})
    assert Counter(clip.fold for clip in assigned) == {1: 10, 2: 10, 3: 10}


def test_another_seed_gives_other_folds() -> None:
    clips = clips_of({(label, group): 1 for label in "ab" for group in range(30)}, one_label_a_group=True)
    assert assign_folds(clips, 5, 0) == assign_folds(clips, 5, 0)
    assert len({tuple(sorted(fold_of(assign_folds(clips, 5, seed)).items())) for seed in range(5)}) == 5


def test_folds_that_cannot_be_are_refused() -> None:
    clips = clips_of({(label, group): 1 for label in "ab" for group in range(4)})
    with pytest.raises(DataError, match=r"4 groups are too few for 5 folds: .*data\.group_by"):
        assign_folds(clips, 5, 0)
    with pytest.raises(DataError, match="0 groups are too few for 2 folds"):
        assign_folds([], 2, 0)
    for fold in (0, 4):
        with pytest.raises(DataError, match=f"group 2 is in fold {fold}, and there are 3 folds"):
            assign_folds(clips, 3, 0, kept={"2": fold})
    with pytest.raises(DataError, match=r"no groups for fold [24]: 1 of 4 groups are free"):
        assign_folds(clips, 4, 0, kept={"0": 1, "1": 1, "2": 3})


def test_the_real_corpus_comes_within_a_clip_and_a_half_of_its_shares(real_data: Path) -> None:
    files = sorted((real_data / "donateacry").rglob("*.wav"))
    clips = [Clip(path, path.parent.name, path.name[:36].lower()) for path in files]
    parts = split(clips, 0.15, 0.15, 0)
    totals = Counter(clip.label for clip in clips)
    for part, share in zip(PARTS, (0.7, 0.15, 0.15), strict=True):
        counts = Counter(clip.label for clip in parts[part])
        assert all(abs(counts[label] - share * totals[label]) <= 1.5 for label in totals)
