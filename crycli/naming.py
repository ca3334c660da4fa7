"""What the path of a recording says of it: label, group, fold, and what else a corpus writes into its file names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from crycli.config import COLUMN_RULE

UUID = r"(?P<uuid>[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})"
DONATEACRY_PHONE = re.compile(UUID + r"-\d{9}")
DONATEACRY_NAME = re.compile(UUID + r"-(?P<epoch>\d+)-[\d.]+-(?P<gender>[a-z]+)-(?P<age>\d+)-(?P<reason>[a-z]{2})$")
"""<uuid of the app's installation>-<epoch>-<app version>-<gender>-<age>-<reason>: an upload of the DonateACry app."""

DONATEACRY_REASONS = {
    "hu": "hungry",
    "bu": "burping",
    "bp": "belly_pain",
    "dc": "discomfort",
    "ti": "tired",
    "ch": "discomfort",  # cold or hot: the cleaned corpus files it there
    "lo": "lonely",
    "sc": "scared",
}
"""dk, "don't know", is no label."""

DONATEACRY_GENDERS = {"f": "female", "m": "male"}
DONATEACRY_AGES = {
    "04": "0-4 weeks",
    "48": "4-8 weeks",
    "26": "2-6 months",
    "72": "7 months to 2 years",
    "22": "over 2 years",
}

ESC_NAME = re.compile(r"(?P<fold>\d)-(?P<source>\d+)-[A-Z](?:-(?P<target>\d+))?$")
"""<fold>-<source clip>-<take>[-<class>], as ESC-10 and ESC-50 name their clips."""

ESC_LABELS = tuple(
    "dog rooster pig cow frog cat hen insects sheep crow rain sea_waves crackling_fire crickets chirping_birds "
    "water_drops wind pouring_water toilet_flush thunderstorm crying_baby sneezing clapping breathing coughing "
    "footsteps laughing brushing_teeth snoring drinking_sipping door_wood_knock mouse_click keyboard_typing "
    "door_wood_creaks can_opening washing_machine vacuum_cleaner clock_alarm clock_tick glass_breaking helicopter "
    "chainsaw siren car_horn engine train church_bells airplane fireworks hand_saw".split()
)
"""The classes of ESC-50 by their number."""


@dataclass(frozen=True)
class Named:
    """What a path tells.

    Attributes:
        label: empty where it tells none.
        problem: why it tells none.
        group: empty where it tells none.
        corpus: empty where it tells none.
        fold: the official fold of the corpus.
        extra: anything else, such as the age of the baby.
    """

    label: str = ""
    problem: str = ""
    group: str = ""
    corpus: str = ""
    fold: int | None = None
    extra: Mapping[str, str] = field(default_factory=dict)


NamingRule = Callable[[str], Named]
"""From a recording's path below its root, with "/", to what it tells."""


def normal(name: str) -> str:
    """A label or a group in the one form (NFC) that all its spellings have: a Mac writes the same name otherwise."""
    return unicodedata.normalize("NFC", name)


def _stem(relative: str) -> str:
    name = relative.rpartition("/")[2]
    return name.rpartition(".")[0] or name


def by_donateacry(relative: str) -> Named:
    """What the file name of a DonateACry upload tells."""
    name = DONATEACRY_NAME.match(_stem(relative))
    if name is None:
        # A copy, such as "... (1)", has no label, and all the same must not come to lie apart from its phone.
        phone = DONATEACRY_PHONE.match(_stem(relative))
        return Named(problem="no label: not a DonateACry file name", group=phone["uuid"].lower() if phone else "")
    label = DONATEACRY_REASONS.get(name["reason"], "")
    extra = {
        "gender": DONATEACRY_GENDERS.get(name["gender"], name["gender"]),
        "age": DONATEACRY_AGES.get(name["age"], name["age"]),
        "system": "android" if len(name["epoch"]) > 10 else "ios",  # milliseconds, seconds
    }
    problem = "" if label else f"no label: the reason in its name is {name['reason']!r}"
    return Named(label, problem, name["uuid"].lower(), extra=extra)


def by_esc(relative: str) -> Named:
    """What the file name of an ESC clip tells; ESC-10 has the class in the folder alone."""
    name = ESC_NAME.match(_stem(relative))
    if name is None:
        return Named(problem="no label: not an ESC file name")
    number = int(name["target"] or len(ESC_LABELS))
    label = ESC_LABELS[number] if number < len(ESC_LABELS) else ""
    problem = "" if label else "no label: its ESC name has no class"
    return Named(label, problem, f"esc-{name['source']}", fold=int(name["fold"]))


@lru_cache(maxsize=16)  # labels, groups and columns of one recording are asked for one after the other
def by_known_name(relative: str) -> Named:
    """What the file name tells, where it is one of the corpora that crycli knows."""
    named = by_donateacry(relative)
    named = named if named.group else by_esc(relative)
    return named if named.group else Named(problem="no label: no file name that tells one")


def by_expression(expression: str) -> NamingRule:
    """A regular expression on the path: its groups label, group, corpus and fold; others are kept as columns.

    Without a group named group, the group is the expression's first group, or all that it matches.
    """
    pattern = re.compile(expression)

    def rule(relative: str) -> Named:
        found = pattern.search(relative)
        if found is None:
            return Named(problem="no label: data.label_by finds nothing in its path")
        parts = {name: text or "" for name, text in found.groupdict().items()}
        label, group, corpus, fold = (parts.pop(name, "") for name in ("label", "group", "corpus", "fold"))
        if not group and "label" not in pattern.groupindex:
            group = (found.group(1) if pattern.groups else found.group()) or ""
        problem = "" if label else "no label: data.label_by finds an empty one in its path"
        return Named(label, problem, group, corpus, int(fold) if fold.isdecimal() else None, parts)

    return rule


def by_folder(relative: str) -> Named:
    """The folder as the group."""
    return Named(group=relative.rpartition("/")[0] or ".")


def by_file(relative: str) -> Named:
    """Each recording by itself."""
    return Named(group=relative)


NAMED_RULES: Mapping[str, NamingRule] = {
    "auto": by_known_name,
    "donateacry": by_donateacry,
    "esc": by_esc,
    "folder": by_folder,
    "file": by_file,
}


def naming_rule(setting: str) -> NamingRule:
    """The rule that `data.group_by` or `data.label_by` names; a column of a CSV is none, and told apart by the scan."""
    if setting.startswith(COLUMN_RULE):
        return by_known_name
    return NAMED_RULES.get(setting) or by_expression(setting)
