"""The configuration: one file, one precedence, and mistakes named with their path."""

from __future__ import annotations

import json
import re
import string
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from conftest import settings
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from crycli import recipe
from crycli.config import Config, Flag, flatten, load_config, setting_paths, to_schema, to_yaml
from crycli.errors import ConfigError

EXAMPLE = Path(__file__).resolve().parents[1] / "example_config.yaml"

WORDS = (
    st.sampled_from(["*", "no", "~", "null", "1e3", "007", "<<", "=", "- a", "a: b # c", " x ", "'", '"', "é\n", "{"])
    | st.text(string.printable, min_size=1, max_size=8)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
)

RANGES = st.lists(st.floats(-60.0, 60.0), min_size=2, max_size=2).map(sorted)
INTERVALS = st.fixed_dictionaries(
    {"low": st.floats(1e-6, 1.0), "high": st.floats(2.0, 9.0), "log": st.booleans(), "whole": st.booleans()}
)

OTHER_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "data.label_by": st.sampled_from(
        [
            "auto",
            "folder",
            "donateacry",
            "esc",
            "column:reason",
            "column:a: b # c",
            "(?P<label>[a-z]+)/",
            '(?P<label>é)\n"',
        ]
    ),
    "data.label_map": st.dictionaries(WORDS, st.none() | WORDS, max_size=4),
    "data.group_by": st.sampled_from(
        ["file", "esc", r"baby-\d+", "no", "1e3", "~", "a: b # c", " x", "'", 'é"\n', "2"]
    ),
    "data.join_overlaps": st.booleans(),
    "data.validation_share": st.floats(0.01, 0.4),
    "data.test_share": st.floats(1e-9, 0.4),
    "data.folds": st.none() | st.integers(2, 100),
    "data.window": st.none() | st.floats(5.0, 1e4),
    "data.hop": st.none() | st.floats(0.25, 5.0),
    "data.min_seconds": st.floats(0.25, 5.0),
    "data.max_seconds": st.floats(5.0, 1e6),
    "data.seed": st.integers(0, 2**32 - 1),
    "checks.quiet_db": st.floats(-120.0, 0.0),
    "checks.silent_share": st.floats(0.0, 1.0),
    "checks.clipped_share": st.floats(0.0, 1.0),
    "checks.narrow_hz": st.floats(0.0, 24_000.0),
    "checks.dc_offset": st.floats(0.0, 1.0),
    "checks.reject": st.lists(st.sampled_from(get_args(Flag)), max_size=4),
    "checks.confound_auc": st.floats(0.5, 1.0),
    "checks.min_groups": st.integers(1, 1000),
    "checks.players": st.integers(0, 1000),
    "model.backbone": st.text(string.printable, min_size=1),
    "model.speeds": st.lists(st.floats(0.7, 1.4), min_size=1, max_size=3),
    "model.keep_head": st.booleans(),
    "model.pooling": st.sampled_from(["auto", "mean", "sum", "max", "attention", "mean_std", "statistics"]),
    "model.layers": st.sampled_from(["last", "weighted"]),
    "model.final_dropout": st.floats(0.0, 0.99),
    "model.attention_dropout": st.just("auto") | st.floats(0.0, 0.9),
    "model.freeze": st.sampled_from(["auto", "none", "encoder", "backbone"]),
    "model.lora_rank": st.none() | st.integers(1, 512),
    "augment.probability": st.floats(0.0, 1.0),
    "augment.gain_db": st.floats(0.0, 60.0),
    "augment.shift_seconds": st.floats(0.0, 10.0),
    "augment.noise_snr_db": st.none() | RANGES,
    "augment.background": st.none() | st.text(string.printable, min_size=1),
    "augment.background_snr_db": RANGES,
    "augment.equaliser_db": st.floats(0, 40),
    "augment.low_pass_hz": st.none() | RANGES,
    "augment.speed": st.floats(0.0, 0.5),
    "augment.pitch_semitones": st.floats(0.0, 12.0),
    "augment.polarity": st.booleans(),
    "augment.mixup": st.floats(0.0, 10.0),
    "augment.time_mask": st.just("auto") | st.floats(0.0, 0.9),
    "augment.feature_mask": st.just("auto") | st.floats(0.0, 0.9),
    "augment.short_clips": st.sampled_from(["pad", "repeat"]),
    "train.epochs": st.just("auto") | st.integers(1, 1000),
    "train.batch_size": st.integers(1, 1000),
    "train.gradient_accumulation": st.integers(1, 64),
    "train.group_by_length": st.booleans(),
    "train.class_weights": st.sampled_from(["auto", "none", "balanced", "effective"])
    | st.dictionaries(WORDS, st.floats(0.1, 10.0), max_size=3),
    "train.sampling": st.sampled_from(["shuffled", "balanced"]),
    "train.focal_gamma": st.floats(0.0, 5.0),
    "train.label_smoothing": st.floats(0.0, 0.9),
    "train.logit_adjustment": st.floats(0.0, 2.0),
    "train.learning_rate": st.just("auto") | st.floats(1e-12, 0.9),
    "train.backbone_rate": st.floats(1e-6, 1.0),
    "train.unfreeze_layers": st.integers(0, 24),
    "train.schedule": st.sampled_from(["linear", "cosine"]),
    "train.warmup_share": st.floats(0.0, 0.99),
    "train.weight_decay": st.floats(0.0, 10.0),
    "train.precision": st.sampled_from(["auto", "no", "fp16", "bf16"]),
    "train.select_by": st.sampled_from(["macro_f1", "balanced_accuracy", "macro_auc"]),
    "train.patience": st.none() | st.integers(1, 100),
    "train.checkpoint_minutes": st.floats(0.1, 1e4),
    "train.keep_checkpoints": st.integers(2, 9),
    "train.seed": st.integers(0, 2**32 - 1),
    "search.space": st.dictionaries(
        st.sampled_from(["train.epochs", "train.learning_rate", "model.pooling", "augment.mixup"]),
        st.lists(st.integers() | st.floats(0.0, 1.0) | WORDS | st.booleans() | st.none(), max_size=3) | INTERVALS,
        max_size=3,
    ),
    "eval.split": st.sampled_from(["train", "validation", "test"]),
    "eval.draws": st.integers(100, 100_000),
    "eval.baselines": st.booleans(),
    "eval.examples": st.integers(0, 50),
    "predict.precision": st.none() | st.floats(0.01, 1.0),
    "predict.coverage": st.none(),  # it excludes precision
    "predict.batch_size": st.just("auto") | st.integers(1, 64),
    "predict.format": st.sampled_from(["auto", "table", "csv", "jsonl", "parquet", "audacity", "raven"]),
    "predict.rows": st.sampled_from(["auto", "recordings", "windows", "events"]),
    "predict.window": st.just("auto") | st.floats(5.0, 60.0),
    "predict.hop": st.just("auto") | st.floats(0.01, 5.0),
    "predict.combine": st.sampled_from(["auto", "mean", "max"]),
    "predict.threshold": st.none(),  # it excludes precision
    "predict.top_k": st.none() | st.integers(1, 9),
    "predict.sort": st.sampled_from(["input", "path", "label", "confidence"]),
    "predict.event_labels": st.just("auto") | st.lists(WORDS),
    "predict.event_window": st.just("auto") | st.floats(5.0, 60.0),
    "predict.event_hop": st.just("auto") | st.floats(0.01, 5.0),
    "predict.event_onset": st.just("auto") | st.floats(0.5, 1.0),
    "predict.event_offset": st.just("auto") | st.floats(0.01, 0.5),
    "predict.event_min_seconds": st.just("auto") | st.floats(0.0, 60.0),
    "predict.event_gap_seconds": st.just("auto") | st.floats(0.0, 60.0),
    "predict.engine": st.sampled_from(["local", "ray"]),
    "predict.shard_size": st.integers(1, 10_000),
    "predict.stream_rate": st.integers(1_000, 768_000),
    "predict.stream_channels": st.integers(1, 64),
    "export.format": st.sampled_from(["onnx", "onnx-int8", "torch"]),
    "export.opset": st.integers(17, 20),
    "export.max_difference": st.just("auto") | st.floats(1e-6, 1.0),
    "export.max_flipped": st.just("auto") | st.floats(0.0, 1.0),
    "limits.max_hours": st.floats(0.1, 1_000.0),
    "limits.max_channels": st.integers(1, 1_000),
    "device": st.sampled_from(["auto", "cpu", "cuda", "mps"]),
    "offline": st.booleans(),
    "workers": st.integers(0, 64),
    "cache": st.sampled_from(["auto", "none", "no", "~/cache", "1e3", "null"]) | st.text(string.printable, min_size=1),
}


def write(folder: Path, text: str) -> Path:
    file = folder / "settings.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(write(folder, text))
    return str(caught.value)


def test_the_example_is_what_the_config_command_prints() -> None:
    assert EXAMPLE.read_bytes() == to_yaml(Config()).encode("utf-8")


def test_the_example_loads_and_equals_the_defaults() -> None:
    assert load_config(EXAMPLE) == Config()


def test_the_example_holds_every_setting_and_no_other() -> None:
    written = {
        f"{key}.{inner}" if isinstance(value, dict) else key
        for key, value in yaml.safe_load(EXAMPLE.read_text(encoding="utf-8")).items()
        for inner in (value if isinstance(value, dict) else [""])
    }
    assert written == set(setting_paths())


def test_every_setting_of_the_example_stands_below_a_line_on_what_it_does() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    bare = [
        line for above, line in pairwise(lines) if re.match(r" {0,2}[a-z]", line) and not above.lstrip().startswith("#")
    ]
    assert bare == []


def test_no_line_of_the_example_is_too_long_to_read() -> None:
    assert max(map(len, EXAMPLE.read_text(encoding="utf-8").splitlines())) <= 120


def test_the_round_trip_below_covers_every_setting() -> None:
    assert set(OTHER_VALUES) == set(setting_paths())


def with_a_window(values: dict[str, Any]) -> dict[str, Any]:
    """A hop without a window is refused."""
    return values | {"data.window": values.get("data.window") or 5.0} if values.get("data.hop") else values


@given(values=st.fixed_dictionaries({}, optional=OTHER_VALUES).map(with_a_window))
@example(values={"data.label_map": {"*": None, "no": "yes", "1": "2"}, "checks.reject": ["copy", "quiet"]})
@example(values={"data.window": None, "data.folds": None, "data.hop": None, "data.label_map": {}, "checks.reject": []})
def test_any_configuration_written_as_yaml_loads_equal(
    values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    changed = load_config(None, flags=values)
    file = tmp_path_factory.getbasetemp() / "round-trip.yaml"
    file.write_bytes(to_yaml(changed).encode("utf-8"))
    assert load_config(file) == changed
    assert {key: flatten(changed)[key] for key in values} == values


def test_a_flag_beats_set_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    file = write(tmp_path, "train: {epochs: 2, batch_size: 2, seed: 2}")
    config = load_config(file, ["train.epochs=3", "train.batch_size=3"], {"train.epochs": 4, "train.seed": None})
    chosen = config.train
    assert (chosen.epochs, chosen.batch_size, chosen.seed) == (4, 3, 2)
    assert chosen.gradient_accumulation == Config().train.gradient_accumulation


def test_of_two_assignments_to_one_setting_the_last_counts() -> None:
    assert settings("train.epochs=3", "train.epochs=5").train.epochs == 5


def test_an_assignment_goes_into_a_section_that_the_file_leaves_out(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "offline: true"), ["train.epochs=3"])
    assert (config.offline, config.train.epochs) == (True, 3)


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "{}\n"])
def test_an_empty_file_means_the_defaults(text: str, tmp_path: Path) -> None:
    assert load_config(write(tmp_path, text)) == Config()


def test_a_section_whose_settings_are_all_commented_out_means_its_defaults(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "train:\n  # epochs: 3\noffline: true\n")) == settings("offline=true")


@pytest.mark.parametrize(
    ("text", "path", "nearest"),
    [
        ("train: {epoch: 3}", "train.epoch", "train.epochs"),
        ("trian: {epochs: 3}", "trian", "train"),
        ("epochs: 3", "epochs", "train.epochs"),
        ("ofline: true", "ofline", "offline"),
        ("data: {pooling: max}", "data.pooling", "model.pooling"),
        ("model: {bakcbone: mini}", "model.bakcbone", "model.backbone"),
    ],
)
def test_an_unknown_key_is_named_with_its_path_and_the_nearest_valid_name(
    text: str, path: str, nearest: str, tmp_path: Path
) -> None:
    message = refusal(tmp_path, text)
    assert f"unknown setting {path}: did you mean {nearest}?" in message
    assert "settings.yaml" in message


def test_an_unknown_key_like_no_other_points_to_the_command_that_lists_them(tmp_path: Path) -> None:
    assert "`crycli config`" in refusal(tmp_path, "train: {zzzqqqxxx: 3}")


def test_an_unknown_key_in_an_assignment_is_named_too() -> None:
    with pytest.raises(ConfigError, match=r"train\.epoch: did you mean train\.epochs\?"):
        settings("train.epoch=3")


@pytest.mark.parametrize(
    ("assignment", "path"),
    [
        ("train.epochs=three", "train.epochs"),
        ("train.epochs=3.0", "train.epochs"),
        ("train.epochs=true", "train.epochs"),
        ("train.epochs=", "train.epochs"),
        ("train.epochs=[3]", "train.epochs"),
        ("train.learning_rate=fast", "train.learning_rate"),
        ("model.backbone=3", "model.backbone"),
        ("model.backbone=''", "model.backbone"),
        ("model.pooling=median", "model.pooling"),
        ("offline=1", "offline"),
        ("train=3", "train"),
        ("offline.today=true", "offline"),
        ("train.epochs.more=3", "train.epochs"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_its_path(assignment: str, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(assignment)
    assert str(caught.value).startswith(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "assignment",
    [
        "train.epochs=0",
        "train.learning_rate=0",
        "train.learning_rate=1",
        "train.learning_rate=.nan",
        "train.weight_decay=-1e-9",
        "train.keep_checkpoints=1",
        "train.seed=-1",
        "data.validation_share=0.0",
        "data.test_share=1.0",
        "data.min_seconds=0.2",
        "data.min_seconds=.nan",
        "data.max_seconds=.inf",
        "train.weight_decay=.inf",
        "model.final_dropout=1.0",
        "predict.batch_size=0",
        "export.opset=16",
        "predict.top_k=0",
        "predict.event_onset=0",
        "predict.event_window=0.1",
        "limits.max_hours=0",
        "workers=-1",
    ],
)
def test_a_value_out_of_bounds_is_named_with_its_path(assignment: str) -> None:
    path = assignment.partition("=")[0]
    with pytest.raises(ConfigError, match=path):
        settings(assignment)


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    message = refusal(tmp_path, "train: {epochs: 0, batch_size: many}\nofline: true\n")
    assert all(path in message for path in ("train.epochs", "train.batch_size", "ofline"))


@pytest.mark.parametrize("word", ["no", "No", "off", "'no'"])
def test_precision_no_is_a_word_although_yaml_reads_it_as_false(word: str, tmp_path: Path) -> None:
    assert load_config(write(tmp_path, f"train:\n  precision: {word}\n")).train.precision == "no"


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "0.001", "1e-03", "+1e-3"])
def test_a_number_with_an_exponent_is_a_number(text: str, tmp_path: Path) -> None:
    assert load_config(write(tmp_path, f"train: {{learning_rate: {text}}}")).train.learning_rate == 0.001
    assert settings(f"train.learning_rate={text}").train.learning_rate == 0.001


def test_a_whole_number_serves_where_a_fraction_is_asked_for() -> None:
    assert settings("data.max_seconds=5").data.max_seconds == 5.0


@pytest.mark.parametrize("text", ["train: {epochs: 1, epochs: 2}", "offline: true\noffline: false\n"])
def test_a_key_that_stands_twice_is_refused(text: str, tmp_path: Path) -> None:
    assert "twice" in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("offline: true\ntrain: [\n", 3),
        ("offline: true\ntrain:\n\tepochs: 3\n", 3),
        ("offline: true\noffline: true\n", 2),
        ("a: b: c\n", 1),
        ("offline: true\n---\noffline: true\n", 2),
        ("offline: !!python/object/apply:os.getcwd []\n", 1),
    ],
)
def test_invalid_yaml_names_the_file_and_the_line(text: str, line: int, tmp_path: Path) -> None:
    message = refusal(tmp_path, text)
    assert f"settings.yaml, line {line}" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "text", ["a: \0\n", "? [a, b]\n: 3\n", "? {a: 1}\n: 3\n", "1: 2\n", "null: 2\n", "2001-01-01: 2"]
)
def test_a_key_or_a_character_that_is_no_text_is_refused(text: str, tmp_path: Path) -> None:
    assert "settings.yaml" in refusal(tmp_path, text)


@pytest.mark.parametrize("text", ["- epochs: 3\n", "epochs\n", "3\n"])
def test_a_file_that_holds_no_sections_is_refused(text: str, tmp_path: Path) -> None:
    assert "must hold sections" in refusal(tmp_path, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=tmp_path.name):
        load_config(tmp_path)


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_bytes("model: {backbone: schrei-säugling}".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"settings\.yaml.*UTF-8"):
        load_config(file)


def test_a_file_that_begins_with_a_byte_order_mark_loads(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_bytes(b"\xef\xbb\xbftrain: {epochs: 3}\r\n")
    assert load_config(file).train.epochs == 3


@pytest.mark.parametrize("assignment", ["train.epochs", "=3", " =3", ""])
def test_an_assignment_without_key_or_value_shows_how_it_is_written(assignment: str) -> None:
    with pytest.raises(ConfigError, match=r"--set train\.epochs=3"):
        settings(assignment)


def test_an_assignment_that_is_no_yaml_is_named() -> None:
    with pytest.raises(ConfigError, match=r"train\.epochs"):
        settings("train.epochs=[")


def test_a_value_may_hold_an_equals_sign() -> None:
    assert settings("data.group_by=id=(.)").data.group_by == "id=(.)"


def test_a_grouping_expression_that_does_not_compile_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.group_by.*regular expression"):
        settings("data.group_by=baby-(")


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.9, 0.2)])
def test_shares_that_leave_nothing_to_train_on_are_refused(shares: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match=r"validation_share and test_share"):
        settings(f"data.validation_share={shares[0]}", f"data.test_share={shares[1]}")


def test_a_longest_clip_below_the_shortest_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_seconds is below min_seconds"):
        settings("data.min_seconds=2", "data.max_seconds=1")


def test_the_schema_describes_every_setting() -> None:
    schema = json.loads(to_schema())
    described = {}
    for name, entry in schema["properties"].items():
        section = schema["$defs"][entry["$ref"].rpartition("/")[2]] if "$ref" in entry else {}
        described[name] = entry.get("description") or section.get("description")
        for inner, inner_entry in section.get("properties", {}).items():
            described[f"{name}.{inner}"] = inner_entry.get("description")
    assert set(setting_paths()) <= set(described)
    assert [name for name, text in described.items() if not text] == []


def test_what_auto_stands_for_is_said_in_the_schema() -> None:
    train = json.loads(to_schema())["$defs"]["TrainConfig"]["properties"]
    for setting, table in {"learning_rate": recipe.LEARNING_RATES, "epochs": recipe.EPOCHS}.items():
        numbers = {float(number) for number in re.findall(r"\d+(?:\.\d+)?", train[setting]["description"])}
        assert numbers == set(table.values())


def test_the_schema_gives_the_defaults_and_refuses_other_keys() -> None:
    train = json.loads(to_schema())["$defs"]["TrainConfig"]
    assert train["properties"]["epochs"]["default"] == Config().train.epochs
    assert train["additionalProperties"] is False


@pytest.mark.parametrize("path", setting_paths())
def test_a_configuration_cannot_be_changed(path: str) -> None:
    config = Config()
    section, _, name = path.rpartition(".")
    with pytest.raises(ValidationError, match="frozen"):
        setattr(getattr(config, section) if section else config, name, "other")


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("data.label_map={a: b}", {"a": "b"}),
        ("data.label_map={hungry: cry, tired: null, '*': other}", {"hungry": "cry", "tired": None, "*": "other"}),
        ("data.label_map={belly pain: 'no', \"a, b\": c=d}", {"belly pain": "no", "a, b": "c=d"}),
        ("data.label_map={}", {}),
        ("checks.reject=[copy, quiet]", ["copy", "quiet"]),
        ("checks.reject=[cut_short]", ["cut_short"]),
        ("checks.reject=[]", []),
        ("data.group_by=[a-z]+", "[a-z]+"),
        ("data.group_by=[ab]", "[ab]"),
        ("data.label_by=(?P<label>[a-z]+)/", "(?P<label>[a-z]+)/"),
        ("data.label_by=column:reason", "column:reason"),
        ("cache=[b]", "[b]"),
        ("data.window=null", None),
        ("data.folds=~", None),
    ],
)
def test_an_assignment_takes_a_list_or_a_mapping_only_where_one_is_wanted(assignment: str, value: object) -> None:
    assert flatten(settings(assignment))[assignment.partition("=")[0]] == value


def test_a_mapping_in_an_assignment_replaces_that_of_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "data:\n  label_map:\n    hungry: cry\n    tired: null\nchecks:\n  reject:\n  - copy\n")
    config = load_config(file)
    assert (config.data.label_map, config.checks.reject) == ({"hungry": "cry", "tired": None}, ["copy"])
    changed = load_config(file, ["data.label_map={cold: other}", "checks.reject=[]"])
    assert (changed.data.label_map, changed.checks.reject) == ({"cold": "other"}, [])


def test_one_entry_of_the_mapping_can_be_set_by_itself(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "data: {label_map: {hungry: cry}}"), ["data.label_map.tired=cry"])
    assert config.data.label_map == {"hungry": "cry", "tired": "cry"}


@pytest.mark.parametrize(
    ("assignments", "key", "named"),
    [
        (["checks.reject=[copy, loud]"], "checks.reject", "'loud'"),
        (["checks.reject=copy"], "checks.reject", "'copy'"),
        (["checks.reject={copy: quiet}"], "checks.reject", "list"),
        (["checks.reject=null"], "checks.reject", "list"),
        (["checks.rejct=[copy]"], "checks.rejct", "did you mean checks.reject?"),
        (["checks.quiet_db=quiet"], "checks.quiet_db", "'quiet'"),
        (["checks.silent_share=1.1"], "checks.silent_share", "1.1"),
        (["checks.clipped_share=-0.1"], "checks.clipped_share", "-0.1"),
        (["checks.confound_auc=0.4"], "checks.confound_auc", "0.4"),
        (["checks.min_groups=0"], "checks.min_groups", "0"),
        (["checks.players=-1"], "checks.players", "-1"),
        (["data.hop=1"], "hop", "needs a window"),
        (["data.window=1", "data.hop=1.5"], "hop", "above window"),
        (["data.window=0.4"], "window", "below min_seconds"),
        (["data.window=1", "data.min_seconds=2"], "window", "below min_seconds"),
        (["data.window=0.1"], "data.window", "0.25"),
        (["data.window=long"], "data.window", "'long'"),
        (["data.window=5", "data.hop=0"], "data.hop", "0.25"),
        (["data.folds=1"], "data.folds", "2"),
        (["data.folds=2.5"], "data.folds", "2.5"),
        (["data.folds=five"], "data.folds", "'five'"),
        (["data.label_by=[a-z]+"], "data.label_by", "(?P<label>...)"),
        (["data.label_by=(?P<lable>[a-z]+)"], "data.label_by", "(?P<label>...)"),
        (["data.label_by=file"], "data.label_by", "(?P<label>...)"),
        (["data.label_by=(?P<label>"], "data.label_by", "regular expression"),
        (["data.label_by=''"], "data.label_by", "at least 1 character"),
        (["data.group_by=["], "data.group_by", "regular expression"),
        (["data.label_map=hungry"], "data.label_map", "'hungry'"),
        (["data.label_map=[hungry]"], "data.label_map", "hungry"),
        (["data.label_map={hungry: [tired]}"], "data.label_map", "tired"),
        (["data.label_map={hungry: cry"], "data.label_map", "hungry: cry"),
        (["data.label_map={hungry: a, hungry: b}"], "data.label_map", "hungry"),
        (["cache=''"], "cache", "at least 1 character"),
        (["cache=null"], "cache", "None"),
    ],
)
def test_a_mistake_in_how_data_is_read_is_one_line_that_names_the_key(
    assignments: list[str], key: str, named: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(*assignments)
    message = str(caught.value)
    assert key in message
    assert named in message
    assert "\n" not in message
    assert "; " not in message


@pytest.mark.parametrize("rule", ["label_by", "group_by"])
def test_a_column_rule_without_a_name_is_refused(rule: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.{rule}"):
        settings(f"data.{rule}='column:'")


@pytest.mark.parametrize("entry", ["hungry: ''", "'': hungry"])
def test_an_empty_label_in_the_map_is_refused(entry: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.label_map"):
        settings(f"data.label_map={{{entry}}}")


@pytest.mark.parametrize(
    "assignments",
    [
        ["data.window=5", "data.hop=5"],
        ["data.window=5", "data.hop=0.25"],
        ["data.window=0.5"],
        ["data.window=60"],
        ["data.folds=2"],
        ["data.window=0.25", "data.min_seconds=0.25"],
    ],
)
def test_windows_and_folds_at_their_bounds_are_taken(assignments: list[str]) -> None:
    config = flatten(settings(*assignments))
    assert all(str(config[key]).startswith(text) for key, _, text in (text.partition("=") for text in assignments))


def test_what_one_configuration_holds_is_not_shared_with_another() -> None:
    settings().data.label_map["hungry"] = "cry"
    settings().checks.reject.append("copy")
    assert settings() == Config() == load_config(EXAMPLE)


def test_labels_that_yaml_reads_as_numbers_or_truths_are_words() -> None:
    assert settings("data.label_map={1: cry, 2: 3}").data.label_map == {"1": "cry", "2": "3"}
    assert settings("data.label_map={yes: no}").data.label_map == {"yes": "no"}
