"""Synthesised sounds: the hard negatives of the detector's training data, and some more cries.

    samples = make("baby_laugh", seed=7, seconds=5)      # float32, 16 kHz, one channel, peak at most 1
    samples = reverberate(samples, seed=7)               # the same sound in a room

An infant's cry is a row of voiced expirations of 0.5 to 2 s, of 350 to 600 Hz and rich in harmonics, with inspirations
of 0.1 to 0.3 s between them. Nothing here but infant_cry has that course; much has a part of it: its pitch (laughter,
cooing, cats), its harmonics (violins, sirens), its rhythm (smoke alarms, snoring). Every call draws its parameters anew
from the seed, so that one generator gives thousands of different clips.

From bottom to top: courses and envelopes, noise, tones and impacts, the voice, then the generators by kind.
"""

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import signal

RATE = 16_000  # samples a second

Array = npt.NDArray[np.float64]
Rng = np.random.Generator
Generate = Callable[[Rng, int], Array]  # (random numbers, length in samples) -> samples
Event = Callable[[Rng], Array]  # one short sound, of a length of its own
Option = TypeVar("Option")

GENERATORS: dict[str, Generate] = {}
KINDS: dict[str, tuple[str, ...]] = {}


def sound(kind: str) -> Callable[[Generate], Generate]:
    """Enter a generator under its function's name and its kind."""

    def enter(generate: Generate) -> Generate:
        name = generate.__name__
        GENERATORS[name] = generate
        KINDS[kind] = (*KINDS.get(kind, ()), name)
        return generate

    return enter


def make(name: str, seed: int, seconds: float) -> npt.NDArray[np.float32]:
    """One clip of a generator.

    Args:
        name: a generator's name, one of those in `KINDS`.
        seed: the clip's seed (0 or more); the same name, seed and seconds give the same samples.
        seconds: the clip's length.

    Returns:
        (samples,) at 16 kHz; peak at most 1.

    Raises:
        KeyError: no generator has this name.
    """
    rng = np.random.default_rng(np.random.SeedSequence([zlib.crc32(name.encode()), seed]))
    length = round(seconds * RATE)
    # No clip is without a noise floor: pauses of exact zeros would tell synthesised sounds from recorded ones.
    floor = unit(coloured_noise(rng, length, between(rng, 0, 2))) * decibels(between(rng, -72, -30))
    samples = unit(GENERATORS[name](rng, length)) + floor
    loudest = between(rng, -62, -38) if name in KINDS["silence"] else between(rng, -24, -0.5)
    return (unit(samples) * decibels(loudest)).astype(np.float32)


def reverberate(samples: npt.NDArray[np.float32], seed: int) -> npt.NDArray[np.float32]:
    """The sound in a synthetic room, as long and as strong (RMS) as before, peak at most 1.

    The room's impulse response is the direct sound, sparse early reflections, and a tail of noise that decays
    exponentially, high bands faster (Moorer, "About this reverberation business", Computer Music Journal, 1979). The
    reverberation time (RT60) is 0.15 to 1.2 s, the direct sound 12 dB above to 6 dB below the rest.
    """
    rng = np.random.default_rng(np.random.SeedSequence([zlib.crc32(b"reverberate"), seed]))
    response = room_response(rng, between_log(rng, 0.15, 1.2))
    wet = np.asarray(signal.fftconvolve(samples.astype(np.float64), response))[: len(samples)]
    wet *= math.sqrt(float(np.mean(np.square(samples, dtype=np.float64))) / max(float(np.mean(wet**2)), 1e-20))
    return (wet / max(1.0, float(np.abs(wet).max()))).astype(np.float32)


def room_response(rng: Rng, rt60: float) -> Array:
    """A room's impulse response: (samples,), the direct sound of 1 at index 0."""
    length = int(1.1 * rt60 * RATE)
    t = np.arange(length) / RATE
    rest = np.zeros(length)
    reflections = rng.uniform(0.002, 0.06, rng.integers(5, 16))
    rest[(reflections * RATE).astype(int)] = rng.choice([-1, 1], len(reflections)) * 0.01 / (reflections + 0.005)
    onset = 1 - np.exp(-t / between(rng, 0.005, 0.03))
    # An octave band's share of RT60: air and furniture take the high ones first.
    bands = (
        (60, 400, between(rng, 0.9, 1.0)),
        (400, 1600, 1.0),
        (1600, 4000, 0.8),
        (4000, 7600, between(rng, 0.4, 0.7)),
    )
    tail = sum((band_noise_of(rng, length, low, high) * 10 ** (-3 * t / (rt60 * share)) for low, high, share in bands))
    rest = rest / np.linalg.norm(rest) + between(rng, 0.5, 2) * onset * tail / np.linalg.norm(onset * tail)
    rest *= decibels(-between(rng, -6, 12)) / np.linalg.norm(rest)
    rest[0] = 1.0
    return np.asarray(rest)


# --- Numbers, courses over time and envelopes ---


def between(rng: Rng, low: float, high: float) -> float:
    """A number between two, all alike."""
    return float(rng.uniform(low, high))


def between_log(rng: Rng, low: float, high: float) -> float:
    """A number between two, every octave alike: for frequencies, rates and lengths of time."""
    return float(math.exp(rng.uniform(math.log(low), math.log(high))))


def chance(rng: Rng, probability: float) -> bool:
    """True with this probability."""
    return bool(rng.random() < probability)


def one_of(rng: Rng, options: Sequence[Option]) -> Option:
    """One of these, all alike."""
    return options[int(rng.integers(len(options)))]


def decibels(level: float) -> float:
    """A level in dB as a factor of the amplitude."""
    return float(10 ** (level / 20))


def in_samples(seconds: float) -> int:
    """A time in samples, at least 8: an event is never empty."""
    return max(8, round(seconds * RATE))


def unit(samples: Array) -> Array:
    """Scaled to a peak of 1."""
    return samples / max(float(np.abs(samples).max()), 1e-12)


def glide(length: int, values: Sequence[float] | Array) -> Array:
    """A smooth course through equally spaced values: (length,)."""
    points = np.asarray(values, dtype=np.float64)
    position = np.linspace(0, len(points) - 1, length)
    index = np.minimum(position.astype(int), len(points) - 2)
    share = (1 - np.cos(np.pi * (position - index))) / 2
    return np.asarray(points[index] * (1 - share) + points[index + 1] * share)


def wander(rng: Rng, length: int, rate: float) -> Array:
    """A random course about 0 of unit deviation that turns about `rate` times a second: (length,)."""
    return glide(length, rng.standard_normal(2 + math.ceil(length / RATE * rate)))


def swell(length: int, attack: float, release: float) -> Array:
    """1 with a rise of `attack` and a fall of `release` seconds (together the whole length at most): (length,)."""
    shrink = min(1.0, length / max(1.0, (attack + release) * RATE))
    up, down = int(attack * RATE * shrink), int(release * RATE * shrink)
    envelope = np.ones(length)
    envelope[:up] = np.sin(np.linspace(0, np.pi / 2, up)) ** 2
    envelope[length - down :] = np.cos(np.linspace(0, np.pi / 2, down)) ** 2
    return envelope


def decay(length: int, seconds: float) -> Array:
    """A strike's envelope: an attack of 1 ms, then down by 60 dB in `seconds`: (length,)."""
    t = np.arange(length) / RATE
    return np.asarray(10 ** (-3 * t / seconds) * np.minimum(1, t * 1000))


def sequence(
    rng: Rng, length: int, event: Event, pause: tuple[float, float], levels: tuple[float, float] = (0.6, 1)
) -> Array:
    """Events one after the other with pauses (seconds, from-to) between them: (length,)."""
    out = np.zeros(length)
    start = int(between(rng, 0, min(pause[1] * RATE, 0.2 * length)))
    while start < length:
        samples = event(rng)
        out[start : start + len(samples)] += samples[: length - start] * between(rng, *levels)
        start += len(samples) + int(between_log(rng, max(pause[0], 1e-3), max(pause[1], 1e-3)) * RATE)
    return out


def shower(rng: Rng, length: int, event: Event, rate: float, spread: float = 10) -> Array:
    """Events at random times, `rate` a second, that may overlap; levels spread over `spread` dB: (length,)."""
    out = np.zeros(length)
    for start in rng.integers(0, max(1, int(0.9 * length)), 1 + rng.poisson(rate * length / RATE)):
        samples = event(rng)
        out[start : start + len(samples)] += samples[: length - start] * decibels(-between(rng, 0, spread))
    return out


def silence_of(seconds: float) -> Array:
    """Zeros for a time."""
    return np.zeros(in_samples(seconds))


# --- Noise and filters ---


def coloured_noise(rng: Rng, length: int, exponent: float) -> Array:
    """Noise whose power falls with frequency to this exponent (0 white, 1 pink, 2 brown), unit deviation: (length,)."""
    size = 2000 * math.ceil(length / 2000)  # the FFT of a length with a large prime factor takes ten times as long
    frequencies = np.maximum(np.fft.rfftfreq(size, 1 / RATE), 20)
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(size)) * frequencies ** (-exponent / 2), size)[:length]
    return np.asarray(noise / max(float(noise.std()), 1e-12))


def band_filter(samples: Array, low: float, high: float, order: int = 2) -> Array:
    """A Butterworth band pass; a corner outside 25 Hz to 7.6 kHz is moved inside."""
    low, high = max(25.0, min(low, 7000.0)), min(7600.0, max(high, 1.05 * low, 60.0))
    return np.asarray(signal.sosfilt(signal.butter(order, (low, high), "bandpass", fs=RATE, output="sos"), samples))


def band_noise_of(rng: Rng, length: int, low: float, high: float) -> Array:
    """Noise between two frequencies, unit deviation: (length,)."""
    noise = band_filter(rng.standard_normal(length), low, high)
    return np.asarray(noise / max(float(noise.std()), 1e-12))


def resonate(samples: Array, frequencies: Sequence[float] | Array, quality: float) -> Array:
    """The sum of resonators at these frequencies: a body that is driven."""
    out = np.zeros(len(samples))
    for frequency in frequencies:
        b, a = signal.iirpeak(min(max(frequency, 30.0), 7600.0), quality, fs=RATE)
        out += signal.lfilter(b, a, samples)
    return out


def impulses(rng: Rng, length: int, rate: float) -> Array:
    """Impulses at random times, `rate` a second, of very different strengths: (length,)."""
    out = np.zeros(length)
    places = rng.integers(0, length, 1 + rng.poisson(rate * length / RATE))
    out[places] = rng.choice([-1.0, 1.0], len(places)) * rng.exponential(1, len(places)) ** 1.5
    return out


# --- Tones and impacts ---


def phase_of(frequency: Array) -> Array:
    """The phase of an oscillator with this course of frequency in Hz: (length,)."""
    return np.asarray(2 * np.pi * np.cumsum(frequency) / RATE)


def tone(frequency: Array, overtones: Sequence[float] | Array = (1.0,)) -> Array:
    """Harmonics of these strengths over a course of frequency, none above 7.6 kHz: (length,)."""
    phase, highest = phase_of(frequency), float(frequency.max())
    return np.asarray(
        sum(
            (strength * np.sin(k * phase) for k, strength in enumerate(overtones, 1) if k * highest < 7600),
            start=np.zeros(len(frequency)),
        )
    )


def pulses(frequency: Array, brightness: float) -> Array:
    """A row of pulses, all harmonics in cosine phase, strength exp(-f / brightness), unit deviation: (length,).

    The sum has a closed form (Moorer, "The synthesis of complex audio spectra by means of discrete summation formulas",
    1976). With a brightness of 600 (soft) to 2500 Hz (screamed) it falls by 5 to 20 dB an octave about 2 kHz, and what
    folds back at 8 kHz is below -27 dB.
    """
    ratio = np.exp(-frequency / brightness)
    wave = ratio * np.cos(phase_of(frequency))
    return np.asarray((wave - ratio**2) / (1 - 2 * wave + ratio**2) * np.sqrt(1 - ratio**2) / ratio)


def square(frequency: Array) -> Array:
    """A square wave up to 7.6 kHz: (length,)."""
    return tone(frequency, [1 / k if k % 2 else 0 for k in range(1, 16)])


def impact(rng: Rng, frequencies: Sequence[float] | Array, seconds: float, click: float = 0.2) -> Array:
    """A struck body: decaying modes (higher ones sooner) and a click of noise, peak of 1.

    Args:
        rng: draws the modes' strengths and times.
        frequencies: of the modes, in Hz.
        seconds: in which the lowest mode falls by 60 dB; the length.
        click: the noise's share.
    """
    length = in_samples(seconds)
    t = np.arange(length) / RATE
    modes = np.asarray([f for f in frequencies if f < 7600] or [7000.0])
    times = seconds * (modes.min() / modes) ** between(rng, 0.2, 0.8) * rng.uniform(0.6, 1, len(modes))
    waves = np.sin(2 * np.pi * modes[:, None] * t + rng.uniform(0, 6.28, (len(modes), 1)))
    body = (rng.uniform(0.2, 1, (len(modes), 1)) * waves * 10 ** (-3 * t / times[:, None])).sum(0)
    noise = rng.standard_normal(length) * decay(length, min(seconds, between(rng, 0.005, 0.03)))
    return unit((unit(body) + click * noise) * np.minimum(1, t * 2000) * swell(length, 0, min(0.01, seconds / 4)))


def modes_of(rng: Rng, lowest: float, count: int) -> Array:
    """The frequencies of a body's modes in no harmonic order: (count,)."""
    return np.asarray(lowest * np.cumprod(np.concatenate([[1.0], rng.uniform(1.15, 1.9, count - 1)])))


def vibrato(rng: Rng, length: int, depth: float, rate: float) -> Array:
    """Factors of a frequency: a vibrato that sets in gently, of `depth` (a share) and `rate` Hz: (length,)."""
    t = np.arange(length) / RATE
    return np.asarray(1 + depth * np.minimum(1, t / 0.3) * np.sin(2 * np.pi * rate * t + between(rng, 0, 6.28)))


# --- The voice: pulses and breath through formants ---

# Formants in Hz of a man's vowels (after Peterson and Barney, 1952); @ is the neutral vowel, m the closed mouth.
VOWELS = {
    "a": (730, 1090, 2440, 3400, 4500),
    "e": (530, 1840, 2480, 3500, 4500),
    "i": (270, 2290, 3010, 3700, 4600),
    "o": (570, 840, 2410, 3300, 4400),
    "u": (300, 870, 2240, 3300, 4400),
    "@": (500, 1500, 2500, 3500, 4500),
    "m": (250, 1000, 2100, 3200, 4300),
}
WIDTHS = (80, 100, 140, 200, 250)  # the formants' bandwidths in Hz
# What formants are multiplied by: the vocal tract's length, a man's over the speaker's.
TRACTS: dict[str, tuple[float, float]] = {
    "baby": (1.6, 1.9),
    "child": (1.3, 1.5),
    "woman": (1.1, 1.2),
    "man": (0.92, 1.05),
}


@dataclass(frozen=True)
class Speaker:
    """A voice: what stays the same over a clip."""

    tract: Array  # (5,) what each formant is multiplied by
    damping: float  # what the formants' bandwidths are multiplied by
    brightness: float  # of the pulses, in Hz
    breath: float  # noise against voice
    air: float  # the noise falls by 6 dB an octave above this frequency in Hz
    jitter: float  # random change of the frequency from one period to the next (a share)
    roughness: float = 0.0  # strength of every second pulse's change and of slow noise


def speaker(
    rng: Rng,
    tract: tuple[float, float],
    brightness: tuple[float, float] = (700, 1800),
    breath: tuple[float, float] = (0.03, 0.3),
    roughness: tuple[float, float] = (0, 0.15),
) -> Speaker:
    """A voice drawn from these ranges."""
    return Speaker(
        tract=between(rng, *tract) * rng.uniform(0.92, 1.08, 5),
        damping=between_log(rng, 0.8, 2.2),
        brightness=between_log(rng, *brightness),
        breath=between_log(rng, *breath),
        air=between_log(rng, 500, 5000),
        jitter=between_log(rng, 0.003, 0.02),
        roughness=between(rng, *roughness),
    )


def air_of(rng: Rng, length: int, person: Speaker) -> Array:
    """The noise of breath in the throat, unit deviation: (length,)."""
    pole = math.exp(-2 * math.pi * person.air / RATE)
    noise = np.asarray(signal.lfilter([1.0], [1.0, -pole], rng.standard_normal(length)))
    return np.asarray(noise * math.sqrt(1 - pole**2))


def formants(samples: Array, person: Speaker, vowels: str) -> Array:
    """A source through the mouth: resonators in a row, passing smoothly from vowel to vowel: (length,)."""
    out = np.zeros(len(samples))
    for index, vowel in enumerate(vowels):
        frequencies = np.asarray(VOWELS[vowel]) * person.tract
        widths = np.asarray(WIDTHS) * person.tract * person.damping
        sections = [resonator(f, width) for f, width in zip(frequencies, widths, strict=True) if f < 7600]
        weight = glide(len(samples), np.eye(len(vowels))[index]) if len(vowels) > 1 else np.ones(1)
        out += weight * signal.sosfilt(sections, samples)
    return out


def resonator(frequency: float, width: float) -> list[float]:
    """A two-pole resonator as a second-order section, gain 1 at 0 Hz (Klatt, JASA 67, 1980)."""
    radius = math.exp(-math.pi * width / RATE)
    a1, a2 = -2 * radius * math.cos(2 * math.pi * frequency / RATE), radius**2
    return [1 + a1 + a2, 0, 0, 1, a1, a2]


def voice(rng: Rng, person: Speaker, frequency: Array, envelope: Array, vowels: str, voicing: float = 1) -> Array:
    """A voiced or breathed sound.

    Args:
        rng: draws jitter, shimmer and breath.
        person: the voice.
        frequency: (length,) the course of F0 in Hz.
        envelope: (length,) the course of loudness.
        vowels: passed through one after the other, keys of `VOWELS`.
        voicing: 1 voiced, 0 only breath.

    Returns:
        (length,) with a peak of about the envelope's.
    """
    length = len(frequency)
    flutter = band_noise_of(rng, length, 30, 300) if length > 400 else np.zeros(length)
    shaken = frequency * (1 + person.jitter * flutter)
    source = pulses(shaken, person.brightness) * (1 + 3 * person.jitter * np.roll(flutter, 40))
    if person.roughness > 0.02:
        source *= 1 + person.roughness * (np.cos(phase_of(shaken) / 2) + np.roll(flutter, 80))
    breath = air_of(rng, length, person) * (1 + 0.5 * np.cos(phase_of(shaken))) * max(person.breath, 1 - voicing)
    return unit(formants((voicing * source + breath) * envelope, person, vowels)) * float(envelope.max())


def breath_of(rng: Rng, person: Speaker, seconds: float, vowels: str = "@") -> Array:
    """A breath, in or out, peak of 1."""
    length = in_samples(seconds)
    envelope = swell(length, seconds * between(rng, 0.2, 0.6), seconds * between(rng, 0.2, 0.5))
    return unit(formants(air_of(rng, length, person) * envelope, person, vowels))


def burst(rng: Rng, seconds: float, low: float, high: float) -> Array:
    """A short noise with a sharp attack, peak of 1: a plosive, a click, a spray."""
    length = in_samples(seconds)
    return unit(band_filter(rng.standard_normal(length) * decay(length, seconds), low, high))


# --- An infant's cry ---


@dataclass(frozen=True)
class Crying:
    """How one baby cries: what stays the same over a clip."""

    person: Speaker
    pitch: float  # Hz, of the middle of an expiration
    seconds: float  # of an expiration
    arch: float  # how far its pitch rises (a share)
    tremor: float  # of its loudness
    rough: float  # chance that a part of it is noise without pitch (dysphonation)
    high: float  # chance that a part of it jumps up (hyperphonation)
    gasps: float  # chance that a breath in is voiced
    rests: float  # chance of a pause after it
    vowels: str


def crying(rng: Rng) -> Crying:
    """From fussing, short and with rests, to pain, long and rough.

    Voiced, hoarse and high parts are those of LaGasse, Neal and Lester, "Assessment of infant cry", 2005.
    """
    pain = between(rng, 0, 1)
    return Crying(
        person=speaker(rng, (1.3, 1.9), (1000, 3000), (0.02, 0.35), (0, 0.35)),
        pitch=between_log(rng, 320, 580),
        seconds=between_log(rng, 0.45, 0.8 + 1.6 * pain),
        arch=between(rng, 0.02, 0.3),
        tremor=between(rng, 0, 0.5),
        rough=between(rng, 0, 0.5) ** 2 + between(rng, 0, 0.4) * pain,
        high=between(rng, 0, 0.25),
        gasps=between(rng, 0, 0.5),
        rests=between(rng, 0, 0.3) * (1.2 - pain),
        vowels=one_of(rng, ("a", "ae", "e", "@a", "a@", "ea", "@e", "@", "e@")),
    )


def part_of(rng: Rng, length: int) -> Array:
    """1 in a random part of a sound, 0 elsewhere, with slopes of 25 ms: (length,)."""
    first, last = sorted(rng.integers(0, length, 2))
    inside = np.zeros(length)
    inside[first:last] = 1
    slope = np.hanning(min(401, length // 2 * 2 - 1))
    return np.convolve(inside, slope / slope.sum(), "same")


def cry_expiration(rng: Rng, baby: Crying) -> Array:
    """One voiced expiration: its pitch rises, holds and falls, and parts of it may break; peak of about 1."""
    seconds = min(3.5, max(0.3, baby.seconds * math.exp(rng.normal(0, 0.35))))
    size = in_samples(seconds)
    rise, fall = between(rng, 0, 1.3) * baby.arch, between(rng, 0.3, 1.8) * baby.arch
    held = rng.uniform(1 - 0.3 * baby.arch, 1 + 0.7 * baby.arch, 3)
    frequency = baby.pitch * math.exp(rng.normal(0, 0.08)) * glide(size, (1 - rise, *held, 1 - fall))
    frequency *= 1 + between_log(rng, 0.003, 0.03) * wander(rng, size, between(rng, 5, 14))
    if chance(rng, baby.high):
        frequency *= 1 + (between(rng, 1.7, 2.4) - 1) * (part_of(rng, size) > 0.5)
    envelope = swell(size, between(rng, 0.03, 0.15), between(rng, 0.05, 0.35) * seconds)
    envelope *= np.clip(1 + 0.15 * wander(rng, size, 6), 0.3, 2)
    trembling = phase_of(between(rng, 6, 11) + wander(rng, size, 3))
    envelope *= 1 - baby.tremor * between(rng, 0, 1) * (0.5 + 0.5 * np.sin(trembling))
    samples = voice(rng, baby.person, np.clip(frequency, 200, 1600), envelope, baby.vowels)
    if chance(rng, baby.rough):
        noise = band_noise_of(rng, size, 300, 6000) * (1 + 0.5 * np.cos(phase_of(frequency / 2))) * envelope
        share = part_of(rng, size)
        samples = (1 - 0.7 * share) * samples + 0.6 * share * unit(formants(noise, baby.person, baby.vowels))
    return samples


def cry_inspiration(rng: Rng, baby: Crying) -> Array:
    """The breath in between two expirations, some of them with voice."""
    seconds = between(rng, 0.1, 0.4)
    if not chance(rng, baby.gasps):
        return breath_of(rng, baby.person, seconds) * between_log(rng, 0.02, 0.3)
    size = in_samples(seconds)
    frequency = baby.pitch * between(rng, 0.9, 1.8) * glide(size, (1, between(rng, 1, 1.4)))
    gasp = voice(rng, baby.person, np.clip(frequency, 250, 1400), swell(size, 0.05, 0.05), "@", between(rng, 0.2, 0.9))
    return gasp * between(rng, 0.1, 0.5)


@sound("cry")
def infant_cry(rng: Rng, length: int) -> Array:
    """A baby that cries: expirations of 0.3 to 3.5 s with a breath in after each."""
    baby = crying(rng)

    def event(rng: Rng) -> Array:
        parts = [cry_expiration(rng, baby), silence_of(between(rng, 0.01, 0.15)), cry_inspiration(rng, baby)]
        rest = between(rng, 0.3, 1.5) if chance(rng, baby.rests) else 0.0
        return np.concatenate([*parts, silence_of(rest)])

    samples = sequence(rng, length, event, (0.01, 0.15), (between(rng, 0.3, 0.9), 1))
    return np.asarray(signal.lfilter([1, -between(rng, 0, 0.85)], [1], samples))  # the lips radiate high tones better


# --- Laughter ---


def laugh_syllable(rng: Rng, person: Speaker, pitch: float, period: float, vowels: str, voicing: float) -> Array:
    """A "ha" of one period of the laugh's rhythm: noise of an h, a voiced part of 60 to 180 ms, a gap."""
    seconds = min(max(between(rng, 0.35, 0.65) * period, 0.06), 0.18)
    whole, size, start = in_samples(period), in_samples(seconds), in_samples(between(rng, 0.1, 0.35) * period)
    size = min(size, whole - start)
    frequency = pitch * glide(size, (between(rng, 0.85, 1.08), 1, between(rng, 0.7, 1)))
    envelope = swell(size, seconds * between(rng, 0.15, 0.35), seconds * between(rng, 0.3, 0.6))
    out = np.zeros(whole)
    out[start : start + size] = voice(rng, person, frequency, envelope, vowels, voicing)
    h = breath_of(rng, person, min(1.2 * start / RATE, 0.12), vowels[0])[:whole]  # reaches into the vowel
    out[: len(h)] += h * min(0.5, 1.5 * person.breath) * between(rng, 0.2, 1)
    return out


def laugh_breath(rng: Rng, person: Speaker, pitch: float) -> Array:
    """The breath in after a bout, one time in five with voice."""
    if chance(rng, 0.8):
        return breath_of(rng, person, between(rng, 0.15, 0.5)) * between_log(rng, 0.02, 0.25)
    size = in_samples(between(rng, 0.1, 0.22))
    gasp = voice(rng, person, pitch * glide(size, (1, 1.3)), swell(size, 0.06, 0.05), "@", between(rng, 0.2, 0.8))
    return gasp * between(rng, 0.05, 0.4)


def laugh_bout(
    rng: Rng, person: Speaker, pitches: tuple[float, float], tempo: float, counts: tuple[int, int], breathy: float
) -> Array:
    """Syllables on one breath with F0 and loudness falling, then a breath in."""
    count = int(rng.integers(counts[0], counts[1] + 1))
    pitch = between_log(rng, 1.1 * pitches[0], pitches[1])
    fall, fade, slowing = between(rng, 0, 0.35), between(rng, 0.2, 0.8), between(rng, 0, 0.12)
    vowels = one_of(rng, ("a", "e", "@", "ae", "i", "o", "@a", "@e", "a@"))
    parts = []
    for index in range(count):
        done = index / count
        now = min(max(pitch * (1 - fall * done) * math.exp(rng.normal(0, 0.06)), pitches[0]), pitches[1])
        voicing = 0.1 if chance(rng, breathy) else 1.0
        period = 1 / (tempo * (1 - slowing * done)) * math.exp(rng.normal(0, 0.04))
        level = (1 - fade * done) * between(rng, 0.6, 1) * min(1, 0.5 + 0.5 * index) * (0.4 if voicing < 1 else 1)
        parts.append(level * laugh_syllable(rng, person, now, period, vowels, voicing))
    return np.concatenate([*parts, silence_of(between(rng, 0.02, 0.15)), laugh_breath(rng, person, pitch)])


def squeal(rng: Rng, person: Speaker, low: float, high: float, seconds: float) -> Array:
    """A short glide high up: joy, not distress."""
    length = in_samples(seconds)
    frequency = glide(length, rng.uniform(low, high, 3))
    return voice(rng, person, frequency, swell(length, 0.3 * seconds, 0.4 * seconds), one_of(rng, ("i", "ei", "e")))


def laugh(
    rng: Rng,
    length: int,
    who: str,
    pitches: tuple[float, float],
    tempos: tuple[float, float],
    squeals: float = 0,
    counts: tuple[int, int] = (3, 12),
) -> Array:
    """Bouts of laughter of one person."""
    person = speaker(rng, TRACTS[who], breath=(0.05, 0.6))
    middle = between_log(rng, 1.15 * pitches[0], pitches[1] / 1.15)
    own = (max(pitches[0], middle / 1.35), min(pitches[1], middle * 1.35))
    tempo, breathy = between(rng, *tempos), between(rng, 0, 0.4) ** 2

    def bout(rng: Rng) -> Array:
        laughed = laugh_bout(rng, person, own, tempo, counts, breathy)
        if not chance(rng, squeals):
            return laughed
        high = squeal(rng, person, 1.3 * middle, min(1300, 2.5 * middle), between(rng, 0.12, 0.4))
        return np.concatenate([high, silence_of(between(rng, 0.05, 0.2)), laughed])

    return sequence(rng, length, bout, (0.08, between(rng, 0.3, 1.2)))


@sound("laughter")
def baby_laugh(rng: Rng, length: int) -> Array:
    """A baby's laughter, with squeals."""
    return laugh(rng, length, "baby", (250, 700), (3.5, 6.5), squeals=between(rng, 0, 0.4))


@sound("laughter")
def child_laugh(rng: Rng, length: int) -> Array:
    """A child's laughter."""
    return laugh(rng, length, "child", (220, 500), (3.8, 6.2), squeals=between(rng, 0, 0.2))


@sound("laughter")
def adult_laugh(rng: Rng, length: int) -> Array:
    """A man's or a woman's laughter."""
    if chance(rng, 0.5):
        return laugh(rng, length, "woman", (170, 350), (3.8, 5.8))
    return laugh(rng, length, "man", (110, 240), (3.6, 5.5))


@sound("laughter")
def giggle(rng: Rng, length: int) -> Array:
    """Fast and high laughter in short bouts."""
    return laugh(rng, length, one_of(rng, ("baby", "child", "woman")), (350, 800), (5.5, 8), counts=(3, 9))


# --- Voices that do not cry ---


@sound("voice")
def babble_coo(rng: Rng, length: int) -> Array:
    """A happy baby: ba-da-ga and short vowels, soft, with long pauses."""
    person = speaker(rng, TRACTS["baby"], (350, 750), (0.02, 0.2), (0, 0.05))
    middle = between(rng, 280, 400)

    def syllable(rng: Rng, vowels: str, consonant: bool, seconds: float) -> Array:
        size = in_samples(seconds)
        frequency = np.clip(middle * glide(size, rng.uniform(0.85, 1.2, 3)), 250, 450)
        samples = voice(
            rng, person, frequency, swell(size, 0.02 if consonant else 0.3 * seconds, 0.5 * seconds), vowels
        )
        if consonant:
            stop = burst(rng, 0.02, *((300, 1500) if chance(rng, 0.5) else (2500, 6000)))
            samples[: len(stop)] += 0.2 * stop
        return samples

    def utterance(rng: Rng) -> Array:
        vowel = one_of(rng, ("a", "e", "@", "o"))
        if chance(rng, 0.45):
            vowels = one_of(rng, ("u", "o", "uo", "a@", "@a", "ai", "m" + vowel))
            return syllable(rng, vowels, False, between(rng, 0.2, 0.6))
        repeats, gap = int(rng.integers(1, 6)), between(rng, 0.02, 0.1)
        parts = [syllable(rng, "@" + vowel, True, between(rng, 0.12, 0.28)) for _ in range(repeats)]
        return np.concatenate([piece for part in parts for piece in (part, silence_of(gap))])

    return sequence(rng, length, utterance, (0.4, between(rng, 1, 2.5)), (0.4, 1))


@sound("voice")
def adult_sob(rng: Rng, length: int) -> Array:
    """A grown-up who weeps: breathy, low, shuddering, with sniffs."""
    woman = chance(rng, 0.6)
    person = speaker(rng, TRACTS["woman" if woman else "man"], (500, 1200), (0.2, 0.8), (0, 0.3))
    middle = between(rng, 180, 280) if woman else between(rng, 115, 180)

    def sob(rng: Rng) -> Array:
        size = in_samples(between(rng, 0.4, 1.6))
        shudder = 1 - between(rng, 0.3, 0.9) * (0.5 + 0.5 * np.sin(phase_of(between(rng, 5, 9) + wander(rng, size, 3))))
        frequency = np.clip(middle * glide(size, (1, between(rng, 1, 1.15), between(rng, 0.75, 0.95))), 110, 300)
        cry = voice(rng, person, frequency, shudder * swell(size, 0.08, 0.3), one_of(rng, ("@", "u", "o@", "a@")))
        sniffs = [0.2 * breath_of(rng, person, between(rng, 0.08, 0.25), "i") for _ in range(rng.integers(1, 4))]
        gaps = [silence_of(between(rng, 0.03, 0.2)) for _ in sniffs]
        return np.concatenate([cry, *(part for pair in zip(gaps, sniffs, strict=True) for part in pair)])

    return sequence(rng, length, sob, (0.2, 1.2))


@sound("voice")
def scream(rng: Rng, length: int) -> Array:
    """A scream of a child or a grown-up, high and rough."""
    person = speaker(rng, TRACTS[one_of(rng, ("child", "woman", "man"))], (1500, 2500), (0.05, 0.4), (0.1, 0.6))
    middle = between_log(rng, 750, 1250)

    def event(rng: Rng) -> Array:
        seconds = between_log(rng, 0.3, 2.2)
        size = in_samples(seconds)
        frequency = middle * glide(size, (between(rng, 0.7, 1), *rng.uniform(0.9, 1.15, 2), between(rng, 0.6, 1)))
        frequency = np.clip(frequency * (1 + 0.02 * wander(rng, size, 20)), 600, 1500)
        return voice(rng, person, frequency, swell(size, 0.05, 0.15), one_of(rng, ("a", "ae", "i", "e", "ai")))

    return sequence(rng, length, event, (0.3, 2))


@sound("voice")
def shout(rng: Rng, length: int) -> Array:
    """Calls such as "hey" and "hallo" of a child or a grown-up."""
    who = one_of(rng, ("child", "woman", "man"))
    person = speaker(rng, TRACTS[who], (1200, 2400), (0.03, 0.15), (0, 0.3))
    middle = between_log(rng, *{"child": (300, 480), "woman": (250, 420), "man": (150, 300)}[who])

    def call(rng: Rng) -> Array:
        parts = []
        for _ in range(rng.integers(1, 4)):
            seconds = between(rng, 0.12, 0.45)
            size = in_samples(seconds)
            frequency = middle * glide(size, (between(rng, 0.8, 1), between(rng, 1, 1.3), between(rng, 0.7, 1)))
            vowels = one_of(rng, ("ei", "ao", "o", "a", "i", "uo", "@e"))
            spoken = voice(rng, person, frequency, swell(size, 0.03, 0.08), vowels)
            parts += [0.15 * burst(rng, 0.06, 800, 6000), spoken, silence_of(between(rng, 0.01, 0.12))]
        return np.concatenate(parts)

    return sequence(rng, length, call, (0.3, 1.8))


@sound("voice")
def cough(rng: Rng, length: int) -> Array:
    """Coughing in fits: a burst, a wheeze and often a short voiced end."""
    who = one_of(rng, ("baby", "child", "woman", "man"))
    person = speaker(rng, TRACTS[who], breath=(0.3, 1))
    middle = between_log(rng, *{"baby": (300, 500), "child": (250, 400), "woman": (180, 320), "man": (100, 200)}[who])

    def fit(rng: Rng) -> Array:
        parts = []
        for index in range(rng.integers(1, 5)):
            size = in_samples(between(rng, 0.15, 0.35))
            noise = air_of(rng, size, person) * decay(size, between(rng, 0.15, 0.4))
            blast = unit(formants(noise, person, one_of(rng, ("a", "@", "o"))))
            tail = in_samples(between(rng, 0.05, 0.15))
            voiced = voice(rng, person, middle * glide(tail, (1.1, 0.8)), swell(tail, 0.02, 0.05), "@")
            blast[-min(tail, size) :] += voiced[:size] * between(rng, 0, 0.4)
            parts += [blast * 0.85**index, silence_of(between(rng, 0.05, 0.25))]
        return np.concatenate(parts)

    return sequence(rng, length, fit, (0.4, 2.5))


@sound("voice")
def sneeze(rng: Rng, length: int) -> Array:
    """A breath in, "ha", and the blast."""
    who = one_of(rng, ("baby", "child", "woman", "man"))
    person = speaker(rng, TRACTS[who], breath=(0.2, 0.6))
    middle = between_log(rng, *{"baby": (350, 600), "child": (280, 450), "woman": (200, 350), "man": (110, 220)}[who])

    def event(rng: Rng) -> Array:
        size = in_samples(between(rng, 0.1, 0.35))
        intake = voice(rng, person, middle * glide(size, (0.8, 1.2)), swell(size, 0.08, 0.03), "@a", between(rng, 0, 1))
        blast = burst(rng, between(rng, 0.2, 0.5), between(rng, 500, 2500), 7000)
        tail = in_samples(between(rng, 0.1, 0.3))
        voiced = voice(
            rng, person, middle * glide(tail, (1.3, 0.7)), swell(tail, 0.02, 0.1), one_of(rng, ("u", "o", "a"))
        )
        blast[: min(tail, len(blast))] += voiced[: len(blast)] * between(rng, 0, 0.8)
        return np.concatenate([intake * between(rng, 0.1, 0.5), silence_of(between(rng, 0.02, 0.3)), blast])

    return sequence(rng, length, event, (0.6, 3))


@sound("voice")
def snore(rng: Rng, length: int) -> Array:
    """Snoring: a fluttering palate on the breath in, a hiss on the breath out."""
    person = speaker(rng, TRACTS[one_of(rng, ("child", "woman", "man"))], (400, 900), (0.3, 1.2))
    rate, breathing_in = between_log(rng, 25, 90), between(rng, 0.7, 1.6)

    def cycle(rng: Rng) -> Array:
        seconds = breathing_in * between(rng, 0.85, 1.15)
        size = in_samples(seconds)
        flutter = rate * (1 + 0.15 * wander(rng, size, 15))
        snored = voice(rng, person, flutter, swell(size, 0.4 * seconds, 0.3 * seconds), one_of(rng, ("@", "o", "u")))
        hiss = breath_of(rng, person, between(rng, 0.6, 1.4), one_of(rng, ("@", "i"))) * between(rng, 0.02, 0.3)
        return np.concatenate([snored, silence_of(between(rng, 0.05, 0.4)), hiss])

    return sequence(rng, length, cycle, (0.2, 1.2), (0.7, 1))


@sound("voice")
def breathing(rng: Rng, length: int) -> Array:
    """Breathing alone, asleep or out of breath."""
    person = speaker(rng, TRACTS[one_of(rng, ("baby", "child", "woman", "man"))])
    seconds = between_log(rng, 0.25, 1.8)

    def cycle(rng: Rng) -> Array:
        taken = breath_of(rng, person, seconds * between(rng, 0.8, 1.2), one_of(rng, ("@", "i")))
        given = breath_of(rng, person, seconds * between(rng, 0.9, 1.5), one_of(rng, ("@", "a", "u")))
        return np.concatenate([taken * between(rng, 0.3, 1), silence_of(0.1 * seconds), given])

    return sequence(rng, length, cycle, (0.05 * seconds, seconds), (0.7, 1))


@sound("voice")
def whisper(rng: Rng, length: int) -> Array:
    """Whispered syllables and hushing."""
    person = speaker(rng, TRACTS[one_of(rng, ("child", "woman", "man"))])
    hush = chance(rng, 0.3)

    def phrase(rng: Rng) -> Array:
        if hush:
            seconds = between(rng, 0.3, 1.2)
            noise = band_noise_of(rng, in_samples(seconds), between(rng, 1500, 2500), between(rng, 4500, 7000))
            return unit(noise * swell(len(noise), 0.3 * seconds, 0.3 * seconds))
        parts = []
        for _ in range(rng.integers(2, 10)):
            vowels = one_of(rng, ("a", "e", "i", "o", "u", "ai", "@e"))
            parts.append(breath_of(rng, person, between(rng, 0.08, 0.22), vowels) * between(rng, 0.4, 1))
            parts.append(burst(rng, between(rng, 0.02, 0.1), between(rng, 1000, 4000), 7500) * between(rng, 0, 0.6))
        return np.concatenate(parts)

    return sequence(rng, length, phrase, (0.2, 1.2))


def scale_of(rng: Rng, low: float, high: float) -> Array:
    """The frequencies of a major, minor or pentatonic scale between two: (notes,)."""
    steps = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9))[rng.integers(3)]
    root = between_log(rng, low, min(high, 2 * low))
    notes = np.asarray([root * 2 ** (octave + step / 12) for octave in range(-1, 7) for step in steps])
    within = notes[(notes >= low) & (notes <= high)]
    return within if len(within) > 2 else np.geomspace(low, high, 5)


def melody(rng: Rng, low: float, high: float) -> Callable[[Rng], float]:
    """A walk over a scale: every call gives the next note's frequency."""
    notes = scale_of(rng, low, high)
    place = [int(rng.integers(len(notes)))]

    def following(rng: Rng) -> float:
        place[0] = int(np.clip(place[0] + rng.choice([-3, -2, -1, -1, 0, 1, 1, 2, 3]), 0, len(notes) - 1))
        return float(notes[place[0]])

    return following


def played(
    rng: Rng,
    length: int,
    pitches: tuple[float, float],
    beats: tuple[float, float],
    note: Callable[[Rng, float, float], Array],
) -> Array:
    """A melody in a rhythm; `note` is given (random numbers, frequency in Hz, seconds to the next note): (length,)."""
    following, beat = melody(rng, *pitches), between_log(rng, *beats)
    out, start = np.zeros(length), int(between(rng, 0, min(0.5 * RATE, 0.1 * length)))
    while start < length:
        seconds = beat * float(rng.choice([0.5, 1, 1, 1, 2]))
        if not chance(rng, 0.08):
            samples = note(rng, following(rng), seconds)[: length - start] * between(rng, 0.6, 1)
            out[start : start + len(samples)] += samples
        start += in_samples(seconds)
    return out if out.any() else played(rng, length, pitches, beats, note)


@sound("singing")
def singing(rng: Rng, length: int) -> Array:
    """A woman or a child who sings vowels with vibrato."""
    who = one_of(rng, ("child", "woman", "woman"))
    person = speaker(rng, TRACTS[who], (700, 1600), (0.02, 0.1), (0, 0.03))
    depth, rate = between(rng, 0.003, 0.03), between(rng, 4.5, 6.5)
    previous: list[float] = []

    def note(rng: Rng, pitch: float, seconds: float) -> Array:
        size = in_samples(seconds * between(rng, 0.85, 1))
        start = pitch * between(rng, 0.95, 1) if not previous or chance(rng, 0.4) else previous[-1]
        previous.append(pitch)
        reach = np.minimum(1, np.arange(size) / (0.07 * RATE))
        frequency = (start + (pitch - start) * reach) * vibrato(rng, size, depth, rate)
        return voice(rng, person, frequency, swell(size, 0.05, 0.08), one_of(rng, ("a", "e", "i", "o", "u")))

    return played(rng, length, (260, 700) if who == "child" else (190, 620), (0.25, 1.1), note)


@sound("singing")
def humming(rng: Rng, length: int) -> Array:
    """A melody hummed with the mouth closed."""
    who = one_of(rng, ("child", "woman", "man"))
    person = speaker(rng, TRACTS[who], (300, 700), (0.02, 0.1), (0, 0.03))
    pitches = {"child": (250, 500), "woman": (170, 400), "man": (90, 230)}[who]

    def note(rng: Rng, pitch: float, seconds: float) -> Array:
        size = in_samples(seconds)
        frequency = pitch * glide(size, (between(rng, 0.95, 1), 1, 1)) * vibrato(rng, size, 0.006, 5)
        return voice(rng, person, frequency, swell(size, 0.06, 0.06), "m")

    return played(rng, length, pitches, (0.25, 0.9), note)


# --- Animals ---


def animal(rng: Rng, tract: float, frequency: Array, envelope: Array, vowels: str, noise: float, rough: float) -> Array:
    """An animal's voice: the human one with another tract."""
    person = speaker(rng, (tract, tract), (1000, 2200), (noise, noise), (rough, rough))
    return voice(rng, person, frequency, envelope, vowels)


@sound("animal")
def cat_meow(rng: Rng, length: int) -> Array:
    """A cat's meow: the mouth opens and closes over a rise and fall of the pitch."""
    tract, middle = between(rng, 1.5, 2.1), between_log(rng, 480, 750)

    def event(rng: Rng) -> Array:
        seconds = between(rng, 0.3, 1)
        size = in_samples(seconds)
        course = (between(rng, 0.75, 0.95), between(rng, 1, 1.25), between(rng, 0.95, 1.15), between(rng, 0.6, 0.9))
        frequency = np.clip(middle * glide(size, course) * (1 + 0.01 * wander(rng, size, 12)), 400, 900)
        envelope = swell(size, 0.25 * seconds, 0.4 * seconds)
        vowels = one_of(rng, ("mieao", "iau", "meao", "ieau", "miau", "eao"))
        return animal(rng, tract, frequency, envelope, vowels, between(rng, 0.03, 0.2), between(rng, 0, 0.25))

    return sequence(rng, length, event, (0.4, between(rng, 1, 3)))


@sound("animal")
def kitten(rng: Rng, length: int) -> Array:
    """A kitten's mews: high and short."""
    tract, middle = between(rng, 2.1, 2.8), between_log(rng, 850, 1500)

    def event(rng: Rng) -> Array:
        seconds = between(rng, 0.12, 0.5)
        size = in_samples(seconds)
        frequency = middle * glide(size, (between(rng, 0.75, 0.95), between(rng, 1, 1.2), between(rng, 0.7, 0.95)))
        envelope = swell(size, 0.25 * seconds, 0.4 * seconds)
        return animal(
            rng, tract, frequency, envelope, one_of(rng, ("ie", "iei", "i", "mie")), between(rng, 0.02, 0.15), 0
        )

    return sequence(rng, length, event, (0.2, between(rng, 0.6, 1.8)))


@sound("animal")
def dog_bark(rng: Rng, length: int) -> Array:
    """Barking, from a large dog's to a small one's."""
    size_of_dog = between(rng, 0, 1)  # 0 large, 1 small
    tract, middle = 0.8 + 0.8 * size_of_dog, 200 * 4**size_of_dog * between(rng, 0.85, 1.15)

    def event(rng: Rng) -> Array:
        parts = []
        for _ in range(rng.integers(1, 5)):
            seconds = between(rng, 0.08, 0.22)
            size = in_samples(seconds)
            frequency = middle * glide(size, (0.75, between(rng, 1, 1.25), 0.65))
            envelope = swell(size, 0.015, 0.6 * seconds)
            vowels = one_of(rng, ("uao", "a@", "ao", "oa"))
            parts.append(
                animal(rng, tract, frequency, envelope, vowels, between(rng, 0.2, 0.8), between(rng, 0.2, 0.7))
            )
            parts.append(silence_of(between(rng, 0.08, 0.35)))
        return np.concatenate(parts)

    return sequence(rng, length, event, (0.2, 1.8))


@sound("animal")
def dog_whine(rng: Rng, length: int) -> Array:
    """A dog's whine: a thin, wavering, nearly pure tone."""
    middle, air = between_log(rng, 500, 1600), between_log(rng, 0.003, 0.1)

    def event(rng: Rng) -> Array:
        size = in_samples(between_log(rng, 0.15, 1.3))
        frequency = middle * glide(size, rng.uniform(0.75, 1.3, 4)) * (1 + 0.015 * wander(rng, size, 15))
        wave = tone(frequency, np.power(10, -np.arange(5) * between(rng, 0.4, 0.8)))
        return unit((wave + air * band_noise_of(rng, size, middle, 4 * middle)) * swell(size, 0.06, 0.15))

    return sequence(rng, length, event, (0.08, 0.9))


@sound("animal")
def bird_chirp(rng: Rng, length: int) -> Array:
    """Songbirds: fast sweeps, trills and repeated phrases."""

    def bird(rng: Rng) -> Event:
        middle, seconds = between_log(rng, 1800, 5500), between_log(rng, 0.03, 0.2)
        shape, repeats, gap = rng.uniform(0.7, 1.35, rng.integers(2, 5)), rng.integers(2, 13), between(rng, 0.01, 0.1)
        shaking = between(rng, 0, 0.06) if chance(rng, 0.4) else 0.0

        def phrase(rng: Rng) -> Array:
            size = in_samples(seconds)
            frequency = middle * glide(size, shape) * vibrato(rng, size, shaking, 40)
            chirp = tone(frequency, (1, between(rng, 0, 0.2))) * swell(size, 0.2 * seconds, 0.4 * seconds)
            return np.tile(np.concatenate([chirp, silence_of(gap)]), int(repeats))

        return phrase

    song = sequence(rng, length, bird(rng), (0.2, 1.5))
    return song + between(rng, 0, 0.5) * sequence(rng, length, bird(rng), (0.3, 2))


@sound("animal")
def gull(rng: Rng, length: int) -> Array:
    """A gull's calls: a falling cry, over and over."""
    middle, tract = between_log(rng, 650, 1200), between(rng, 1.5, 2.2)

    def event(rng: Rng) -> Array:
        seconds, parts = between(rng, 0.15, 0.6), []
        for _ in range(rng.integers(1, 8)):
            size = in_samples(seconds * between(rng, 0.8, 1.2))
            frequency = middle * glide(size, (0.8, between(rng, 1.1, 1.3), 1, between(rng, 0.6, 0.85)))
            envelope = swell(size, 0.04, 0.3 * seconds)
            parts += [
                animal(rng, tract, frequency, envelope, "ia", 0.1, between(rng, 0, 0.4)),
                silence_of(0.3 * seconds),
            ]
        return np.concatenate(parts)

    return sequence(rng, length, event, (0.3, 1.5))


@sound("animal")
def rooster(rng: Rng, length: int) -> Array:
    """Cock-a-doodle-doo."""
    middle, tract = between_log(rng, 550, 850), between(rng, 1.3, 1.9)

    def event(rng: Rng) -> Array:
        parts = []
        for pitch, seconds in ((0.8, 0.18), (1.1, 0.15), (1.0, 0.2), (1.25, between(rng, 0.5, 1))):
            size = in_samples(seconds * between(rng, 0.85, 1.2))
            frequency = middle * pitch * glide(size, (0.9, 1.05, 1, between(rng, 0.65, 0.9)))
            parts.append(animal(rng, tract, frequency, swell(size, 0.03, 0.12), "@ao", 0.1, between(rng, 0, 0.5)))
            parts.append(silence_of(between(rng, 0.02, 0.08)))
        return np.concatenate(parts)

    return sequence(rng, length, event, (0.8, 3))


@sound("animal")
def goat(rng: Rng, length: int) -> Array:
    """A goat's or sheep's bleat, chopped 8 to 14 times a second."""
    middle, tract, rate = between_log(rng, 150, 420), between(rng, 0.9, 1.5), between(rng, 8, 14)

    def event(rng: Rng) -> Array:
        seconds = between(rng, 0.4, 1.3)
        size = in_samples(seconds)
        tremble = np.sin(phase_of(rate + 0.5 * wander(rng, size, 4)))
        frequency = middle * glide(size, (0.85, 1.1, 1, 0.8)) * (1 + 0.04 * tremble)
        envelope = swell(size, 0.08, 0.2) * (1 - between(rng, 0.3, 0.45) * (1 + tremble))
        return animal(
            rng, tract, frequency, envelope, one_of(rng, ("mea", "@e", "e", "mae")), 0.15, between(rng, 0.1, 0.5)
        )

    return sequence(rng, length, event, (0.4, 2.5))


# --- The household ---


def running(rng: Rng, length: int) -> Array:
    """A motor's speed from 0 to 1: on all the time, or switched on or off within the clip: (length,)."""
    speed = np.ones(length)
    if chance(rng, 0.35):
        speed *= 1 / (
            1 + np.exp(-(np.arange(length) - between(rng, 0.02, 0.4) * length) / (between(rng, 0.05, 0.3) * RATE))
        )
    if chance(rng, 0.35):
        speed *= 1 / (1 + np.exp((np.arange(length) - between(rng, 0.6, 1) * length) / (between(rng, 0.1, 0.5) * RATE)))
    return speed


def machine(
    rng: Rng,
    length: int,
    motor: tuple[float, float],
    noise: tuple[float, float],
    tonal: tuple[float, float],
    edge: float,
) -> Array:
    """A motor's harmonics in broad noise.

    Args:
        rng: draws the machine.
        length: in samples.
        motor: the range of the motor's frequency in Hz.
        noise: the range of the noise's exponent (0 white, 2 brown).
        tonal: the range of the tone's level against the noise in dB.
        edge: the upper end of the noise in Hz.
    """
    speed = running(rng, length)
    frequency = between_log(rng, *motor) * (0.2 + 0.8 * speed) * (1 + 0.004 * wander(rng, length, 2))
    hum = tone(frequency, rng.uniform(0, 1, 8) * np.arange(1, 9) ** -between(rng, 0.3, 1.2))
    roar = band_filter(coloured_noise(rng, length, between(rng, *noise)), 40, between(rng, 0.6, 1) * edge, 1)
    level = decibels(between(rng, *tonal)) * roar.std() / max(float(hum.std()), 1e-9)
    return np.asarray((roar + level * hum) * speed**1.5 * (1 + 0.06 * wander(rng, length, 4)))


@sound("household")
def mains_hum(rng: Rng, length: int) -> Array:
    """The hum and buzz of a transformer at 50 or 60 Hz."""
    skipped = int(rng.integers(RATE // 50))  # starts anywhere in a period
    frequency = np.full(length + skipped, one_of(rng, (50, 60)) * between(rng, 0.995, 1.005))
    strengths = rng.exponential(1, 20) * np.arange(1, 21) ** -between(rng, 0.5, 2)
    strengths[::2] *= between(rng, 0.1, 1)  # a transformer hums at twice the mains' frequency
    return tone(frequency, strengths)[skipped:] + between(rng, 0.005, 0.1) * coloured_noise(rng, length, 1)


@sound("household")
def hairdryer(rng: Rng, length: int) -> Array:
    """Blown air with a high motor tone."""
    return machine(rng, length, (200, 900), (0.2, 1), (-18, 0), 7500)


@sound("household")
def vacuum_cleaner(rng: Rng, length: int) -> Array:
    """Broad noise with a strong motor tone, moved to and fro."""
    return machine(rng, length, (150, 650), (0.5, 1.4), (-10, 6), 7000) * (1 + 0.2 * np.tanh(wander(rng, length, 1.5)))


@sound("household")
def fan(rng: Rng, length: int) -> Array:
    """A fan: low noise beaten by the blades."""
    beat = 1 + between(rng, 0.05, 0.4) * np.sin(phase_of(np.full(length, between(rng, 8, 60))))
    return machine(rng, length, (60, 200), (1, 2), (-25, -8), 4000) * beat


@sound("household")
def washing_machine(rng: Rng, length: int) -> Array:
    """A washing machine that turns its drum or spins."""
    t = np.arange(length) / RATE
    turning = 1 + between(rng, 0.2, 0.8) * np.sin(2 * np.pi * between(rng, 0.6, 1.4) * t + between(rng, 0, 6))
    sloshing = band_noise_of(rng, length, 200, between(rng, 1000, 3000)) * turning**2 * between(rng, 0.1, 0.5)
    spin = glide(length, rng.uniform(0.5, 1, 3)) * between_log(rng, 90, 500)
    whine = tone(spin, (1, 0.5, 0.3, 0.2)) * between_log(rng, 0.05, 0.8)
    return coloured_noise(rng, length, 1.8) * (0.6 + 0.2 * turning) + sloshing + whine


@sound("household")
def kettle_whistle(rng: Rng, length: int) -> Array:
    """A kettle that boils and whistles."""
    rise = glide(length, np.sort(rng.uniform(0.2, 1, 4)))
    frequency = between_log(rng, 700, 2800) * (0.6 + 0.4 * rise) * (1 + 0.008 * wander(rng, length, 20))
    whistle = tone(frequency, (1, between(rng, 0, 0.5), between(rng, 0, 0.2))) * rise**2
    steam = band_noise_of(rng, length, 1000, 7000) * between_log(rng, 0.02, 0.3)
    return whistle * (1 + 0.15 * wander(rng, length, 25)) + steam * (0.3 + rise)


def beep(rng: Rng, frequency: float, seconds: float, hardness: float) -> Array:
    """A beep: a sine (hardness 0) to a square wave (1), peak of about 1."""
    course = np.full(in_samples(seconds), frequency)
    return ((1 - hardness) * tone(course) + hardness * square(course)) * swell(len(course), 0.004, 0.006)


def pattern(rng: Rng, length: int, event: Event, pauses: tuple[float, float]) -> Array:
    """The same event again and again with the same pause, as a device does: (length,)."""
    once = event(rng)
    period = np.concatenate([once, silence_of(between(rng, *pauses))])
    shift = int(rng.integers(len(period))) if length > len(period) else 0
    return np.asarray(np.roll(np.tile(period, 2 + length // len(period)), -shift)[:length])


@sound("household")
def microwave_beep(rng: Rng, length: int) -> Array:
    """Long beeps of a kitchen device, sometimes over its hum."""
    frequency, hardness = between_log(rng, 800, 2800), between(rng, 0, 1)
    seconds = between_log(rng, 0.1, 0.9)
    beeps = pattern(rng, length, lambda rng: beep(rng, frequency, seconds, hardness), (0.2, 1.2))
    return beeps + (between_log(rng, 0.02, 0.3) * mains_hum(rng, length) if chance(rng, 0.5) else 0)


def bell_ringing(rng: Rng, seconds: float) -> Array:
    """A clapper between two bells, as in old alarm clocks and telephones, peak of 1."""
    size, rate = in_samples(seconds), between(rng, 12, 26)
    bells = [impact(rng, modes_of(rng, between_log(rng, 900, 2500), 6), between(rng, 0.3, 1), 0.4) for _ in range(2)]
    out = np.zeros(size + max(len(bell) for bell in bells))
    for index, at in enumerate(np.arange(0, seconds, 1 / rate)):
        bell = bells[index % 2]
        out[int(at * RATE) : int(at * RATE) + len(bell)] += bell * between(rng, 0.7, 1)
    return unit(out)


@sound("household")
def alarm_clock(rng: Rng, length: int) -> Array:
    """An alarm clock: groups of beeps or a bell."""
    if chance(rng, 0.35):
        return pattern(rng, length, lambda rng: bell_ringing(rng, between(rng, 1, 4)), (0.05, 1))
    frequency, hardness, count = between_log(rng, 900, 3500), between(rng, 0, 1), int(rng.integers(1, 6))
    seconds = between_log(rng, 0.04, 0.25)

    def group(rng: Rng) -> Array:
        pair = np.concatenate([beep(rng, frequency, seconds, hardness), silence_of(seconds * between(rng, 0.4, 1.2))])
        return np.tile(pair, count)

    return pattern(rng, length, group, (0.1, 1))


@sound("household")
def smoke_alarm(rng: Rng, length: int) -> Array:
    """A smoke alarm: three beeps of half a second (ISO 8201), at 3 kHz or 520 Hz; or a steady chirp."""
    frequency = between(rng, 500, 540) if chance(rng, 0.35) else between_log(rng, 2500, 3700)
    seconds, hardness = (0.5, between(rng, 0.3, 1)) if chance(rng, 0.6) else (between(rng, 0.05, 0.25), 1.0)

    def group(rng: Rng) -> Array:
        return np.tile(np.concatenate([beep(rng, frequency, seconds, hardness), silence_of(seconds)]), 3)

    return pattern(rng, length, group, (0.01, 0.05) if seconds < 0.5 else (0.9, 1.1))


@sound("household")
def phone_ring(rng: Rng, length: int) -> Array:
    """A telephone: a bell, an electronic warble or a short tune."""
    style = rng.integers(3)
    if style == 0:
        return pattern(rng, length, lambda rng: bell_ringing(rng, between(rng, 0.4, 2)), (0.2, 3))
    if style == 1:
        low, high, rate = between_log(rng, 500, 1500), between(rng, 1.1, 1.5), between(rng, 8, 28)

        def warble(rng: Rng) -> Array:
            size = in_samples(between(rng, 0.4, 2))
            up = np.sin(2 * np.pi * rate * np.arange(size) / RATE) > 0
            return unit(tone(np.where(up, low * high, low), (1, 0.3, 0.3, 0.1)) * swell(size, 0.01, 0.03))

        return pattern(rng, length, warble, (0.3, 2.5))
    hardness = between(rng, 0, 1)
    tune = melody(rng, 500, 2200)

    def phrase(rng: Rng) -> Array:
        return np.concatenate(
            [beep(rng, tune(rng), between(rng, 0.08, 0.25), hardness) for _ in range(rng.integers(4, 12))]
        )

    return pattern(rng, length, phrase, (0.1, 1.5))


@sound("household")
def doorbell(rng: Rng, length: int) -> Array:
    """Ding-dong, or a buzzer."""
    if chance(rng, 0.25):
        frequency, hardness = between_log(rng, 80, 400), between(rng, 0.5, 1)
        return sequence(rng, length, lambda rng: beep(rng, frequency, between(rng, 0.2, 1.2), hardness), (0.3, 2))
    high, interval = between_log(rng, 500, 1100), 2 ** (-one_of(rng, (3, 4, 5, 7)) / 12)
    modes, seconds = np.asarray((1, 2.0, 2.76, 3.0, 5.4)), between(rng, 0.8, 2.5)

    def ding_dong(rng: Rng) -> Array:
        ding, dong = (impact(rng, pitch * modes, seconds, 0.05) for pitch in (high, high * interval))
        gap = in_samples(between(rng, 0.3, 0.8))
        out = np.zeros(max(len(ding), gap + len(dong)))
        out[: len(ding)] += ding
        out[gap : gap + len(dong)] += dong
        return out

    return sequence(rng, length, ding_dong, (0.3, 2.5))


@sound("household")
def door_creak(rng: Rng, length: int) -> Array:
    """A hinge that sticks and slips."""
    body = modes_of(rng, between_log(rng, 300, 900), 5)
    rate = between_log(rng, 25, 350)

    def event(rng: Rng) -> Array:
        size = in_samples(between_log(rng, 0.3, 2.5))
        frequency = np.clip(rate * 2 ** (0.6 * wander(rng, size, 2)) * (1 + 0.05 * wander(rng, size, 40)), 15, 700)
        return unit(
            resonate(pulses(frequency, 2000), body, 12) * swell(size, 0.1, 0.2) * (1 + 0.3 * wander(rng, size, 6))
        )

    return sequence(rng, length, event, (0.2, 2))


@sound("household")
def squeaky_toy(rng: Rng, length: int) -> Array:
    """A rubber toy that is squeezed and let go."""
    middle, brightness, hiss = between_log(rng, 500, 1800), between(rng, 800, 2200), between_log(rng, 0.01, 0.4)

    def event(rng: Rng) -> Array:
        parts = []
        for pitch in (1.0, between(rng, 0.6, 0.95)):  # pressed, let go
            seconds = between(rng, 0.08, 0.4)
            size = in_samples(seconds)
            frequency = (
                middle * pitch * glide(size, (between(rng, 0.7, 0.9), between(rng, 1, 1.2), between(rng, 0.6, 0.95)))
            )
            wave = pulses(frequency, brightness) + hiss * rng.standard_normal(size)
            parts += [unit(wave * swell(size, 0.2 * seconds, 0.3 * seconds)), silence_of(between(rng, 0.02, 0.12))]
        return np.concatenate(parts)

    return sequence(rng, length, event, (0.05, between(rng, 0.3, 1.5)))


@sound("household")
def rattle(rng: Rng, length: int) -> Array:
    """A baby's rattle: beads in a shell, shaken 3 to 7 times a second."""
    shell, rate = modes_of(rng, between_log(rng, 1500, 4000), 4), between(rng, 3, 7)

    def event(rng: Rng) -> Array:
        size = in_samples(between(rng, 0.5, 2))
        shaking = np.clip(np.sin(phase_of(rate * (1 + 0.1 * wander(rng, size, 3)))), 0, 1) ** 2
        return unit(resonate(impulses(rng, size, between(rng, 200, 900)) * shaking, shell, between(rng, 5, 25)))

    return sequence(rng, length, event, (0.1, 1))


@sound("household")
def dishes(rng: Rng, length: int) -> Array:
    """Plates, glasses and cutlery that knock together."""
    bodies = [modes_of(rng, between_log(rng, 700, 4000), 6) for _ in range(5)]

    def clink(rng: Rng) -> Array:
        return impact(
            rng, bodies[rng.integers(5)] * between(rng, 0.97, 1.03), between_log(rng, 0.05, 0.7), between(rng, 0.1, 1)
        )

    return shower(rng, length, clink, between_log(rng, 1, 8), 25)


@sound("household")
def knocks(rng: Rng, length: int) -> Array:
    """Knocking on wood, or hammering."""
    body, gap = modes_of(rng, between_log(rng, 80, 500), 5), between(rng, 0.12, 0.5)

    def group(rng: Rng) -> Array:
        hits = [impact(rng, body, between(rng, 0.06, 0.2), between(rng, 0.2, 1)) for _ in range(rng.integers(2, 7))]
        return np.concatenate([part for hit in hits for part in (hit, silence_of(gap * between(rng, 0.8, 1.1)))])

    return sequence(rng, length, group, (0.3, 1.5))


@sound("household")
def footsteps(rng: Rng, length: int) -> Array:
    """Steps: a thump and a scuff."""
    body, gap = modes_of(rng, between_log(rng, 60, 250), 4), between(rng, 0.2, 0.55)
    scuffing, low = between(rng, 0.1, 0.8), between(rng, 500, 3000)

    def step(rng: Rng) -> Array:
        scuff = burst(rng, between(rng, 0.05, 0.2), low, 7000) * scuffing
        thump = impact(rng, body, between(rng, 0.08, 0.2), 0.3)
        out = np.zeros(max(len(scuff), len(thump)))
        out[: len(thump)] += thump
        out[: len(scuff)] += scuff
        return out

    return sequence(rng, length, step, (0.85 * gap, gap), (0.5, 1))


def bubble(rng: Rng) -> Array:
    """A bubble in water: a short tone that rises as it decays."""
    size = in_samples(between(rng, 0.01, 0.06))
    frequency = between_log(rng, 400, 3500) * np.linspace(1, between(rng, 1.05, 1.5), size)
    return tone(frequency) * decay(size, size / RATE)


@sound("household")
def running_water(rng: Rng, length: int) -> Array:
    """A tap, a shower or a bath that fills."""
    low = between_log(rng, 150, 1200)
    stream = band_noise_of(rng, length, low, between(rng, 4, 12) * low) * (1 + 0.1 * wander(rng, length, 8))
    return stream * between_log(rng, 0.1, 1) + between(rng, 0.3, 2) * shower(
        rng, length, bubble, between(rng, 20, 90), 20
    )


@sound("household")
def typing(rng: Rng, length: int) -> Array:
    """A keyboard: a click down and a softer one up."""
    body = modes_of(rng, between_log(rng, 400, 2000), 5)

    def key(rng: Rng) -> Array:
        down = impact(rng, body * between(rng, 0.9, 1.1), between(rng, 0.02, 0.06), between(rng, 0.5, 1.5))
        up = impact(rng, body * between(rng, 1, 1.3), between(rng, 0.02, 0.04), 1) * between(rng, 0.1, 0.5)
        return np.concatenate([down, silence_of(between(rng, 0.02, 0.08)), up])

    return sequence(rng, length, key, (0.01, between(rng, 0.15, 0.8)), (0.3, 1))


@sound("household")
def rustle(rng: Rng, length: int) -> Array:
    """Paper, a plastic bag, cloth, a nappy."""
    low, crackle = between_log(rng, 400, 3000), between(rng, 0, 1)
    movement = np.clip(wander(rng, length, between(rng, 2, 10)), 0.02, None) ** 2
    hiss = band_noise_of(rng, length, low, 7500) * (1 - 0.8 * crackle)
    cracks = band_filter(impulses(rng, length, between(rng, 100, 800)), low, 7500) * 5 * crackle
    return np.asarray((hiss + cracks) * movement)


# --- Music ---


@sound("music")
def music_box(rng: Rng, length: int) -> Array:
    """A music box or a mobile over a cot."""
    modes, ringing = np.asarray((1, between(rng, 2, 3), between(rng, 4, 6.5))), between(rng, 0.4, 2)
    return played(
        rng, length, (500, 2600), (0.12, 0.5), lambda rng, pitch, _: impact(rng, pitch * modes, ringing, 0.05)
    )


@sound("music")
def toy_melody(rng: Rng, length: int) -> Array:
    """An electronic toy's tune."""
    hardness, legato = between(rng, 0, 1), between(rng, 0.5, 1)

    def note(rng: Rng, pitch: float, seconds: float) -> Array:
        samples = beep(rng, pitch, seconds * legato, hardness)
        return samples * decay(len(samples), between(rng, 0.5, 3)) if legato > 0.7 else samples

    return played(rng, length, (300, 1800), (0.1, 0.45), note)


@sound("music")
def flute(rng: Rng, length: int) -> Array:
    """A flute or a recorder."""
    overtones, air = rng.uniform(0, 1, 5) * (1, 0.6, 0.3, 0.15, 0.08) + (1, 0, 0, 0, 0), between_log(rng, 0.005, 0.1)
    depth = between(rng, 0, 0.012)

    def note(rng: Rng, pitch: float, seconds: float) -> Array:
        size = in_samples(seconds * between(rng, 0.8, 1))
        wave = tone(pitch * glide(size, (0.98, 1, 1, 1)) * vibrato(rng, size, depth, 5), overtones)
        breath = air * band_noise_of(rng, size, 0.8 * pitch, 4 * pitch)
        return unit((wave + breath) * swell(size, 0.05, 0.06))

    return played(rng, length, (350, 1800), (0.15, 0.8), note)


@sound("music")
def violin(rng: Rng, length: int) -> Array:
    """A bowed string with slides and vibrato."""
    body, brightness = modes_of(rng, between(rng, 250, 400), 7), between(rng, 900, 2500)
    depth, rate, sliding = between(rng, 0.002, 0.02), between(rng, 4.5, 7), between(rng, 0.02, 0.25)
    previous: list[float] = []

    def note(rng: Rng, pitch: float, seconds: float) -> Array:
        size = in_samples(seconds)
        start = previous[-1] if previous and chance(rng, 0.6) else pitch
        previous.append(pitch)
        reach = np.minimum(1, np.arange(size) / (sliding * RATE))
        wave = pulses(start * (pitch / start) ** reach * vibrato(rng, size, depth, rate), brightness)
        bowed = wave + 0.05 * rng.standard_normal(size)
        return unit((bowed + 2 * resonate(bowed, body, 6)) * swell(size, between(rng, 0.03, 0.12), 0.08))

    return played(rng, length, (196, 1300) if chance(rng, 0.7) else (65, 400), (0.15, 1.2), note)


@sound("music")
def organ_chord(rng: Rng, length: int) -> Array:
    """Chords of an organ, an accordion or a choir of strings."""
    root, stops = between_log(rng, 100, 400), rng.uniform(0, 1, 10) * np.arange(1, 11) ** -between(rng, 0, 1)
    beating = between(rng, 0, 0.004)

    def chord(rng: Rng) -> Array:
        size = in_samples(between_log(rng, 0.4, 3))
        lowest = root * 2 ** (one_of(rng, (0, 2, 4, 5, 7, 9)) / 12)
        third = one_of(rng, (3, 4))
        waves = [
            tone(np.full(size, lowest * 2 ** (step / 12) * detune), stops)
            for step in (0, third, 7, 12)[: rng.integers(2, 5)]
            for detune in (1 - beating, 1 + beating)
        ]
        return unit(np.sum(waves, 0) * swell(size, between(rng, 0.02, 0.3), 0.1))

    return sequence(rng, length, chord, (0.001, 0.2), (0.8, 1))


@sound("music")
def drum_loop(rng: Rng, length: int) -> Array:
    """Kick, snare, hat and tom in a loop of 16 steps."""
    step = in_samples(60 / between(rng, 70, 170) / 4)
    kick_size = in_samples(0.25)
    kick = tone(between(rng, 45, 70) * (1 + 3 * decay(kick_size, 0.1))) * decay(kick_size, 0.35)
    snare = burst(rng, between(rng, 0.1, 0.25), 800, 7500)
    hat, tom = burst(rng, between(rng, 0.03, 0.12), 5000, 7600), impact(rng, (between(rng, 90, 220),), 0.4, 0.1)
    loop = np.zeros(16 * step + RATE)
    for drum, share in ((kick, 0.25), (snare, 0.2), (hat, 0.5), (tom, 0.1)):
        for place in np.flatnonzero(rng.random(16) < share):
            loop[place * step : place * step + len(drum)] += drum * between(rng, 0.4, 1)
    loop[: len(kick)] += kick
    return np.asarray(np.tile(loop[: 16 * step], 1 + length // (16 * step))[:length])


@sound("music")
def whistling(rng: Rng, length: int) -> Array:
    """Somebody who whistles a tune."""
    air, depth = between_log(rng, 0.005, 0.1), between(rng, 0, 0.02)

    def note(rng: Rng, pitch: float, seconds: float) -> Array:
        size = in_samples(seconds * between(rng, 0.7, 1))
        frequency = pitch * glide(size, (between(rng, 0.85, 1.05), 1, 1, between(rng, 0.95, 1.05)))
        wave = tone(frequency * vibrato(rng, size, depth, 5.5), (1, 0.05))
        return unit((wave + air * band_noise_of(rng, size, 0.7 * pitch, 1.5 * pitch)) * swell(size, 0.04, 0.06))

    return played(rng, length, (700, 2800), (0.15, 0.7), note)


# --- Nature ---


@sound("nature")
def rain(rng: Rng, length: int) -> Array:
    """Rain: a hiss and single drops."""
    hiss = band_filter(coloured_noise(rng, length, between(rng, 0, 1)), between_log(rng, 150, 1500), 7500, 1)
    drops = resonate(impulses(rng, length, between_log(rng, 20, 600)), rng.uniform(800, 6000, 5), between(rng, 2, 8))
    return unit(hiss) * between_log(rng, 0.1, 1) * (1 + 0.1 * wander(rng, length, 1)) + unit(drops)


@sound("nature")
def wind(rng: Rng, length: int) -> Array:
    """Gusts, sometimes with the howl of a gap."""
    gusts = np.exp(between(rng, 0.3, 1) * wander(rng, length, between(rng, 0.5, 2)))
    out = coloured_noise(rng, length, between(rng, 1.2, 2.2)) * gusts
    if chance(rng, 0.6):
        frequency = between_log(rng, 250, 900) * 2 ** (0.4 * wander(rng, length, 0.8))
        howl = np.cos(phase_of(frequency)) * band_noise_of(rng, length, 25, between(rng, 40, 120))
        out += howl * gusts * between(rng, 0.1, 0.8)
    return np.asarray(out)


@sound("nature")
def waves(rng: Rng, length: int) -> Array:
    """Surf: noise that swells and runs out."""
    t, period = np.arange(length) / RATE, between(rng, 3, 9)
    rolling = (0.5 + 0.5 * np.sin(2 * np.pi * t / period + between(rng, 0, 6.28))) ** between(rng, 1, 4)
    deep, foam = coloured_noise(rng, length, 1.6), band_noise_of(rng, length, 1000, 7500)
    return np.asarray(deep * (0.3 + rolling) + foam * rolling**2 * between(rng, 0.1, 0.8))


@sound("nature")
def thunder(rng: Rng, length: int) -> Array:
    """A crack and a long rumble."""

    def clap(rng: Rng) -> Array:
        size = in_samples(between(rng, 1.5, 5))
        rumble = band_filter(coloured_noise(rng, size, 2), 25, between(rng, 120, 500), 1)
        rumble *= np.exp(0.8 * wander(rng, size, 6)) * decay(size, 1.5 * size / RATE)
        crack = coloured_noise(rng, size, 1) * decay(size, between(rng, 0.2, 0.8)) * between(rng, 0, 0.6)
        return unit(unit(rumble) + crack * swell(size, 0, 0.1) * 0.3)

    storm = sequence(rng, length, clap, (0.3, 3))
    return storm + (0.1 * rain(rng, length) if chance(rng, 0.5) else 0)


@sound("nature")
def crackling_fire(rng: Rng, length: int) -> Array:
    """A fire: snaps over a low flutter."""
    snaps = resonate(impulses(rng, length, between_log(rng, 5, 60)), rng.uniform(1000, 6000, 4), between(rng, 1, 4))
    flames = coloured_noise(rng, length, 1.6) * (1 + 0.3 * wander(rng, length, 10))
    return unit(snaps) + unit(flames) * between_log(rng, 0.02, 0.3)


@sound("nature")
def crickets(rng: Rng, length: int) -> Array:
    """Crickets and cicadas: pulsed high tones."""
    out = 0.03 * coloured_noise(rng, length, 1)
    for _ in range(rng.integers(1, 4)):
        t = np.arange(length) / RATE
        fast = np.clip(np.sin(2 * np.pi * between(rng, 20, 60) * t), 0, 1)
        slow = np.clip(np.sin(2 * np.pi * between(rng, 0.8, 4) * t + between(rng, 0, 6)) + between(rng, -0.3, 1), 0, 1)
        out += tone(np.full(length, between(rng, 2800, 6500))) * fast * slow * between(rng, 0.2, 1)
    return out


# --- Games and devices that sweep ---


@sound("game")
def laser(rng: Rng, length: int) -> Array:
    """Falling and rising shots."""
    high, brightness = between_log(rng, 1200, 4500), between(rng, 0, 1)

    def shot(rng: Rng) -> Array:
        size = in_samples(between_log(rng, 0.06, 0.6))
        frequency = np.geomspace(high * between(rng, 0.8, 1.2), between_log(rng, 80, 600), size)
        wave = pulses(frequency, 2000) if brightness > 0.5 else tone(frequency, (1, 0.3))
        return unit((wave[::-1] if chance(rng, 0.15) else wave) * decay(size, 2 * size / RATE))

    return sequence(rng, length, shot, (0.03, 1))


@sound("game")
def arcade_beeps(rng: Rng, length: int) -> Array:
    """The beeps of an old video game: arpeggios, coins, explosions."""

    def event(rng: Rng) -> Array:
        if chance(rng, 0.2):
            return burst(rng, between(rng, 0.1, 0.6), 60, between(rng, 800, 5000))
        notes = between_log(rng, 200, 1200) * 2 ** (rng.choice([0, 3, 4, 5, 7, 12, 16], rng.integers(1, 9)) / 12)
        seconds = between_log(rng, 0.03, 0.15)
        return np.concatenate([beep(rng, float(note), seconds, 1) for note in notes])

    return sequence(rng, length, event, (0.02, 0.6))


@sound("game")
def siren(rng: Rng, length: int) -> Array:
    """A siren: wailing, yelping or of two tones; sometimes passing by."""
    t = np.arange(length) / RATE
    style, low = rng.integers(3), between_log(rng, 350, 800)
    high = low * between(rng, 1.25, 2.2)
    rate = (between(rng, 0.15, 0.5), between(rng, 2, 4.5), between(rng, 0.4, 1.5))[style]
    swing = np.sin(2 * np.pi * rate * t + between(rng, 0, 6.28))
    course = np.where(swing > 0, 1.0, 0.0) if style == 2 else 0.5 + 0.5 * swing
    passing = glide(length, (between(rng, 1, 1.06), between(rng, 0.94, 1)))
    wave = pulses((low + (high - low) * course) * passing, between(rng, 500, 1800))
    return np.asarray(wave * glide(length, rng.uniform(0.3, 1, 3)))


@sound("game")
def car_horn(rng: Rng, length: int) -> Array:
    """A car's horn: two tones together."""
    low, interval, brightness = between_log(rng, 280, 480), between(rng, 1.15, 1.35), between(rng, 1000, 2500)

    def honk(rng: Rng) -> Array:
        size = in_samples(between_log(rng, 0.1, 1.8))
        wave = pulses(np.full(size, low), brightness) + pulses(np.full(size, low * interval), brightness)
        return unit(band_filter(wave, 250, 6000, 1) * swell(size, 0.02, 0.04))

    return sequence(rng, length, honk, (0.08, 2))


@sound("game")
def sweep(rng: Rng, length: int) -> Array:
    """Slow sweeps of a tone, up and down."""
    hardness = between(rng, 200, 2000)

    def event(rng: Rng) -> Array:
        size = in_samples(between_log(rng, 0.3, 4))
        frequency = np.exp(glide(size, np.log(rng.uniform(100, 3500, rng.integers(2, 5)))))
        return unit(pulses(frequency, hardness) * swell(size, 0.03, 0.05))

    return sequence(rng, length, event, (0.01, 0.6))


@sound("game")
def theremin(rng: Rng, length: int) -> Array:
    """One gliding, wavering tone."""
    frequency = between_log(rng, 250, 900) * 2 ** (between(rng, 0.2, 0.8) * wander(rng, length, between(rng, 0.8, 3)))
    frequency *= vibrato(rng, length, between(rng, 0.005, 0.04), between(rng, 4, 7.5))
    overtones = np.power(10, -np.arange(8) * between(rng, 0.25, 0.9))
    return tone(frequency, overtones) * np.clip(0.7 + 0.3 * wander(rng, length, 2), 0.1, None)


# --- Noise and silence ---


@sound("noise")
def white_noise(rng: Rng, length: int) -> Array:
    """White noise."""
    return rng.standard_normal(length) * (1 + 0.1 * wander(rng, length, 1))


@sound("noise")
def pink_noise(rng: Rng, length: int) -> Array:
    """Pink noise, more or less."""
    return coloured_noise(rng, length, between(rng, 0.7, 1.3))


@sound("noise")
def brown_noise(rng: Rng, length: int) -> Array:
    """Brown noise, more or less."""
    return coloured_noise(rng, length, between(rng, 1.6, 2.4))


@sound("noise")
def band_noise(rng: Rng, length: int) -> Array:
    """Noise in one or two bands, steady or in bursts."""
    low = between_log(rng, 100, 4000)
    out = band_noise_of(rng, length, low, low * between(rng, 1.1, 3))
    if chance(rng, 0.5):
        out = out * np.clip(wander(rng, length, between_log(rng, 0.5, 12)), 0.02, None)
    return out + between(rng, 0, 0.5) * band_noise_of(rng, length, 2 * low, 3 * low)


@sound("noise")
def static_clicks(rng: Rng, length: int) -> Array:
    """Clicks and crackles of a bad line, over a hiss."""
    clicks = band_filter(impulses(rng, length, between_log(rng, 1, 200)), between(rng, 30, 800), 7500, 1)
    return unit(clicks) + between_log(rng, 0.002, 0.1) * rng.standard_normal(length)


@sound("noise")
def handling_noise(rng: Rng, length: int) -> Array:
    """A microphone that is touched: thumps and rubs."""
    thumps = shower(
        rng, length, lambda rng: impact(rng, modes_of(rng, between(rng, 40, 150), 3), 0.2), between(rng, 0.5, 4)
    )
    rubs = band_noise_of(rng, length, 50, between_log(rng, 300, 3000)) * np.clip(wander(rng, length, 4), 0, None) ** 2
    return thumps + rubs * between(rng, 0.05, 0.6)


@sound("silence")
def room_tone(rng: Rng, length: int) -> Array:
    """An empty room: faint noise and hum."""
    noise = coloured_noise(rng, length, between(rng, 0.5, 2)) * (1 + 0.05 * wander(rng, length, 1))
    return noise + between(rng, 0, 0.5) * unit(mains_hum(rng, length)) + 0.1 * rng.standard_normal(length)
