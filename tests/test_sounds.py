"""Strings against their formula, 8-bit sound, files that a standard library reads, players with a name."""

import base64
import io
import math
import re
import wave

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gan_tutorial import data, runtime, sounds


def one(value: float) -> torch.Tensor:
    return torch.tensor([value])


def plucked(pitch: float = 200.0, decay: float = 4.0, brightness: float = 0.5, **options) -> torch.Tensor:
    return sounds.pluck(one(pitch), one(decay), one(brightness), one(0.0), **options)


# Strings


def test_a_string_above_a_quarter_of_the_rate_is_one_fading_sine():
    t = torch.arange(512) / 4000
    expected = torch.exp(-4 * t) * torch.sin(2 * math.pi * 1100 * t)
    expected = 0.9 * expected / expected.abs().max()
    torch.testing.assert_close(plucked(1100.0, length=512)[0, 0], expected, rtol=0, atol=2e-4)


def test_harmonics_have_their_heights_and_fade_in_their_order():
    wave_ = plucked(125.0, decay=3.0, brightness=0.8, length=4096)[0, 0].double()
    t = torch.arange(4096) / 4000
    heights = []
    for start in (0, 2048):
        part, time = wave_[start:][:2048], t[start:][:2048]
        turns = torch.exp(-2j * math.pi * 125 * torch.arange(1, 4)[:, None] * time)
        heights.append((turns * part).mean(dim=1).abs())  # 2048 samples are 64 periods
    fade = torch.log(heights[0] / heights[1]) / (2048 / 4000)
    torch.testing.assert_close(fade, 3 * torch.arange(1, 4).double(), rtol=0.02, atol=0)
    mean_fade = torch.tensor([(1 - math.exp(-3 * k * 0.512)) / (3 * k) for k in (1, 2, 3)]).double()
    ratio = heights[0] / mean_fade
    expected = torch.tensor([1, 0.8 / 2, 0.8**2 / 3]).double()
    torch.testing.assert_close(ratio / ratio[0], expected, rtol=0.03, atol=0)


@given(st.integers(0, 1000))
def test_strings_are_loud_enough_and_in_order(seed):
    strings = sounds.strings(30, seed=seed, length=256)
    assert strings.shape == (1, 256)
    torch.testing.assert_close(strings.waves.abs().amax(dim=2), torch.full((30, 1), 0.9))
    assert strings.labels.tolist() == [i % 10 for i in range(30)]


def test_strings_are_a_pure_function_of_their_seed():
    first, again, other = (sounds.strings(10, seed=seed, length=64).waves for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# Sets


def test_a_batch_is_drawn_by_its_generator_with_matching_labels():
    strings = sounds.strings(20, length=64)
    waves, labels = strings.batch(50, runtime.step_rng(0, 7))
    again, _ = strings.batch(50, runtime.step_rng(0, 7))
    assert torch.equal(waves, again)
    for wave_, label in zip(waves, labels, strict=True):
        assert label in strings.labels[(strings.waves == wave_).all(dim=2).flatten()]


def test_bundled_speech_is_balanced_and_centred():
    train, held_out = (sounds.load_speech(split) for split in data.SPLITS)
    for spoken in (train, held_out):
        assert spoken.shape == (1, 2048)
        assert torch.bincount(spoken.labels).min() > 0.09 * len(spoken)
        assert abs(spoken.waves.mean()) < 0.005
        assert (spoken.waves.abs().amax(dim=2) > 0.9).all()
        assert (spoken.waves[:, 0, -1] == 0).all()
    assert (len(train), len(held_out)) == (1776, 357)


def test_no_held_out_word_is_a_training_word():
    train, held_out = (sounds.load_speech(split).waves.flatten(1) for split in data.SPLITS)
    assert torch.cdist(held_out, train).min() > 0.1


@given(st.integers(1, 255))
def test_8_bit_sound_survives_both_ways(value):
    pressure = torch.tensor([value], dtype=torch.uint8)
    assert sounds.to_bytes(sounds.from_bytes(pressure)) == pressure


def test_silence_is_0_on_one_side_and_128_on_the_other():
    assert sounds.from_bytes(torch.tensor([128], dtype=torch.uint8)).item() == 0
    assert sounds.to_bytes(torch.zeros(1)).item() == 128
    assert sounds.from_bytes(torch.tensor([0, 1, 255], dtype=torch.uint8)).tolist() == [-1, -1, 1]


# Files and players


def test_a_wav_file_holds_the_samples():
    samples = torch.linspace(-1, 1, 101)
    with wave.open(io.BytesIO(sounds.wav(samples, 4000))) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 4000)
        read = np.frombuffer(file.readframes(101), "<i2") / 32767
    np.testing.assert_allclose(read, samples.numpy(), atol=1 / 32767)


def test_each_player_has_a_name_and_its_own_sound():
    shown = sounds.Players([torch.zeros(8), torch.ones(8)], ["a <low> one", "high"], 4000)._repr_html_()
    assert re.findall(r'<audio controls [^>]*aria-label="([^"]*)"', shown) == ["a &lt;low&gt; one", "high"]
    files = [base64.b64decode(text) for text in re.findall(r'src="data:audio/wav;base64,([^"]*)"', shown)]
    assert files == [sounds.wav(torch.zeros(8), 4000), sounds.wav(torch.ones(8), 4000)]
    assert "http" not in shown


# Bad inputs


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: sounds.require_waves(torch.zeros(2, 64)), r"\(N, 1, L\)"),
        (lambda: sounds.require_waves([0.0]), "but got list"),
        (lambda: sounds.require_waves(torch.zeros(2, 1, 64, dtype=torch.uint8)), "from_bytes"),
        (lambda: sounds.require_waves(torch.full((1, 1, 4), 2.0)), "reach 2"),
        (lambda: sounds.require_waves(torch.full((1, 1, 4), torch.nan)), "reach nan"),
        (lambda: sounds.SoundSet(torch.zeros(2, 1, 8), torch.zeros(3).long(), ("a",), 4000), "one for each sound"),
        (lambda: sounds.SoundSet(torch.zeros(2, 1, 8), torch.ones(2).long(), ("a",), 4000), r"in \[0, 0\]"),
        (lambda: sounds.SoundSet(torch.zeros(2, 1, 8), torch.zeros(2).long(), ("a",), 0), "rate must be"),
        (lambda: plucked(2000.0), "below half the rate"),
        (lambda: plucked(-1.0), "pitch must be above 0"),
        (lambda: plucked(decay=0.0), "decay must be above 0"),
        (lambda: plucked(length=0), "length must be"),
        (lambda: sounds.pluck(one(200.0), torch.ones(2), one(0.5), one(0.0)), "one number for each string"),
        (lambda: sounds.strings(0), "count must be"),
        (lambda: sounds.load_speech("all"), "split must be"),
        (lambda: sounds.from_bytes(torch.zeros(3)), "must be uint8"),
        (lambda: sounds.wav(torch.zeros(1, 8), 4000), "takes one sound"),
        (lambda: sounds.wav(torch.full((8,), 1.5), 4000), "reach 1.5"),
        (lambda: sounds.Players([], [], 4000), "needs a label"),
        (lambda: sounds.Players([torch.zeros(8)], [" "], 4000), "one is empty"),
    ],
)
def test_a_bad_input_is_refused_with_advice(act, message):
    with pytest.raises(ValueError, match=message) as raised:
        act()
    assert type(raised.value) in (ValueError, data.DataError)
    assert "\n" not in str(raised.value)
