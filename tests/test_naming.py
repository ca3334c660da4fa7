"""What a path tells of its recording: label, group, fold, and what else a corpus writes into its file names."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crycli.naming import DONATEACRY_REASONS, ESC_LABELS, Named, naming_rule

UUID = "0D1AD73E-4C5E-45F3-85C4-9A3CB71E8856"
UPLOAD = UUID + "-{epoch}-{version}-{gender}-{age}-{reason}.{suffix}"
HEX = st.text("0123456789abcdefABCDEF", min_size=12, max_size=12)


def upload(
    epoch: str = "1430742197",
    version: str = "1.0",
    gender: str = "m",
    age: str = "04",
    reason: str = "hu",
    suffix: str = "caf",
) -> str:
    return UPLOAD.format(epoch=epoch, version=version, gender=gender, age=age, reason=reason, suffix=suffix)


def told(path: str, rule: str = "auto") -> Named:
    return naming_rule(rule)(path)


@pytest.mark.parametrize("rule", ["auto", "donateacry"])
def test_a_donateacry_name_tells_the_label_the_phone_and_the_baby(rule: str) -> None:
    assert told(upload(), rule) == Named(
        label="hungry",
        group=UUID.lower(),
        extra={"gender": "male", "age": "0-4 weeks", "system": "ios"},
    )


@pytest.mark.parametrize(
    ("reason", "label"),
    [
        ("hu", "hungry"),
        ("bu", "burping"),
        ("bp", "belly_pain"),
        ("dc", "discomfort"),
        ("ti", "tired"),
        ("ch", "discomfort"),
        ("lo", "lonely"),
        ("sc", "scared"),
    ],
)
def test_the_last_word_of_a_donateacry_name_is_the_label(reason: str, label: str) -> None:
    assert told(upload(reason=reason)).label == label
    assert told(upload(reason=reason)).problem == ""


@pytest.mark.parametrize("reason", ["dk", "zz"])
def test_a_reason_that_is_no_label_keeps_the_phone_and_names_the_reason(reason: str) -> None:
    named = told(upload(reason=reason))
    assert (named.label, named.group) == ("", UUID.lower())
    assert f"'{reason}'" in named.problem
    assert reason not in DONATEACRY_REASONS


@pytest.mark.parametrize(("gender", "word"), [("m", "male"), ("f", "female"), ("x", "x")])
def test_the_gender_is_a_word_where_it_is_known(gender: str, word: str) -> None:
    assert told(upload(gender=gender)).extra["gender"] == word


@pytest.mark.parametrize(
    ("age", "words"),
    [
        ("04", "0-4 weeks"),
        ("48", "4-8 weeks"),
        ("26", "2-6 months"),
        ("72", "7 months to 2 years"),
        ("22", "over 2 years"),
        ("99", "99"),
    ],
)
def test_the_age_is_in_words_where_it_is_known(age: str, words: str) -> None:
    assert told(upload(age=age)).extra["age"] == words


@pytest.mark.parametrize(("epoch", "system"), [("1430742197", "ios"), ("1430742197123", "android")])
def test_seconds_are_written_by_ios_and_milliseconds_by_android(epoch: str, system: str) -> None:
    assert told(upload(epoch=epoch)).extra["system"] == system


@pytest.mark.parametrize("version", ["1.0", "1.7", "1.10.2"])
@pytest.mark.parametrize("suffix", ["wav", "caf", "3gp", "WAV"])
@pytest.mark.parametrize("folder", ["", "hungry/", "a b/säugling/"])
def test_the_version_the_suffix_and_the_folders_do_not_matter(version: str, suffix: str, folder: str) -> None:
    assert told(folder + upload(version=version, suffix=suffix)) == told(upload())


@given(first=HEX, second=HEX)
@example(first="abcdefabcdef", second="ABCDEFabcdef")
def test_two_uploads_are_of_one_group_where_their_phone_is_one_in_upper_or_lower_case(first: str, second: str) -> None:
    groups = [told(f"{UUID[:24]}{phone}-1430742197-1.0-f-48-ti.wav").group for phone in (first, second)]
    assert all(groups)
    assert (groups[0] == groups[1]) == (first.lower() == second.lower())


@pytest.mark.parametrize(
    "path",
    [
        "cry.wav",
        upload(epoch="yesterday"),
        upload()[1:],
        f"new-{upload()}",
        f"{upload()}/cry.wav",
    ],
)
def test_a_name_that_is_almost_that_of_an_upload_tells_nothing(path: str) -> None:
    named = told(path, "donateacry")
    assert (named.label, named.group, dict(named.extra)) == ("", "", {})
    assert "DonateACry" in named.problem


@pytest.mark.parametrize(
    "path", [upload(reason="hungry"), upload(gender=""), upload().replace(".caf", " (1).caf"), "x/" + upload() + ".wav"]
)
def test_a_changed_name_of_an_upload_still_tells_the_phone(path: str) -> None:
    for rule in ("auto", "donateacry"):
        named = told(path, rule)
        assert (named.label, named.group) == ("", told(upload(), rule).group)
        assert named.group


@pytest.mark.parametrize("rule", ["auto", "esc"])
def test_an_esc_50_name_tells_the_fold_the_source_and_the_class(rule: str) -> None:
    assert told("audio/3-151557-A-20.wav", rule) == Named(label="crying_baby", group="esc-151557", fold=3)


@pytest.mark.parametrize(
    ("number", "label"), [(0, "dog"), (1, "rooster"), (20, "crying_baby"), (36, "vacuum_cleaner"), (49, "hand_saw")]
)
def test_the_class_number_of_an_esc_50_name_is_the_label(number: int, label: str) -> None:
    assert told(f"1-100032-A-{number}.ogg").label == label


def test_the_classes_of_esc_50_are_fifty() -> None:
    assert len(set(ESC_LABELS)) == 50


@pytest.mark.parametrize("rule", ["auto", "esc"])
def test_an_esc_10_name_tells_the_fold_and_the_source_but_no_label(rule: str) -> None:
    named = told("006 - Crying baby/5-9032-B.ogg", rule)
    assert (named.label, named.group, named.fold) == ("", "esc-9032", 5)
    assert "no class" in named.problem


def test_a_class_number_that_esc_does_not_have_is_no_label() -> None:
    named = told("1-100032-A-50.wav")
    assert (named.label, named.group, named.fold) == ("", "esc-100032", 1)
    assert named.problem


@pytest.mark.parametrize("path", ["1-100032-A-0/cry.wav", "10-1-A-0.wav", "1-x-A-0.wav", "1-100032-a-0.wav", "1.wav"])
def test_a_name_that_is_almost_an_esc_name_tells_nothing(path: str) -> None:
    named = told(path, "esc")
    assert (named.label, named.group, named.fold) == ("", "", None)
    assert "ESC" in named.problem


@pytest.mark.parametrize("path", ["cry.wav", "hungry/anna-1.wav", "", ".wav", "säugling 👶.wav", "a\nb.wav"])
@pytest.mark.parametrize("rule", ["auto", "donateacry", "esc"])
def test_any_other_name_tells_nothing_and_says_why(path: str, rule: str) -> None:
    named = told(path, rule)
    assert replace_problem(named) == Named()
    assert named.problem.startswith("no label: ")


def replace_problem(named: Named) -> Named:
    return Named(named.label, "", named.group, named.corpus, named.fold, named.extra)


def test_the_groups_of_an_expression_are_label_group_corpus_fold_and_columns_of_ones_own() -> None:
    expression = r"(?P<corpus>\w+)/(?P<label>\w+)/(?P<group>\w+)-(?P<fold>\d)-(?P<age>\d+)(?P<unit>[wm])?"
    assert told("ward/hungry/anna-2-14w.wav", expression) == Named(
        "hungry", "", "anna", "ward", 2, {"age": "14", "unit": "w"}
    )
    assert told("ward/hungry/anna-2-14.wav", expression).extra == {"age": "14", "unit": ""}


def test_an_expression_that_finds_nothing_tells_nothing_and_says_why() -> None:
    named = told("cry.wav", r"(?P<label>\w+)/")
    assert replace_problem(named) == Named()
    assert "finds nothing" in named.problem


@pytest.mark.parametrize("expression", [r"(?P<label>[a-z]*)\d", r"(?P<label>[a-z]+)?\d"])
def test_an_expression_that_finds_an_empty_label_says_so(expression: str) -> None:
    named = told("7.wav", expression)
    assert (named.label, named.group) == ("", "")
    assert "empty" in named.problem


@pytest.mark.parametrize(
    ("expression", "group"),
    [
        (r"baby-\d+", "baby-07"),
        (r"/(baby-\d+)", "baby-07"),
        (r"(hungry)/(baby-\d+)", "hungry"),
        (r"(?P<take>x)?(?P<group>baby-\d+)", "baby-07"),
        (r"(?P<baby>baby-\d+)", "baby-07"),
        (r"(?<=baby-)\d+", "07"),
        (r"(x)?hungry", ""),
        (r"(?P<label>\w+)/", ""),
        (r"(?P<label>\w+)/(\w+)", ""),
        (r"Baby-\d+", ""),
        (r"(?i)Baby-\d+", "baby-07"),
    ],
)
def test_the_group_is_the_one_so_named_or_the_first_or_all_that_is_found(expression: str, group: str) -> None:
    assert told("hungry/baby-07-1.wav", expression).group == group


@pytest.mark.parametrize("fold", ["", "x", "²", "-1"])
def test_a_fold_that_is_no_number_is_none(fold: str) -> None:
    assert told(f"hungry-{fold}.wav", r"(?P<label>\w+?)-(?P<fold>.*)\.wav").fold is None


def test_an_expression_is_searched_in_the_whole_path_with_folders_and_suffix() -> None:
    assert told("a/b/c.caf", r"^(?P<label>\w)/b/.*\.caf$").label == "a"


@pytest.mark.parametrize(
    ("path", "folder"), [("low/anna/1.wav", "low/anna"), ("low/1.wav", "low"), ("1.wav", "."), ("a b/é/1.wav", "a b/é")]
)
def test_the_folder_rule_takes_the_folders_as_the_group(path: str, folder: str) -> None:
    assert told(path, "folder") == Named(group=folder)


@pytest.mark.parametrize("path", ["low/anna/1.wav", "1.wav", upload()])
def test_the_file_rule_takes_each_recording_by_itself(path: str) -> None:
    assert told(path, "file") == Named(group=path)


def test_a_column_of_a_csv_tells_nothing_so_that_the_name_does() -> None:
    assert told(upload(), "column:baby").group == UUID.lower()
    assert told("cry.wav", "column:baby").group == ""


@given(path=st.text(min_size=1), rule=st.sampled_from(["auto", "donateacry", "esc", r"(?P<label>\w+)-(?P<fold>.)"]))
def test_any_path_has_either_a_label_or_a_reason_for_none(path: str, rule: str) -> None:
    named = told(path, rule)
    assert bool(named.label) != bool(named.problem)
