"""`Augment` against OpenCLIP's training transform: the same draws give the same pixels.

torchvision draws its numbers with torch. Here its draws are answered by the same NumPy generator
that `Augment` is given, in torchvision's own order, and OpenCLIP's own code does the rest.
"""

import math
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from oracle import open_clip, torch, torchvision
from PIL import Image

from eqx_clip.images.augment import Augment, _adjust_hue, crop_box


transforms: Any = torchvision.transforms
SIZES = [(64, 48), (48, 64), (37, 53), (20, 13), (300, 40), (3, 5)]  # (width, height)
USUAL = (0.4, 0.4, 0.4, 0.1)
SINGLE = [(0.9, 0.0, 0.0, 0.0), (0.0, 1.5, 0.0, 0.0), (0.0, 0.0, 2.0, 0.0), (0.0, 0.0, 0.0, 0.5)]
OPTIONS = [
    *((None, 0.8, 0.0), (None, 0.8, 0.5), (USUAL, 0.0, 0.5), (USUAL, 0.8, 0.2), (USUAL, 1.0, 0.0)),
    *((strengths, 1.0, 0.0) for strengths in SINGLE),
]


class Draws:
    """What torchvision and OpenCLIP ask of `torch` and `random`, answered by a NumPy generator."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.random = SimpleNamespace(random=self.rng.random)
        # In float64, as `Augment` computes, where torch would round the ratio to float32.
        self.torch = SimpleNamespace(
            tensor=lambda values: torch.tensor(values, dtype=torch.float64),
            log=torch.log,
            exp=torch.exp,
            empty=lambda size: SimpleNamespace(uniform_=self._uniform),
            randint=self._randint,
            randperm=self.rng.permutation,
        )

    def _uniform(self, low, high):
        return torch.tensor(self.rng.uniform(float(low), float(high)), dtype=torch.float64)

    def _randint(self, low, high, size):
        return torch.tensor(self.rng.integers(low, high))


@pytest.fixture
def seeded(monkeypatch):
    """Seeds OpenCLIP and torchvision, and returns a generator of the same state for `Augment`."""

    def seed(value):
        draws = Draws(value)
        monkeypatch.setattr("torchvision.transforms.transforms.torch", draws.torch)
        monkeypatch.setattr("open_clip.transform.random", draws.random)
        return np.random.default_rng(value)

    return seed


def picture(seed, width, height):
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)


@pytest.mark.parametrize("scale", [(0.9, 1.0), (0.08, 1.0)])
@pytest.mark.parametrize("target", [32, (24, 40)])
@pytest.mark.parametrize("jitter, jitter_prob, grey_prob", OPTIONS)
def test_equal_to_open_clip(seeded, jitter, jitter_prob, grey_prob, target, scale):
    augment = Augment(
        target,
        scale=scale,
        color_jitter=jitter,
        color_jitter_prob=jitter_prob,
        grayscale_prob=grey_prob,
    )
    config = open_clip.AugmentationCfg(
        scale=scale,
        color_jitter=jitter,
        color_jitter_prob=jitter_prob if jitter else 0.0,
        gray_scale_prob=grey_prob,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # OpenCLIP calls options unused that it has just used
        expected: Any = open_clip.image_transform(target, is_train=True, aug_cfg=config)
    for seed, size in enumerate(SIZES * 4):
        image = picture(seed, *size)
        rng = seeded(seed)
        ours, theirs = augment(image, rng), expected(image).numpy()
        assert ours.dtype == theirs.dtype == np.float32
        np.testing.assert_array_equal(ours.view(np.int32), theirs.view(np.int32))


@pytest.mark.parametrize("scale", [(0.9, 1.0), (0.08, 1.0), (0.5, 0.5)])
@pytest.mark.parametrize("ratio", [(3 / 4, 4 / 3), (0.2, 5.0), (1.0, 1.0), (2.0, 3.0)])
def test_crop_boxes_are_torchvisions(seeded, scale, ratio):
    sizes = np.random.default_rng(0).integers(2, 700, (400, 2))
    for seed, (width, height) in enumerate(sizes.tolist()):
        left, top, right, bottom = crop_box(width, height, scale, ratio, seeded(seed))
        image = Image.new("1", (width, height))
        expected = transforms.RandomResizedCrop.get_params(image, list(scale), list(ratio))
        assert (top, left, bottom - top, right - left) == expected


def test_crops_have_the_distribution_of_torchvisions_own_draws():
    width, height, scale, ratio = 640, 480, (0.08, 1.0), (3 / 4, 4 / 3)
    rng, image = np.random.default_rng(0), Image.new("1", (width, height))
    ours = np.array([crop_box(width, height, scale, ratio, rng) for _ in range(3000)])
    ours[:, 2:] -= ours[:, :2]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draw = transforms.RandomResizedCrop.get_params
        theirs = np.array([draw(image, list(scale), list(ratio)) for _ in range(3000)])
    for column, expected in zip(ours.T, theirs[:, [1, 0, 3, 2]].T, strict=True):
        # Kolmogorov-Smirnov: 1.95 is passed once in a thousand by equal distributions.
        at = np.union1d(column, expected)
        shares = [np.searchsorted(np.sort(x), at, "right") / 3000 for x in (column, expected)]
        assert np.abs(shares[0] - shares[1]).max() < 1.95 * math.sqrt(2 / 3000)


def test_hue_shifts_are_torchvisions_for_every_factor():
    image = picture(0, 40, 30)
    for step in range(-100, 101):
        factor = step / 200
        expected = transforms.functional.adjust_hue(image, factor)
        np.testing.assert_array_equal(_adjust_hue(image, factor), expected)


def test_flip_is_torchvisions():
    image = picture(0, 64, 48)
    plain = Augment(32).pixels(image, np.random.default_rng(0))
    ours = Augment(32, flip=1.0).pixels(image, np.random.default_rng(0))
    flipped = transforms.functional.hflip(Image.fromarray(plain.transpose(1, 2, 0)))
    np.testing.assert_array_equal(ours, np.asarray(flipped).transpose(2, 0, 1))
