"""Which clips a model has met in training already: known by hashes, so that a model folder does not name the babies."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crycli.checkpoint import read_json
from crycli.errors import CheckpointError
from crycli.manifest import Clip
from crycli.naming import by_known_name, normal
from crycli.outputs import write_json

KNOWN_FILE = "known_clips.json"
"""In a model folder."""

KNOWN_PARTS = ("train", "validation")
"""The weights come from the first, the epoch and the temperature from the second."""

VERSION = 1
ABOUT = "Hashes of the groups and the sounds of the clips that this model was made from. They hold no names."
DIGITS = 16  # 64 bits: that two of a few thousand agree by chance has a probability of 1e-12
HASH = re.compile(rf"[0-9a-f]{{{DIGITS}}}")
SILENT_DB = -80.0  # of full scale: what holds nothing is equal, and tells nothing of another recording


@dataclass(frozen=True)
class Shared:
    """What some clips share with those that a model was made from.

    Attributes:
        known: whether the model folder tells; where it does not, nothing is found and nothing is ruled out.
        groups: by part ("train", "validation"), the groups of the clips that are in it too.
        sounds: by part, (clips,) whether the same sound is in it.
        clips: (clips,) whether the group or the sound is in one of them.
    """

    known: bool
    groups: Mapping[str, frozenset[str]]
    sounds: Mapping[str, npt.NDArray[np.bool_]]
    clips: npt.NDArray[np.bool_]


def write_known(
    folder: Path, clips_by_part: Mapping[str, Sequence[Clip]], digests: Mapping[str, Sequence[str]]
) -> None:
    """Write into a model folder which groups and sounds of the training and the validation part it was made from.

    They are there as salted SHA-256 hashes. That keeps names from being read, and hashes of two models from being
    matched; who guesses a name can still find out whether it is among them. The salt comes from the content: the same
    clips, in any order, give the same file.

    Args:
        folder: that of the model.
        clips_by_part: the clips of each part; of "train" and "validation" alone anything is written.
        digests: by part, what `audio.digest` tells of the samples of the clips at the network's rate.
    """
    names = {part: sorted(_names(clips_by_part.get(part, ()))) for part in KNOWN_PARTS}
    sounds = {part: sorted(set(digests.get(part, ())) - {""}) for part in KNOWN_PARTS}
    salt = hashlib.sha256(json.dumps([names, sounds]).encode()).hexdigest()[:DIGITS]
    content: dict[str, Any] = {"about": ABOUT, "version": VERSION, "salt": salt}
    for part in KNOWN_PARTS:
        # Sorted, or the order would tell that of the names.
        content[part] = {
            "groups": sorted({_hash(salt, "group", name) for name in names[part]}),
            "sounds": sorted(_hash(salt, "sound", digest) for digest in sounds[part]),
        }
    write_json(folder / KNOWN_FILE, content)


def find_shared(folder: Path, clips: Sequence[Clip], digests: Sequence[str]) -> Shared:
    """Find the clips whose group, or whose sound, a model was made from.

    Groups are told by their names, so those of another dataset must not have the same ones by coincidence. Sounds are
    told by equal samples: another encoding, another window or another level is not found. Silent clips have no sound.

    Args:
        folder: that of the model.
        clips: what to look for.
        digests: (clips,) what `audio.digest` tells of their samples at the network's rate; empty where not known.

    Raises:
        CheckpointError: what the model folder tells is damaged, or of another version.
    """
    known = _read(folder / KNOWN_FILE)
    groups: dict[str, frozenset[str]] = {}
    sounds: dict[str, npt.NDArray[np.bool_]] = {}
    for part, (salt, group_hashes, sound_hashes) in known.items():
        groups[part] = frozenset(name for name in _names(clips) if _hash(salt, "group", name) in group_hashes)
        heard = [
            bool(digest) and not _is_silent(clip) and _hash(salt, "sound", digest) in sound_hashes
            for clip, digest in zip(clips, digests, strict=True)
        ]
        sounds[part] = np.array(heard, np.bool_)
    all_groups = frozenset[str]().union(*groups.values())
    shared = np.array([not all_groups.isdisjoint(_names([clip])) for clip in clips], np.bool_)
    return Shared(bool(known), groups, sounds, np.logical_or.reduce([shared, *sounds.values()]))


def _names(clips: Sequence[Clip]) -> set[str]:
    """Of the groups in the manifest, and of those that a known file name tells, where a manifest splits by clip."""
    told = {clip.path.name: by_known_name(clip.path.name).group for clip in clips}
    return ({clip.group for clip in clips} | set(told.values())) - {""}


def _is_silent(clip: Clip) -> bool:
    return clip.loudness_db is not None and clip.loudness_db < SILENT_DB


def _hash(salt: str, kind: str, text: str) -> str:
    content = f"{salt} {kind} {normal(text)}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(content).hexdigest()[:DIGITS]


def _read(file: Path) -> dict[str, tuple[str, Collection[str], Collection[str]]]:
    """By part the salt, the hashes of the groups, and those of the sounds; empty where there is no file."""
    if not file.exists():
        return {}
    content = read_json(file)
    try:
        if content["version"] != VERSION:
            raise CheckpointError(f"{file} is of another version of crycli: evaluate with one that can read it")
        salt = _checked([content["salt"]])[0]
        return {
            part: (salt, frozenset(_checked(content[part]["groups"])), frozenset(_checked(content[part]["sounds"])))
            for part in KNOWN_PARTS
        }
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(
            f"{file} is damaged: copy the model anew, or delete this file to evaluate without a search for leakage"
        ) from None


def _checked(hashes: Any) -> list[str]:
    """A list of hashes that is one."""
    if not isinstance(hashes, list) or not all(HASH.fullmatch(item) for item in hashes):
        raise ValueError
    return hashes
