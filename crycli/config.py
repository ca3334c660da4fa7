"""The configuration: every setting, its default, its bounds, and the one way in which it is put together.

Precedence, lowest first: the defaults below, the YAML file, `--set key.path=value`, a command's own flags.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from crycli.errors import ConfigError
from crycli.limits import HIGHEST_RATE, LOWEST_RATE, MAX_CHANNELS, MAX_HOURS, Limits

SHORTEST_SECONDS = 0.25
"""The network needs 400 samples, and masking in training 3,280 (0.205 s at 16 kHz)."""

HIGHEST_SEED = 2**32 - 1  # numpy takes no higher one

NAMED_LABEL_RULES = ("auto", "folder", "donateacry", "esc")
NAMED_GROUP_RULES = ("auto", "file", "folder", "donateacry", "esc")
COLUMN_RULE = "column:"
"""Before the name of a column of a CSV that gives the labels or the groups."""

Flag = Literal["quiet", "silent", "clipped", "narrow", "dc_offset", "cut_short", "copy", "overlap", "contradiction"]
"""What `crycli prepare` finds wrong with a clip."""


Combine = Literal["mean", "max"]
"""What a recording's probabilities are, of those of its windows; see `events.combine`."""


def _no_is_a_word(value: object) -> object:
    # YAML 1.1 reads a bare `no` as false, and `yes` as true.
    return {False: "no", True: "yes"}[value] if isinstance(value, bool) else value


def _is_a_word(value: object) -> object:
    """A label that YAML reads as a number."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else _no_is_a_word(value)


Label = Annotated[str, BeforeValidator(_is_a_word), Field(min_length=1)]


def _ascends(value: list[float]) -> list[float]:
    if value[0] > value[1]:
        raise ValueError("must be [lowest, highest]")
    return value


Range = Annotated[list[float], Field(min_length=2, max_length=2), AfterValidator(_ascends)]
"""[lowest, highest]."""

Decibels = Annotated[
    list[Annotated[float, Field(ge=-60.0, le=120.0)]], Field(min_length=2, max_length=2), AfterValidator(_ascends)
]
"""[lowest, highest] signal-to-noise ratio."""


def _expression(value: str, rules: tuple[str, ...]) -> re.Pattern[str] | None:
    """The regular expression that a rule for labels or groups is; None where it is one of the named rules."""
    if value == COLUMN_RULE:
        raise ValueError("lacks the name of the column: write it as column:NAME")
    if value in rules or value.startswith(COLUMN_RULE):
        return None
    try:
        return re.compile(value)
    except re.error as error:
        raise ValueError(f"is neither one of {', '.join(rules)} nor a regular expression: {error}") from None


class Section(BaseModel):
    """A part of the configuration: frozen, strictly typed, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DescribedSection(Section):
    """A section whose schema holds what is said of each key below its line; pydantic reads the source for that."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class DataConfig(Section):
    """Which recordings are used, what they are called, and how they are split."""

    label_by: str = Field(default="auto", min_length=1)
    """Where labels come from: auto (folders; names where flat), folder, donateacry, esc, column:NAME of a CSV, or a
    regular expression on the path with a group named label."""
    label_map: dict[Label, Label | None] = {}
    """New names for labels: one name for several merges them, null drops them, "*" stands for all others."""
    group_by: str = Field(default="auto", min_length=1)
    """What stays together in a split: auto, file, folder, donateacry, esc, column:NAME of a CSV, or a regular
    expression on the path. Copies of one sound always do."""
    join_overlaps: bool = True
    """Keep together what is found to be the same recording in part, or at another level or bit rate."""
    validation_share: float = Field(default=0.15, gt=0.0, lt=1.0)
    """Share of the clips that choose the best epoch."""
    test_share: float = Field(default=0.15, gt=0.0, lt=1.0)
    """Share of the clips kept for the final evaluation."""
    folds: Annotated[int, Field(ge=2)] | None = None
    """Folds for cross-validation, in the column fold; null: none. ESC's official ones are honoured."""
    window: Annotated[float, Field(ge=SHORTEST_SECONDS)] | None = None
    """Cut recordings into clips of so many seconds, as rows with start and end; null: a recording is a clip."""
    hop: Annotated[float, Field(ge=SHORTEST_SECONDS)] | None = None
    """Seconds from the start of a window to the next one's; null: windows without overlap."""
    min_seconds: float = Field(default=0.5, ge=SHORTEST_SECONDS)
    """Shorter recordings are rejected."""
    max_seconds: float = Field(default=10.0, ge=SHORTEST_SECONDS)
    """Training takes a part of so many seconds, another one in each epoch, of what is longer; validation, eval and
    predict take it in windows of this length."""
    seed: int = Field(default=0, ge=0, le=HIGHEST_SEED)
    """Another seed gives another split."""

    @field_validator("label_by")
    @classmethod
    def _is_a_label_rule(cls, value: str) -> str:
        pattern = _expression(value, NAMED_LABEL_RULES)
        if pattern is not None and "label" not in pattern.groupindex:
            raise ValueError(
                f"is neither one of {', '.join(NAMED_LABEL_RULES)} nor a regular expression with (?P<label>...)"
            )
        return value

    @field_validator("group_by")
    @classmethod
    def _is_a_group_rule(cls, value: str) -> str:
        _expression(value, NAMED_GROUP_RULES)
        return value

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.validation_share + self.test_share >= 1.0:
            raise ValueError("validation_share and test_share leave nothing to train on: their sum must be below 1")
        if self.max_seconds < self.min_seconds:
            raise ValueError("max_seconds is below min_seconds")
        if self.hop is not None and self.window is None:
            raise ValueError("hop needs a window")
        if self.window is not None and self.window < self.min_seconds:
            raise ValueError("window is below min_seconds")
        if self.window is not None and (self.hop or 0.0) > self.window:
            raise ValueError("hop is above window: what lies between two windows would be lost")
        return self


class ChecksConfig(Section):
    """What `crycli prepare` flags in clips and warns of in a dataset."""

    quiet_db: float = -60.0
    """Flagged as quiet: the loudness (RMS) lies below so many dB of full scale."""
    silent_share: float = Field(default=0.9, ge=0.0, le=1.0)
    """Flagged as silent: more than this share of the time lies below -60 dB of full scale."""
    clipped_share: float = Field(default=0.01, ge=0.0, le=1.0)
    """Flagged as clipped: more than this share of the samples is at full scale."""
    narrow_hz: float = Field(default=2500.0, ge=0.0)
    """Flagged as narrow: nothing is heard above so many Hz."""
    dc_offset: float = Field(default=0.02, ge=0.0)
    """Flagged as dc_offset: the mean of the samples is further than this from zero; full scale is 1."""
    reject: list[Flag] = []
    """Flags with which a clip is left out: quiet, silent, clipped, narrow, dc_offset, cut_short, copy, overlap (with an
    earlier recording), contradiction (copies with different labels)."""
    confound_auc: float = Field(default=0.8, ge=0.5, le=1.0)
    """Warn where a label is told with this AUC by what is no cry, such as the sample rate."""
    min_groups: int = Field(default=5, ge=1)
    """Warn where a label has fewer groups in validation or test: scores for it mean little."""
    players: int = Field(default=24, ge=0)
    """Flagged clips with a player and a spectrogram in report.html, which then holds their sound."""


class ModelConfig(Section):
    """The network."""

    backbone: str = Field(default="facebook/wav2vec2-base-100k-voxpopuli", min_length=1)
    """A hub name or a folder with a wav2vec2, hubert, wavlm, data2vec-audio or unispeech-sat checkpoint; mini: a small
    wav2vec2 with the weights of crycli's own cry detector, without a download; mini-random: the same from scratch. In
    cross-validation {fold} in the name becomes the number of the fold: a start for each that has not heard it."""
    pooling: Literal["auto", "mean", "sum", "max", "attention", "mean_std", "statistics"] = "auto"
    """How the frames of a clip become one vector: mean, sum, max, attention (learned weights), mean_std (mean and
    standard deviation), statistics (those two, the least and the greatest value, and how much it changes from frame to
    frame); auto: statistics for mini and mini-random, mean otherwise. Padding never counts."""
    layers: Literal["last", "weighted"] = "last"
    """What is pooled: the last layer, or a learned weighted sum of all."""
    speeds: Annotated[list[Annotated[float, Field(ge=0.7, le=1.4)]], Field(min_length=1)] | Literal["auto"] = "auto"
    """The speeds at which the network hears each clip, in training as in use, and the pitch with them, as a tape is
    played: what it makes of them is averaged. [0.96, 1.04] takes twice the time, and as a rule makes it surer; auto:
    with keep_head those of the model that `backbone` names, [1.0] otherwise."""
    keep_head: bool = False
    """Go on from the head of the model that `backbone` names too, whose labels and pooling must be the same; false: a
    new head."""
    final_dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Dropout in the classification head."""
    attention_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] | Literal["auto"] = "auto"
    """Dropout of the backbone's attention; auto: as its own configuration says. 0 saves a quarter of the time that
    training a backbone of base size takes on a CPU."""
    freeze: Literal["auto", "none", "encoder", "backbone"] = "auto"
    """What is not trained: none, the convolutions (encoder), all but the head (backbone: what it says about each clip
    is then computed once and kept); auto: none for mini and mini-random, encoder otherwise."""
    lora_rank: Annotated[int, Field(ge=1)] | None = None
    """Train low-rank adapters of this rank in place of the backbone's weights (pip install crycli[lora]); they are
    merged into the saved model. null: none."""


class AugmentConfig(Section):
    """Changes to the clips while training, other ones in each epoch; never in validation or test."""

    probability: float = Field(default=0.5, ge=0.0, le=1.0)
    """How likely each of the following, from gain_db to polarity, is for a clip (pip install crycli[augment])."""
    gain_db: float = Field(default=0.0, ge=0.0, le=60.0)
    """Up to so many dB louder or softer. Networks that normalise each clip do not notice."""
    shift_seconds: float = Field(default=0.0, ge=0.0)
    """Up to so many seconds earlier or later, never more than half of a clip; what is shifted out is lost, and
    silence comes in."""
    noise_snr_db: Decibels | None = None
    """White noise at a signal-to-noise ratio drawn from [lowest, highest] dB; null: none."""
    background: Annotated[str, Field(min_length=1)] | None = None
    """A folder of recordings that are mixed in, such as of homes and streets; of each the first 10 minutes."""
    background_snr_db: Decibels = [3.0, 20.0]
    """The signal-to-noise ratio at which they are, from [lowest, highest] dB."""
    equaliser_db: float = Field(default=0.0, ge=0.0, le=40.0)
    """The response of another microphone: each of seven bands up to so many dB louder or softer."""
    low_pass_hz: Range | None = None
    """Nothing above a frequency drawn from [lowest, highest] Hz, as in phone recordings; null: not at all."""
    speed: float = Field(default=0.0, ge=0.0, le=0.5)
    """Up to this share faster or slower, and the pitch with it, as a tape is played."""
    pitch_semitones: float = Field(default=0.0, ge=0.0, le=12.0)
    """Up to so many semitones higher or lower, at the same speed. The one slow change: 30 ms for a clip of 7 s."""
    polarity: bool = False
    """Turn the waveform upside down."""
    mixup: float = Field(default=0.0, ge=0.0, le=10.0)
    """Mix each clip with another one, label and all, in a proportion from Beta(mixup, mixup); 0: not at all."""
    time_mask: Annotated[float, Field(ge=0.0, lt=1.0)] | Literal["auto"] = "auto"
    """SpecAugment: share of the frames that are masked; auto: as the backbone's own configuration says."""
    feature_mask: Annotated[float, Field(ge=0.0, lt=1.0)] | Literal["auto"] = "auto"
    """SpecAugment: share of the features that are masked; auto: as the backbone's own configuration says."""
    short_clips: Literal["pad", "repeat"] = "pad"
    """Clips below data.max_seconds: padded, which never counts, or repeated up to it."""


class TrainConfig(Section):
    """Fine-tuning."""

    epochs: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Passes over the training part; auto: 60 for mini, mini-random and a head alone, 10 for another backbone."""
    batch_size: int = Field(default=8, ge=1)
    """Clips in one forward pass."""
    gradient_accumulation: int = Field(default=1, ge=1)
    """Forward passes per update: the effective batch is batch_size times this, times the processes."""
    group_by_length: bool = True
    """Batch clips of like length, so that little is padded."""
    class_weights: Literal["auto", "none", "balanced", "effective"] | dict[Label, Annotated[float, Field(gt=0.0)]] = (
        "auto"
    )
    """What a clip's error weighs: none; balanced, each label the same in all; effective, by the effective number of
    clips, between the two; a weight for each label; auto: balanced, unless sampling or logit_adjustment balance."""
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    """The clips of an epoch: each once, or as many drawn with every label as likely."""
    focal_gamma: float = Field(default=0.0, ge=0.0)
    """Focal loss: the higher, the less a clip weighs that is answered right already; 0: cross entropy."""
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of each label that is spread over all of them."""
    logit_adjustment: float = Field(default=0.0, ge=0.0)
    """Adds so much of the logarithm of each label's share to its logit while training; 0: off, 1: as published."""
    learning_rate: Annotated[float, Field(gt=0.0, lt=1.0)] | Literal["auto"] = "auto"
    """Peak learning rate; auto: 0.0005 for mini, 0.001 for mini-random and a head alone, 0.0003 with LoRA, 0.00003 for
    another backbone."""
    backbone_rate: float = Field(default=1.0, gt=0.0, le=1.0)
    """The backbone's learning rate, as a share of the head's."""
    unfreeze_layers: int = Field(default=0, ge=0)
    """Gradual unfreezing: the head alone in the first epoch, so many more of the last layers in each further one; 0:
    all from the start."""
    schedule: Literal["linear", "cosine"] = "linear"
    """How the learning rate falls after its peak."""
    warmup_share: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of the updates over which the learning rate rises."""
    weight_decay: float = Field(default=0.01, ge=0.0)
    """Decoupled weight decay of AdamW."""
    precision: Annotated[Literal["auto", "no", "fp16", "bf16"], BeforeValidator(_no_is_a_word)] = "auto"
    """Mixed precision; auto: bf16 or fp16 on a GPU that has it, no on a CPU."""
    select_by: Literal["macro_f1", "balanced_accuracy", "macro_auc"] = "macro_f1"
    """The score on the validation part that chooses the epoch whose weights are kept."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after so many epochs without a better score; null: never."""
    checkpoint_minutes: float = Field(default=10.0, gt=0.0)
    """A checkpoint is written after each epoch, and within one after so many minutes."""
    keep_checkpoints: int = Field(default=2, ge=2)
    """Checkpoints kept on disk, the best among them."""
    seed: int = Field(default=0, ge=0, le=HIGHEST_SEED)
    """Another seed gives other starting weights and another order of the clips."""


class Interval(Section):
    """Numbers from which a search draws."""

    low: float
    """The lowest."""
    high: float
    """The highest."""
    log: bool = False
    """Draw the logarithm evenly."""
    whole: bool = False
    """Whole numbers alone."""

    @model_validator(mode="after")
    def _holds_numbers(self) -> Self:
        if self.low >= self.high:
            raise ValueError("low must be below high")
        if self.log and self.low <= 0:
            raise ValueError("log needs a low above 0")
        return self


class SearchConfig(Section):
    """What `crycli train --search N` tries."""

    space: dict[str, list[Any] | Interval] = {
        "train.learning_rate": Interval(low=1e-5, high=3e-3, log=True),
        "train.weight_decay": Interval(low=1e-4, high=0.1, log=True),
        "train.class_weights": ["none", "balanced", "effective"],
        "train.label_smoothing": [0.0, 0.1],
        "model.pooling": ["mean", "max", "attention", "mean_std", "statistics"],
        "model.final_dropout": [0.1, 0.3, 0.5],
    }
    """For each setting its values, or {low: ..., high: ..., log: true, whole: true}."""


class EvalConfig(Section):
    """Evaluation."""

    split: Literal["train", "validation", "test"] = "test"
    """The part that is scored."""
    draws: int = Field(default=2000, ge=100, le=100_000)
    """Of the bootstrap for the 95% intervals, and of the permutations for the verdict."""
    baselines: bool = True
    """Train MFCC statistics with logistic regression on the training part, to compare with."""
    examples: int = Field(default=8, ge=0, le=50)
    """Most confident mistakes, and as many of the least sure hits, to listen to in the report."""


class PredictConfig(Section):
    """Prediction."""

    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Windows in one forward pass; auto: 1 on a CPU, where more is no faster, 16 on a GPU. Only int8 answers change."""
    format: Literal["auto", "table", "csv", "jsonl", "parquet", "audacity", "raven"] = "auto"
    """Output format; auto: by the ending of the file, else a table on a terminal and csv in a pipe."""
    rows: Literal["auto", "recordings", "windows", "events"] = "auto"
    """What a row of the output is; auto: an event for audacity and raven, a window of standard input, a recording."""
    window: Annotated[float, Field(ge=SHORTEST_SECONDS)] | Literal["auto"] = "auto"
    """Longer recordings are answered window by window, in windows of so many seconds; auto: as the model was made."""
    hop: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    """Seconds from the start of a window to the next one's; auto: as the model says, else windows without overlap."""
    combine: Combine | Literal["auto"] = "auto"
    """What a recording's probabilities are: mean, those over its windows; max, for event_labels the highest of any
    window, and the other labels share what is left; auto: as the model says, else mean."""
    threshold: float | None = Field(default=None, ge=0, le=1)
    """Answer "unsure" below this confidence; rows of events and of top_k take no notice."""
    precision: float | None = Field(default=None, gt=0, le=1)
    """Answer "unsure" below the least confidence from which on so many of the validation part's answers were right."""
    coverage: float | None = Field(default=None, gt=0, le=1)
    """Answer "unsure" below the confidence that so many of the validation part's answers had; instead of precision."""
    top_k: int | None = Field(default=None, ge=1)
    """A row for each of so many likeliest labels, in place of a column for each label; null: columns. Rows of events
    take no notice."""
    sort: Literal["input", "path", "label", "confidence"] = "input"
    """The order of the rows: as the recordings were given, by path, by label, or the surest first."""
    event_labels: list[str] | Literal["auto"] = "auto"
    """Labels whose events are looked for, and combine's; auto: all but those called noise, silence, background, other,
    not_..."""
    event_window: Annotated[float, Field(ge=SHORTEST_SECONDS)] | Literal["auto"] = "auto"
    """Where rows are events, they are looked for in windows of so many seconds; auto: as window, where that is given,
    else as the model says."""
    event_hop: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    """Seconds from the start of such a window to the next one's; auto: as hop, where that is given, else as the model
    says for that window, else half of it. A model without windows for events looks in those of recordings where this
    and event_window are auto."""
    event_onset: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] = "auto"
    """An event reaches this probability somewhere; auto: as the model says for its own event_window, else 0.5."""
    event_offset: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] = "auto"
    """An event goes on while the probability is no less than this; auto: as the model says for its own event_window,
    else 0.7 of event_onset."""
    event_min_seconds: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    """Shorter events are dropped; auto: as the model says, else 0."""
    event_gap_seconds: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    """Events of one label that are no further apart are one; auto: as the model says, else 0."""
    engine: Literal["local", "ray"] = "local"
    """Where the work is done: in this process, or on a Ray cluster (pip install crycli[ray])."""
    shard_size: int = Field(default=256, ge=1)
    """Recordings in one file of what the engine ray writes."""
    stream_rate: int = Field(default=16_000, ge=LOWEST_RATE, le=HIGHEST_RATE)
    """Hz of raw samples on standard input; a wav stream says so itself."""
    stream_channels: int = Field(default=1, ge=1, le=64)
    """Channels of raw samples on standard input."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        given = [name for name in ("precision", "coverage", "threshold") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give {given[0]} or {given[1]}, not both")
        if self.window != "auto" and self.hop != "auto" and self.hop > self.window:
            raise ValueError("hop: longer than window, which would leave gaps")
        if self.event_window != "auto" and self.event_hop != "auto" and self.event_hop > self.event_window:
            raise ValueError("event_hop: longer than event_window, which would leave gaps")
        if self.event_onset != "auto" and self.event_offset != "auto" and self.event_offset > self.event_onset:
            raise ValueError("event_offset: higher than event_onset")
        return self


class ExportConfig(Section):
    """Export."""

    format: Literal["onnx", "onnx-int8", "torch"] = "onnx"
    """onnx: float32, as exact as the model; onnx-int8: smaller, and faster for large networks; torch: a .pt2 file."""
    opset: int = Field(default=17, ge=17, le=20)
    """ONNX operator set."""
    max_difference: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    """Nothing is exported where a probability differs by more; auto: 0.0001, and 0.2 in int8."""
    max_flipped: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] = "auto"
    """Nothing is exported where a larger share of recordings gets another label; auto: 0, and 0.05 in int8."""


class LimitsConfig(Section):
    """Limits against damaged and hostile recordings."""

    max_hours: float = Field(default=MAX_HOURS, gt=0)
    """Recordings that go on for longer are refused."""
    max_channels: int = Field(default=MAX_CHANNELS, ge=1)
    """Recordings with more channels are refused."""

    def to_limits(self) -> Limits:
        """What decoding takes."""
        return Limits(self.max_hours, self.max_channels)


class Config(Section):
    """Every setting of crycli."""

    data: DataConfig = DataConfig()
    """Which recordings are used, what they are called, and how they are split."""
    checks: ChecksConfig = ChecksConfig()
    """What `crycli prepare` flags in clips and warns of in a dataset."""
    model: ModelConfig = ModelConfig()
    """The network."""
    augment: AugmentConfig = AugmentConfig()
    """Changes to the clips while training, other ones in each epoch; never in validation or test."""
    train: TrainConfig = TrainConfig()
    """Fine-tuning."""
    search: SearchConfig = SearchConfig()
    """What `crycli train --search N` tries."""
    eval: EvalConfig = EvalConfig()
    """Evaluation."""
    predict: PredictConfig = PredictConfig()
    """Prediction."""
    export: ExportConfig = ExportConfig()
    """Export."""
    limits: LimitsConfig = LimitsConfig()
    """Limits against damaged and hostile recordings."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the network runs; auto: a GPU where there is one."""
    offline: bool = False
    """Never ask the model hub: use folders and what was downloaded before."""
    workers: int = Field(default=0, ge=0)
    """Threads or processes that decode recordings; 0: one a core."""
    cache: str = Field(default="auto", min_length=1)
    """Folder in which `crycli prepare` keeps what it measured; auto: the user's cache folder; none: nothing is kept."""


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, as it is in YAML 1.2, and a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be a word", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value} stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """YAML that `_Loader` reads back: words that it takes for numbers are quoted."""


for _yaml in (_Loader, _Dumper):
    _yaml.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )


def load_config(
    file: Path | None = None, assignments: Iterable[str] = (), flags: Mapping[str, object] | None = None
) -> Config:
    """Put the configuration together.

    Args:
        file: a YAML file; keys it lacks keep their defaults.
        assignments: "key.path=value", the value in YAML.
        flags: key path to value; those that are None were not given.

    Raises:
        ConfigError: an unreadable file, an unknown key, a value of the wrong type or out of bounds.
    """
    values: dict[str, Any] = {}
    if file is not None:
        values = _read_yaml(file)
        _validate(values, f"{file}: ")
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not all(part.strip() for part in key.split(".")):
            raise ConfigError(f"--set {assignment}: write it as --set train.epochs=3")
        _put(values, key.strip(), _parse_value(key.strip(), text))
    for key, value in (flags or {}).items():
        if value is not None:
            _put(values, key, value)
    return _validate(values)


def _validate(values: dict[str, Any], where: str = "") -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(where + "; ".join(_explain(problem) for problem in _distinct(error))) from None


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"the configuration {file} is not a text file in UTF-8") from None
    values = _parse_yaml(text, str(file))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{file} must hold sections such as 'train:', not a {type(values).__name__}")
    # A section whose lines are all commented out reads as null.
    return {key: value for key, value in values.items() if value is not None or key not in Config.model_fields}


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{where}{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not valid YAML: {str(error).splitlines()[0]}") from None


def _parse_value(path: str, text: str) -> object:
    """A value as YAML reads it; as it stands where it is no YAML, or a list where none is wanted: [a-z]+."""
    try:
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
    if not isinstance(value, list | dict):
        return value
    field = _field(path.split("."))
    return value if field is not None and _takes(field.annotation, type(value)) else text


def _takes(annotation: Any, kind: type) -> bool:
    """Whether a field's type, or one of its alternatives, is a list or a dictionary, as `kind` says."""
    return kind in (annotation, get_origin(annotation)) or any(_takes(part, kind) for part in get_args(annotation))


def _field(key: Sequence[str]) -> FieldInfo | None:
    """The field of a setting; None where there is no such setting."""
    model: Any = Config
    for part in key[:-1]:
        field = model.model_fields.get(part)
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return None
        model = field.annotation
    return model.model_fields.get(key[-1]) if key else None


def _put(values: dict[str, Any], path: str, value: object) -> None:
    *sections, name = path.split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if inner is None:
            inner = values[section] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"{path}: {section} is a value, not a section")
        values = inner
    values[name] = value


def _distinct(error: ValidationError) -> list[dict[str, Any]]:
    """The problems, one a key: of those of a union's members, that of the one that got furthest."""
    problems: dict[tuple[str, ...], dict[str, Any]] = {}
    for problem in sorted(error.errors(), key=lambda problem: -len(problem["loc"])):
        problems.setdefault(_key(problem["loc"]), dict(problem))
    return list(problems.values())


def _key(location: tuple[int | str, ...]) -> tuple[str, ...]:
    """A location without the names that pydantic adds for the members of a union."""
    key: list[str] = []
    model: type[BaseModel] | None = Config
    for part in map(str, location):
        if model is None:
            break
        key.append(part)
        field = model.model_fields.get(part)
        annotation = field.annotation if field is not None else None
        model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    return tuple(key)


def _explain(problem: Mapping[str, Any]) -> str:
    key = _key(problem["loc"])
    path = ".".join(key) or "the configuration"
    if problem["type"] == "extra_forbidden":
        return f"unknown setting {path}{_suggest(key)}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{path}: {message}"
    if problem["type"] == "model_type":
        return f"{path} is a section with settings of its own, not {problem['input']!r}"
    message = message[:1].lower() + message[1:]
    if _allows_auto(key) and "'auto'" not in message:
        message += " (or auto)"
    return f"{path}: {message}, not {textwrap.shorten(repr(problem['input']), 80)}"


def _allows_auto(key: tuple[str, ...]) -> bool:
    field = _field(key)
    return field is not None and field.default == "auto" and not isinstance(field.annotation, type)


def _suggest(key: tuple[str, ...]) -> str:
    import difflib

    known = setting_paths()
    sections = sorted({path.partition(".")[0] for path in known if "." in path})
    name = ".".join(key)
    close = difflib.get_close_matches(name, known + sections, n=1, cutoff=0.6)
    if not close:
        same_name = [path for path in known if path.rpartition(".")[2] == key[-1]]
        by_name = difflib.get_close_matches(key[-1], [path.rpartition(".")[2] for path in known], n=1, cutoff=0.6)
        close = same_name or [path for path in known if by_name and path.rpartition(".")[2] == by_name[0]]
    return f": did you mean {close[0]}?" if close else ": `crycli config` lists them all"


def setting_paths() -> list[str]:
    """The key paths of all settings, such as train.epochs."""
    return list(flatten(Config()))


def flatten(config: Config) -> dict[str, Any]:
    """Key path to value, for every setting."""
    flat: dict[str, Any] = {}
    for name, value in config.model_dump().items():
        if isinstance(value, dict):
            flat.update({f"{name}.{inner}": item for inner, item in value.items()})
        else:
            flat[name] = value
    return flat


def changed_settings(config: Config, sections: Iterable[str]) -> dict[str, Any]:
    """What is no default, by key, of the keys that begin with one of the sections."""
    defaults, chosen = flatten(Config()), tuple(sections)
    return {key: value for key, value in flatten(config).items() if value != defaults[key] and key.startswith(chosen)}


def to_assignments(config: Config, sections: Iterable[str]) -> list[str]:
    """The `--set KEY=VALUE` for what `changed_settings` gives."""
    texts = [
        f"{key}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for key, value in changed_settings(config, sections).items()
    ]
    return [part for text in texts for part in ("--set", text)]


def _docstrings() -> dict[str, dict[str, str]]:
    """Section to setting to what is said of it below its line.

    pydantic reads them with `use_attribute_docstrings`, but in each process: a tenth of what one prediction takes.
    """
    import ast
    import inspect

    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(Path(__file__).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            for setting, text in pairwise(node.body):
                match setting, text:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(said))):
                        found.setdefault(node.name, {})[name] = inspect.cleandoc(said)
    return found


def to_yaml(config: Config) -> str:
    """The configuration as YAML, with a line on each setting: the text of example_config.yaml for the defaults."""
    texts = _docstrings()
    lines = ["# Every setting of crycli. Leave out what you do not change."]
    for name in Config.model_fields:
        value = getattr(config, name)
        lines += ["", *_comment(texts["Config"][name])]
        if isinstance(value, Section):
            lines.append(f"{name}:")
            for inner in type(value).model_fields:
                lines += [f"  {line}" for line in _comment(texts[type(value).__name__][inner])]
                lines += _setting(inner, value.model_dump()[inner])
        else:
            lines.append(f"{name}: {_scalar(value)}")
    return "\n".join(lines) + "\n"


def _setting(name: str, value: object) -> list[str]:
    if isinstance(value, dict) and value and all(isinstance(entry, list | dict) for entry in value.values()):
        return [f"  {name}:", *(f"    {key}: {_scalar(entry)}" for key, entry in value.items())]
    return [f"  {name}: {_scalar(value)}"]


def _comment(description: str) -> list[str]:
    return textwrap.wrap(description, 110, initial_indent="# ", subsequent_indent="#   ")


def _scalar(value: object) -> str:
    return (
        yaml.dump(value, Dumper=_Dumper, width=1000, allow_unicode=True, default_flow_style=True, sort_keys=False)
        .removesuffix("\n")
        .removesuffix("\n...")
    )


def to_schema() -> str:
    """The JSON schema of the configuration, for editors."""
    schema = Config.model_json_schema()
    for section, texts in _docstrings().items():
        properties = (schema if section == "Config" else schema["$defs"][section])["properties"]
        for name, text in texts.items():
            properties[name]["description"] = text
    return json.dumps(schema, indent=2)
