"""Sounds against their formula, the networks, pitch and levels of known tones, spoken digits."""

import base64
import io
import math
import re
import statistics
import wave
from dataclasses import replace
from importlib import resources

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gan_tutorial import data, metrics, runtime, sampling, training
from gan_tutorial.beyond import audio

NOTES = torch.tensor(list(audio.NOTES.values()))


def tone(hertz: float, length: int = 1024, rate: int = 4000, phase: float = 0.0) -> torch.Tensor:
    """Return one sine (1, 1, length)."""
    return 0.5 * torch.sin(2 * math.pi * hertz * torch.arange(length) / rate + phase)[None, None]


def noise(count: int, length: int = 1024, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 1, length, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def one(value: float) -> torch.Tensor:
    return torch.tensor([value])


def plucked(
    pitch: float = 200.0, decay: float = 4.0, brightness: float = 0.5, **options
) -> torch.Tensor:
    return audio.pluck(one(pitch), one(decay), one(brightness), one(0.0), **options)


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
    strings = audio.plucked_strings(30, seed=seed, length=256)
    assert strings.waves.shape == (30, 1, 256)
    torch.testing.assert_close(strings.waves.abs().amax(dim=2), torch.full((30, 1), 0.9))
    assert strings.labels.tolist() == [i % 10 for i in range(30)]


def test_strings_are_a_pure_function_of_their_seed():
    sets = [audio.plucked_strings(10, seed=seed, length=64) for seed in (3, 3, 4)]
    first, again, other = (strings.waves for strings in sets)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# Sets


def test_a_batch_is_drawn_by_its_generator_with_matching_labels():
    strings = audio.plucked_strings(20, length=64)
    waves, labels = strings.batch(50, runtime.step_rng(0, 7))
    again, _ = strings.batch(50, runtime.step_rng(0, 7))
    assert torch.equal(waves, again)
    for wave_, label in zip(waves, labels, strict=True):
        assert label in strings.labels[(strings.waves == wave_).all(dim=2).flatten()]


def test_bundled_speech_is_balanced_and_centred():
    train, held_out = (audio.load_speech(split) for split in data.SPLITS)
    for spoken in (train, held_out):
        assert spoken.waves.shape[1:] == (1, 2048)
        assert torch.bincount(spoken.labels).min() > 0.09 * len(spoken)
        assert abs(spoken.waves.mean()) < 0.005
        assert (spoken.waves.abs().amax(dim=2) > 0.9).all()
        assert (spoken.waves[:, 0, -1] == 0).all()
    assert (len(train), len(held_out)) == (1776, 357)


def test_no_held_out_word_is_a_training_word():
    train, held_out = (audio.load_speech(split).waves.flatten(1) for split in data.SPLITS)
    assert torch.cdist(held_out, train).min() > 0.1


@given(st.integers(1, 255))
def test_8_bit_sound_survives_both_ways(value):
    pressure = torch.tensor([value], dtype=torch.uint8)
    assert audio.to_bytes(audio.from_bytes(pressure)) == pressure


def test_silence_is_0_on_one_side_and_128_on_the_other():
    assert audio.from_bytes(torch.tensor([128], dtype=torch.uint8)).item() == 0
    assert audio.to_bytes(torch.zeros(1)).item() == 128
    assert audio.from_bytes(torch.tensor([0, 1, 255], dtype=torch.uint8)).tolist() == [-1, -1, 1]


# Files and players


def test_a_wav_file_holds_the_samples():
    samples = torch.linspace(-1, 1, 101)
    with wave.open(io.BytesIO(audio.wav(samples, 4000))) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 4000)
        read = np.frombuffer(file.readframes(101), "<i2") / 32767
    np.testing.assert_allclose(read, samples.numpy(), atol=1 / 32767)


def test_each_player_has_a_name_and_its_own_sound():
    shown = audio.PlayerRow(
        [torch.zeros(8), torch.ones(8)], ["a <low> one", "high"], 4000
    )._repr_html_()
    assert re.findall(r'<audio controls [^>]*aria-label="([^"]*)"', shown) == [
        "a &lt;low&gt; one",
        "high",
    ]
    sources = re.findall(r'src="data:audio/wav;base64,([^"]*)"', shown)
    files = [base64.b64decode(source) for source in sources]
    assert files == [audio.wav(torch.zeros(8), 4000), audio.wav(torch.ones(8), 4000)]
    assert "http" not in shown


# The networks


@pytest.mark.parametrize("length", [64, 1024, 2048])
def test_the_pair_maps_latents_to_sounds_and_sounds_to_logits(length):
    G = audio.SoundGenerator(6, length, width=2, classes=3)
    D = audio.SoundDiscriminator(length, width=2, classes=3)
    labels = torch.arange(4) % 3
    made = G(torch.randn(4, 6), labels)
    assert made.shape == (4, 1, length)
    assert made.abs().max() <= 1
    assert D(made, labels).shape == (4,)


def test_every_sample_is_written_equally_often():
    G = audio.SoundGenerator(4, 1024, width=2)
    for layer in G.layers:
        if isinstance(layer, torch.nn.ConvTranspose1d):
            ones = torch.nn.functional.conv_transpose1d(
                torch.ones(1, layer.in_channels, 32),
                torch.ones_like(layer.weight),
                stride=4,
                padding=6,
            )
            assert len(ones[0, 0, 16:-16].unique()) == 1


def test_two_steps_change_both_networks():
    strings = audio.plucked_strings(20, length=64)
    config = replace(audio.STRINGS_CONFIG, steps=2, batch_size=8)
    G = audio.SoundGenerator(4, 64, width=2, classes=10)
    D = audio.SoundDiscriminator(64, width=2, classes=10)
    before = [[p.clone() for p in network.parameters()] for network in (G, D)]
    state = training.TrainState.init(G, D, config)
    for log in training.train(state, strings, config):
        assert math.isfinite(log["penalty"])
    for network, old in zip((state.G, state.D), before, strict=True):
        same = [torch.equal(p, q) for p, q in zip(network.parameters(), old, strict=True)]
        assert sum(same) == (network is state.D)  # D's last bias: the loss sees differences only


def test_the_bundled_generator_says_what_it_is_asked_to():
    said = sampling.generate(audio.load_generator(), 200, seed=5)
    assert said.shape == (200, 1, 2048)
    recogniser = audio.train_recogniser(audio.load_speech(), steps=300)
    right = recogniser(said).argmax(1) == torch.arange(200) % 10
    assert right.float().mean() > 0.8  # chance: 0.1


# Phase shuffle


@given(st.integers(1, 4), st.integers(0, 1000))
def test_phase_shuffle_shifts_each_sample_as_a_whole_and_mirrors_the_end(reach, seed):
    torch.manual_seed(seed)
    before = torch.randn(20, 3, 16)
    after = audio.PhaseShuffle(reach)(before)
    mirrored = torch.nn.functional.pad(before, (reach, reach), mode="reflect")
    for one, shifted in zip(mirrored, after, strict=True):
        assert any(
            torch.equal(shifted, one[:, start : start + 16]) for start in range(2 * reach + 1)
        )


def test_phase_shuffle_makes_every_shift_as_often():
    torch.manual_seed(0)
    ramp = torch.arange(10.0).expand(5000, 1, 10)
    shifts = audio.PhaseShuffle(2)(ramp)[:, 0, 5] - 5
    assert torch.bincount(shifts.long() + 2).tolist() == pytest.approx([1000] * 5, abs=120)


def test_phase_shuffle_rests_in_evaluation_and_with_reach_0():
    activations = torch.randn(4, 2, 8)
    assert torch.equal(audio.PhaseShuffle(2).eval()(activations), activations)
    assert torch.equal(audio.PhaseShuffle(0)(activations), activations)


def test_phase_shuffle_has_a_second_derivative():
    torch.manual_seed(0)
    D = audio.SoundDiscriminator(64, width=2)
    x = torch.randn(4, 1, 64).clamp(-1, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(D(x).sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert all(p.grad is not None for p in D.layers[0].parameters() if p.ndim > 1)


# Pitch


@given(st.floats(101, 790), st.floats(0, 6))
def test_pitch_of_a_tone(hertz, phase):
    assert abs(audio.cents(audio.pitch(tone(hertz, phase=phase), 4000), torch.tensor([hertz]))) < 3


def test_pitch_of_strings_is_that_of_the_formula():
    pitches = torch.linspace(105, 780, 60)
    for decay, brightness in ((2.0, 0.9), (8.0, 0.4)):
        waves = audio.pluck(
            pitches, torch.full((60,), decay), torch.full((60,), brightness), torch.zeros(60)
        )
        assert audio.cents(audio.pitch(waves, 4000), pitches).abs().max() < 12


def test_pitch_hears_a_fundamental_that_is_missing():
    wave = (tone(400.0) + tone(600.0)) / 2  # harmonics 2 and 3 of 200 Hz
    assert abs(audio.cents(audio.pitch(wave, 4000), torch.tensor([200.0]))) < 3


def test_noise_and_silence_have_no_pitch():
    assert audio.pitch(noise(50), 4000).isnan().float().mean() > 0.95
    assert audio.pitch(torch.zeros(1, 1, 1024), 4000).isnan().all()


def test_pitch_depends_on_each_sound_alone():
    waves = torch.cat([tone(hertz) for hertz in (150.0, 333.0, 500.0)])
    torch.testing.assert_close(audio.pitch(waves, 4000)[1:2], audio.pitch(waves[1:2], 4000))


def test_in_tune_counts_within_the_tolerance():
    pitches = torch.tensor([440.0, 440 * 2 ** (49 / 1200), 440 * 2 ** (51 / 1200), torch.nan])
    assert audio.in_tune(pitches, torch.full((4,), 440.0)) == 0.5
    assert audio.in_tune(pitches, torch.full((4,), 440.0), within=60) == 0.75
    assert audio.in_tune(pitches, torch.tensor([220.0, 440.0]).expand(4, -1)) == 0.5


def test_random_pitches_are_in_tune_as_often_as_the_scale_has_notes():
    pitches = 146.83 * (523.25 / 146.83) ** torch.rand(
        20_000, generator=torch.Generator().manual_seed(0)
    )
    semitones = 12 * math.log2(523.25 / 146.83)
    share = audio.in_tune(pitches, NOTES.expand(20_000, -1))
    assert share == pytest.approx(
        9 / semitones, abs=0.01
    )  # eight notes, and two halves at the ends


# Spectra


def test_a_spectrogram_keeps_the_energy():
    window = torch.hann_window(256)
    power = audio.spectrogram(noise(3), hop=64)
    assert power.shape == (3, 129, 17)
    sides = torch.full((129,), 2.0)
    sides[[0, -1]] = 1
    inner = (power * sides[:, None]).sum(1)[:, 4:12].mean(1) / 256  # Parseval, for one window
    expected = noise(3).square().mean((1, 2)) * window.square().sum()
    torch.testing.assert_close(inner, expected, rtol=0.15, atol=0)


def test_a_tone_is_in_its_band_and_its_part_of_time():
    wave = tone(1000.0)
    wave[..., 512:] = 0
    levels = audio.log_mel(wave, 4000, bands=16, frames=4).unflatten(1, (16, 4))[0]
    edges = 700 * (10 ** (torch.linspace(0, 2595 * math.log10(1 + 2000 / 700), 18) / 2595) - 1)
    loudest = levels[:, 0].argmax()
    assert edges[loudest] < 1000 < edges[loudest + 2]
    assert levels[loudest, 0] > 20
    assert levels[loudest, 3] == 0


def test_ten_times_as_loud_is_20_decibels_more():
    quiet, loud = (audio.log_mel(level * noise(4), 4000) for level in (0.1, 1.0))
    power = 10 ** (quiet / 10) - 1
    torch.testing.assert_close(loud, 10 * (100 * power + 1).log10(), rtol=1e-3, atol=1e-3)


def test_a_recogniser_knows_held_out_voices():
    train, held_out = (audio.load_speech(split) for split in data.SPLITS)
    recogniser = audio.train_recogniser(train, steps=200)
    assert (recogniser(held_out.waves).argmax(1) == held_out.labels).float().mean() > 0.95
    again = audio.train_recogniser(train, steps=200)
    assert torch.equal(recogniser(held_out.waves), again(held_out.waves))


def test_the_model_card_quotes_what_its_samples_score():
    card = " ".join(
        (resources.files("gan_tutorial") / "assets/speech-gan.md")
        .read_text(encoding="utf-8")
        .split()
    )
    pattern = r"FD (\d+) .*? ten draws \((\d+) to (\d+)\).*? reach (\d+) \((\d+) sounds each\)"
    *quoted, floor, count = map(int, re.search(pattern, card).groups())
    G, train, held_out = audio.load_generator(), audio.load_speech(), audio.load_speech("test")
    draws = [sampling.generate(G, count, seed=seed) for seed in range(10)]
    sets = held_out.waves, train.waves[:count], *draws
    real, *others = (audio.log_mel(waves, train.rate) for waves in sets)
    reference, *fds = (metrics.frechet_distance(real, levels) for levels in others)
    assert count == len(held_out)
    assert quoted == pytest.approx([statistics.median(fds), min(fds), max(fds)], rel=0.03)
    assert floor == pytest.approx(reference, rel=0.01)


# Refusals


def test_wrong_sounds_and_sizes_are_refused():
    for waves in (torch.full((1, 1, 4), 2.0), torch.full((1, 1, 4), torch.nan)):
        with pytest.raises(data.DataError, match=r"float32 \(N, 1, L\) in \[-1, 1\], not float32"):
            audio.SoundSet(waves, torch.zeros(1).long(), ("a",), 4000)
    with pytest.raises(data.DataError, match="not int8"):
        audio.SoundSet(torch.zeros(3, 1, 4).char(), torch.zeros(3).long(), ("a",), 4000)
    with pytest.raises(data.DataError, match=r"labels must be int64 \(3,\), not int64 \(2,\)"):
        audio.SoundSet(torch.zeros(3, 1, 4), torch.zeros(2).long(), ("a",), 4000)
    with pytest.raises(data.DataError, match=r"labels must be in \[0, 1\), not .* to 7"):
        audio.SoundSet(torch.zeros(2, 1, 4), torch.tensor([0, 7]), ("a",), 4000)
    for act in (audio.to_bytes, lambda sound: audio.wav(sound, 4000)):
        with pytest.raises(AssertionError, match="the sound has NaN or infinity"):
            act(torch.full((4,), torch.nan))
    with pytest.raises(AssertionError, match=r"\(L,\), not \(2, 4\)"):
        audio.wav(torch.zeros(2, 4), 4000)
    with pytest.raises(AssertionError, match="float, not torch.uint8"):
        audio.wav(torch.zeros(4).byte(), 4000)
    with pytest.raises(AssertionError, match="must be uint8"):
        audio.from_bytes(torch.zeros(3))
    with pytest.raises(data.DataError, match=r"speech-all\.npz"):
        audio.load_speech("all")
    for network in (audio.SoundGenerator, audio.SoundDiscriminator):
        with pytest.raises(AssertionError, match="multiple of 64"):
            network(length=1000)


def test_pitch_refuses_what_it_cannot_find():
    with pytest.raises(AssertionError, match="too short for two periods"):
        audio.pitch(tone(200.0, length=64), 4000)
    for bounds in ({"lowest": 900.0}, {"highest": 2000.0}):
        with pytest.raises(AssertionError, match=r"in \(0, 2000\) Hz"):
            audio.pitch(tone(200.0), 4000, **bounds)


def test_training_refuses_sounds_of_another_length():
    G, D = audio.SoundGenerator(4, 64, width=2), audio.SoundDiscriminator(64, width=2)
    state = training.TrainState.init(G, D, audio.STRINGS_CONFIG)
    strings = audio.plucked_strings(20, length=128)
    with pytest.raises(ValueError, match=r"\(1, 64\), but the data are \(1, 128\)"):
        next(training.train(state, strings, audio.STRINGS_CONFIG))
