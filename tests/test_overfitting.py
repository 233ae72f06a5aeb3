"""Overfitting is claimed of made curves where the definition holds, and of no others; the sentences follow."""

import numpy as np
import pytest

from cnnjax.article import captions, overfitting

EPOCHS = 40
E = np.arange(1, EPOCHS + 1)
FALLS = 0.1 + 0.6 * 0.9**E
STAYS = 0.35 + 0.35 * 0.8**E
RISES = STAYS + 0.02 * np.maximum(0, E - 12)


def history(train, valid):
    return [
        {"epoch": int(e), "train_loss": float(t), "valid_loss": float(v), "train_accuracy": 0.9, "valid_accuracy": 0.8}
        for e, t, v in zip(range(1, len(train) + 1), train, valid, strict=True)
    ]


def said(train, valid):
    return captions.curve({"history": history(train, valid), "test": {}}, "Made")


def noise(scale, seed=0):
    return np.random.default_rng(seed).normal(0, scale, EPOCHS)


def test_a_rise_beside_a_falling_training_loss_is_overfitting():
    verdict = overfitting.judge(history(FALLS, RISES))
    assert verdict.overfitted and verdict.window == 5
    # The means over five epochs, computed here one by one.
    means = [RISES[i : i + 5].mean() for i in range(EPOCHS - 4)]
    assert verdict.lowest == pytest.approx(min(means)) and verdict.end == pytest.approx(means[-1])
    assert verdict.epoch == int(np.argmin(means)) + 3  # epochs count from 1; the middle is two further
    assert verdict.train_end == pytest.approx(FALLS[-5:].mean())
    text = said(FALLS, RISES)
    assert "This is overfitting" in text
    assert f"from {min(means):.2f} (around epoch {verdict.epoch}) to {means[-1]:.2f}" in text


@pytest.mark.parametrize("seed", range(20))
def test_noise_neither_makes_nor_hides_overfitting(seed):
    assert not overfitting.judge(history(FALLS + noise(0.01, 99), STAYS + noise(0.03, seed))).overfitted
    assert overfitting.judge(history(FALLS + noise(0.01, 99), RISES + noise(0.03, seed))).overfitted


def test_single_bad_epochs_at_the_end_are_not_overfitting():
    valid = STAYS.copy()
    valid[-1] *= 1.2
    assert not overfitting.judge(history(FALLS, valid)).overfitted


@pytest.mark.parametrize(
    ("train", "why"),
    [
        (0.3 + 0.005 * E, "the training loss rises, too"),
        (FALLS + 1.0, "the training loss is above the validation loss"),
    ],
)
def test_a_rise_alone_is_not_overfitting(train, why):
    assert not overfitting.judge(history(train, RISES)).overfitted, why
    text = said(train, RISES)
    assert "This is overfitting" not in text and "not the clear rise beside a falling training loss" in text


def test_a_rise_that_is_small_is_not_called_clear():
    assert not overfitting.judge(history(FALLS, STAYS + 0.0004 * np.maximum(0, E - 12))).overfitted


def test_a_loss_that_falls_to_the_end_is_said_to_do_so():
    falling = 0.3 + 0.3 * 0.95**E
    assert "This is the last epoch" in said(FALLS, falling)
    falling[-1] += 0.01
    text = said(FALLS, falling)
    assert "it is lowest at the end" in text and "do not show overfitting" in text


@pytest.mark.parametrize(("epochs", "window"), [(1, 1), (3, 1), (9, 3), (20, 5), (30, 5), (50, 7), (60, 9), (99, 9)])
def test_longer_runs_are_smoothed_more(epochs, window):
    losses = np.linspace(1.0, 0.5, epochs)
    assert overfitting.judge(history(losses, losses)).window == window


@pytest.mark.parametrize("epochs", [1, 2, 3, 5])
def test_short_runs_are_not_overfitted(epochs):
    verdict = overfitting.judge(history(FALLS[:epochs], RISES[::-1][-epochs:][::-1]))
    assert not verdict.overfitted and verdict.window <= 3
    assert "This is overfitting" not in said(FALLS[:epochs], FALLS[:epochs])


def test_a_steep_rise_at_the_end_counts():
    """The main job's run without augmentation, seed 0: the lowest mean is that of epochs 12 to 16."""
    train = [.696, .688, .673, .679, .66, .66, .639, .624, .611, .577,
             .56, .508, .477, .402, .408, .349, .274, .252, .222, .184]  # fmt: skip
    valid = [.695, .679, .675, .676, .646, .66, .648, .649, .648, .621,
             .597, .584, .561, .554, .538, .579, .621, .622, .736, .829]  # fmt: skip
    rows = [
        {"epoch": e, "train_loss": t, "valid_loss": v} for e, (t, v) in enumerate(zip(train, valid, strict=True), 1)
    ]
    verdict = overfitting.judge(rows)
    assert verdict.overfitted and verdict.epoch == 14
    # Two epochs earlier nobody could have known.
    assert not overfitting.judge(rows[:17]).overfitted
