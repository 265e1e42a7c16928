"""`Preprocess` against OpenCLIP's evaluation transform: no pixel and no bit may differ."""

import functools
import warnings
from typing import Any

import numpy as np
import pytest
from oracle import open_clip, torchvision
from PIL import Image

from eqx_clip.images.preprocess import OPENAI_MEAN, OPENAI_STD, Preprocess


transforms: Any = torchvision.transforms

MODES = ("shortest", "longest", "squash")
FILTERS = ("bicubic", "bilinear")
TARGETS = (32, (32, 32), (24, 40), (40, 24), (33, 31))

# (width, height): landscape, portrait, square, already there, odd, smaller, long, a few pixels.
SIZES = [
    *((64, 48), (48, 64), (50, 50), (32, 32), (40, 24), (24, 40), (53, 37), (37, 53)),
    *((33, 32), (31, 33), (20, 13), (13, 20), (200, 8), (8, 200), (2, 2), (1, 1), (1, 9), (9, 1)),
]


@functools.cache
def oracle(image_size, mode, interpolation, fill=0, mean=OPENAI_MEAN, std=OPENAI_STD) -> Any:
    return open_clip.image_transform(
        image_size,
        is_train=False,
        mean=mean,
        std=std,
        resize_mode=mode,
        interpolation=interpolation,
        fill_color=fill,
    )


def oracle_pixels(transform, image):
    """What the transform hands to `ToTensor`, uint8 (3, height, width)."""
    *geometry, _, normalize = transform.transforms
    assert isinstance(normalize, transforms.Normalize)
    for step in geometry:
        image = step(image)
    return np.asarray(image).transpose(2, 0, 1)


def noise(seed, width, height):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def smooth(seed, width, height):
    """Large areas and edges as photographs have: what noise does not test is overshoot."""
    return noise(seed, 4, 3).resize((width, height), Image.Resampling.LANCZOS)


def assert_same_bits(ours, tensor):
    assert ours.dtype == np.float32 and tensor.numpy().dtype == np.float32
    np.testing.assert_array_equal(ours.view(np.int32), tensor.numpy().view(np.int32))


def assert_equal(preprocess, expected, image):
    np.testing.assert_array_equal(preprocess.pixels(image), oracle_pixels(expected, image))
    assert_same_bits(preprocess(image), expected(image))


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("mode", MODES)
def test_equal_to_open_clip(mode, interpolation, target):
    preprocess = Preprocess(target, interpolation=interpolation, resize_mode=mode)
    expected = oracle(target, mode, interpolation)
    for seed, (width, height) in enumerate(SIZES):
        for picture in (noise, smooth):
            assert_equal(preprocess, expected, picture(seed, width, height))


@pytest.mark.parametrize("mode", MODES)
def test_equal_for_random_sizes_and_targets(mode):
    rng = np.random.default_rng(MODES.index(mode))
    for seed in range(150):
        height, width = (int(edge) for edge in rng.integers(8, 65, 2))
        target = (height, width) if seed % 2 else height
        size = (int(edge) for edge in rng.integers(8, 200, 2))
        interpolation, fill = FILTERS[seed % 3 == 0], int(rng.integers(256))
        preprocess = Preprocess(
            target, interpolation=interpolation, resize_mode=mode, fill_color=fill
        )
        assert_equal(preprocess, oracle(target, mode, interpolation, fill), noise(seed, *size))


@pytest.mark.parametrize("size", [(640, 480), (333, 500), (224, 224), (1000, 225), (100, 75)])
@pytest.mark.parametrize("target", [224, 336])
def test_equal_at_the_size_of_checkpoints(target, size):
    assert_equal(Preprocess(target), oracle(target, "shortest", "bicubic"), smooth(0, *size))


@pytest.mark.parametrize("mean, std", [(0.5, 0.5), ((0.0,) * 3, (1.0,) * 3), (OPENAI_STD, 0.3)])
def test_equal_for_other_statistics(mean, std):
    expected = oracle(32, "shortest", "bicubic", 0, mean, std)
    assert_equal(Preprocess(32, mean, std), expected, noise(0, 40, 50))


def test_normalize_is_equal_for_every_value_of_a_pixel():
    pixels = np.broadcast_to(np.arange(256, dtype=np.uint8), (3, 1, 256))
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    expected = transforms.Normalize(OPENAI_MEAN, OPENAI_STD)(transforms.ToTensor()(image))
    assert_same_bits(Preprocess().normalize(pixels), expected)


def in_mode(mode, transparency=None):
    rgb = smooth(1, 40, 30)
    if mode == "I;16":
        ramp = np.linspace(0, 400, 1200).reshape(30, 40)  # beyond 255, where the conversion clips
        image = Image.fromarray(ramp.astype(np.uint16))
    else:
        image = rgb.quantize(16) if mode == "P" else rgb.convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(noise(2, 40, 30).convert("L"))
    if transparency is not None:
        image.info["transparency"] = transparency
    assert image.mode == mode
    return image


TRANSPARENCIES = [("P", 3), ("P", bytes(range(0, 256, 16))), ("L", 7), ("RGB", (1, 2, 3))]
IMAGE_MODES = "1 L LA P RGB RGBA CMYK YCbCr HSV LAB I;16 I F".split()


@pytest.mark.parametrize("resize_mode", MODES)
@pytest.mark.parametrize(
    "mode, transparency", [*TRANSPARENCIES, *((mode, None) for mode in IMAGE_MODES)]
)
def test_equal_for_every_mode_of_an_image(mode, transparency, resize_mode):
    image = in_mode(mode, transparency)
    ours = Preprocess(24, resize_mode=resize_mode)(image)  # warns of nothing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow, of transparency that RGB cannot hold
        rgb = image.convert("RGB")
    assert_same_bits(ours, oracle(24, resize_mode, "bicubic")(rgb))


@pytest.mark.parametrize("mode, differs", [("P", True), ("RGBA", True), ("RGB", False)])
def test_open_clip_differs_from_itself_where_it_resizes_before_it_converts(mode, differs):
    """As OpenCLIP's CSV pipeline does: palettes meet nearest neighbour, colours meet alpha."""
    image = in_mode(mode)
    expected = oracle(24, "shortest", "bicubic")
    before, after = oracle_pixels(expected, image), oracle_pixels(expected, image.convert("RGB"))
    assert (before != after).any() == differs
    np.testing.assert_array_equal(Preprocess(24).pixels(image), after)


@pytest.mark.parametrize("size", [(1, 500), (500, 1), (300, 1)])
@pytest.mark.parametrize("target", [32, (24, 40)])
@pytest.mark.parametrize("mode", MODES)
def test_images_one_pixel_thin(mode, target, size):
    image, expected = noise(0, *size), oracle(target, mode, "bicubic")
    preprocess = Preprocess(target, resize_mode=mode)
    if mode == "longest":
        with pytest.raises(ValueError):  # OpenCLIP rounds the thin side to no pixel
            expected(image)
        ours = preprocess.pixels(image)
        assert ours.any() and ours.shape == (3, preprocess.height, preprocess.width)
    else:
        assert_equal(preprocess, expected, image)
