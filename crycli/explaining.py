"""Which parts of a clip moved the answer."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from crycli import audio
from crycli.audio import Excerpt
from crycli.inference import Predictor

PIECE_SECONDS = 0.5  # about as long as one cry
MOST_PIECES = 24  # each is a forward pass


@dataclass(frozen=True)
class Occlusion:
    """What an answer loses when a piece of the clip is silenced.

    Attributes:
        seconds: of each piece.
        losses: of the probability of the answer, for each piece in order; negative where silence makes it surer.
    """

    seconds: float
    losses: tuple[float, ...]


def occlude(predictor: Predictor, excerpt: Excerpt, label: str) -> Occlusion:
    """Silence a clip piece by piece, and see what the probability of a label loses (Zeiler and Fergus 2014, ch. 4.2).

    Of a clip longer than the classifier's window, the first window is looked at.

    Args:
        predictor: the classifier.
        excerpt: the clip.
        label: one of the classifier's labels.

    Raises:
        AudioError: the clip cannot be read.
    """
    classifier = predictor.classifier
    rate = classifier.sample_rate
    whole = audio.load(excerpt.path, rate, excerpt.start, excerpt.end)[: round(predictor.policy.window_seconds * rate)]
    count = int(np.clip(round(len(whole) / rate / PIECE_SECONDS), 1, MOST_PIECES))
    bounds = np.linspace(0, len(whole), count + 1).astype(int)
    changed = [whole]
    for first, last in itertools.pairwise(bounds):
        silenced = whole.copy()
        silenced[first:last] = 0.0
        changed.append(silenced)
    found = predictor.probabilities(changed)[:, classifier.labels.index(label)]
    return Occlusion(len(whole) / rate / count, tuple(float(found[0] - value) for value in found[1:]))
