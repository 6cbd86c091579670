"""The pair for sounds, pitch against tones of known pitch, levels against tones of known band, words."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gan_tutorial import audio, data, losses, networks, sampling, sounds, training

NOTES = torch.tensor(list(sounds.NOTES.values()))


def tone(hertz: float, length: int = 1024, rate: int = 4000, phase: float = 0.0) -> torch.Tensor:
    """Return one sine (1, 1, length)."""
    return 0.5 * torch.sin(2 * math.pi * hertz * torch.arange(length) / rate + phase)[None, None]


def noise(count: int, length: int = 1024, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 1, length, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# The pair


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
                torch.ones(1, layer.in_channels, 32), torch.ones_like(layer.weight), stride=4, padding=6
            )
            assert len(ones[0, 0, 16:-16].unique()) == 1


def test_two_steps_change_both_networks():
    strings = sounds.strings(20, length=64)
    config = replace(audio.STRINGS, steps=2, batch_size=8)
    G, D = audio.SoundGenerator(4, 64, width=2, classes=10), audio.SoundDiscriminator(64, width=2, classes=10)
    before = [[p.clone() for p in network.parameters()] for network in (G, D)]
    state = training.TrainState.fresh(G, D, config)
    for log in training.train(state, strings, losses.objective("relativistic"), config):
        assert math.isfinite(log.penalty)
    for network, old in zip((state.G, state.D), before, strict=True):
        same = [torch.equal(p, q) for p, q in zip(network.parameters(), old, strict=True)]
        assert sum(same) == (network is state.D)  # the last bias, since a relativistic loss sees differences only


def test_the_bundled_generator_says_what_it_is_asked_to():
    G = audio.load_generator()
    labels = torch.arange(200) % 10
    said = sampling.sample(G, sampling.latents(200, G.latent_dim, seed=5), labels)
    assert said.shape == (200, 1, 2048)
    recogniser = audio.train_recogniser(sounds.load_speech(), steps=300)
    assert (recogniser(said).argmax(1) == labels).float().mean() > 0.8  # chance: 0.1


# Phase shuffle


@given(st.integers(1, 4), st.integers(0, 1000))
def test_phase_shuffle_shifts_each_sample_as_a_whole_and_mirrors_the_end(reach, seed):
    torch.manual_seed(seed)
    before = torch.randn(20, 3, 16)
    after = audio.PhaseShuffle(reach)(before)
    mirrored = torch.nn.functional.pad(before, (reach, reach), mode="reflect")
    for one, shifted in zip(mirrored, after, strict=True):
        assert any(torch.equal(shifted, one[:, start : start + 16]) for start in range(2 * reach + 1))


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
        waves = sounds.pluck(pitches, torch.full((60,), decay), torch.full((60,), brightness), torch.zeros(60))
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
    pitches = 146.83 * (523.25 / 146.83) ** torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    semitones = 12 * math.log2(523.25 / 146.83)
    assert audio.in_tune(pitches, NOTES.expand(20_000, -1)) == pytest.approx(9 / semitones, abs=0.01)  # two half notes


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


def test_a_tone_stands_in_its_band_and_its_part_of_time():
    wave = tone(1000.0)
    wave[..., 512:] = 0
    levels = audio.bands(wave, 4000, count=16, parts=4).unflatten(1, (16, 4))[0]
    edges = 700 * (10 ** (torch.linspace(0, 2595 * math.log10(1 + 2000 / 700), 18) / 2595) - 1)
    loudest = levels[:, 0].argmax()
    assert edges[loudest] < 1000 < edges[loudest + 2]
    assert levels[loudest, 0] > 20
    assert levels[loudest, 3] == 0


def test_ten_times_as_loud_is_20_decibels_more():
    quiet, loud = (audio.bands(level * noise(4), 4000) for level in (0.1, 1.0))
    power = 10 ** (quiet / 10) - 1
    torch.testing.assert_close(loud, 10 * (100 * power + 1).log10(), rtol=1e-3, atol=1e-3)


def test_a_recogniser_knows_held_out_voices():
    train, held_out = (sounds.load_speech(split) for split in data.SPLITS)
    recogniser = audio.train_recogniser(train, steps=200)
    assert (recogniser(held_out.waves).argmax(1) == held_out.labels).float().mean() > 0.95
    again = audio.train_recogniser(train, steps=200)
    assert torch.equal(recogniser(held_out.waves), again(held_out.waves))


# Bad inputs


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: audio.SoundGenerator(length=1000), "multiple of 64"),
        (lambda: audio.SoundDiscriminator(length=32), "length must be"),
        (lambda: audio.SoundGenerator(width=0), "width must be"),
        (lambda: audio.SoundDiscriminator(length=64)(torch.zeros(2, 1, 128)), "samples must be"),
        (lambda: audio.PhaseShuffle(-1), "reach must be"),
        (lambda: audio.PhaseShuffle(2)(torch.zeros(3, 8)), "takes"),
        (lambda: audio.PhaseShuffle(2)(torch.zeros(3, 1, 2)), "L above it"),
        (lambda: audio.spectrogram(torch.zeros(2, 64)), "sounds must be"),
        (lambda: audio.spectrogram(torch.zeros(2, 1, 64), hop=0), "hop must be"),
        (lambda: audio.bands(torch.zeros(2, 1, 64), 4000, parts=0), "parts must be"),
        (lambda: audio.bands(torch.full((2, 1, 64), 3.0), 4000), "reach 3"),
        (lambda: audio.pitch(tone(200.0), 4000, lowest=900.0), "0 < lowest < highest"),
        (lambda: audio.pitch(tone(200.0), 4000, highest=2000.0), "0 < lowest < highest"),
        (lambda: audio.pitch(tone(200.0, length=64), 4000), "less than two periods"),
        (lambda: audio.in_tune(torch.ones(3), torch.ones(2)), "in_tune takes"),
        (lambda: audio.in_tune(torch.ones(3), torch.zeros(3)), "above 0 Hz"),
        (lambda: audio.in_tune(torch.ones(3), torch.ones(3), within=0), "within must be"),
        (lambda: audio.train_recogniser(sounds.strings(20, length=64), steps=0), "steps must be"),
    ],
)
def test_a_bad_input_is_refused_with_advice(act, message):
    with pytest.raises(ValueError, match=message) as raised:
        act()
    assert type(raised.value) in (ValueError, data.DataError)
    assert "\n" not in str(raised.value)


def test_the_pair_is_a_pair_of_the_package():
    G, D = audio.speech_pair()
    assert isinstance(G, networks.Generator)
    assert isinstance(D, networks.Discriminator)
    assert G.shape == D.shape == (1, 2048)
