"""`Augment` by itself: a pure function of image and generator, its options, its crops."""

import io
import math
import pickle
import random
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from eqx_clip.images.augment import Augment, crop_box, jittered
from eqx_clip.images.preprocess import OPENAI_STD, Preprocess


PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
IMAGE = Image.fromarray(PIXELS)
EVERYTHING = Augment(
    32,
    scale=(0.3, 1.0),
    flip=0.5,
    color_jitter=(0.4, 0.4, 0.4, 0.1),
    grayscale_prob=0.2,
)


def from_json(**options):
    """A transform of what a configuration file holds, whatever the annotations say."""
    return Augment(**options)


def generator(seed=0):
    return np.random.default_rng(seed)


def test_equal_transforms_are_one_value():
    ours = from_json(
        image_size=32, mean=0.5, scale=[0.5, 1], color_jitter=[0.4, 0.4, 0.4, 0], flip=1
    )
    same = from_json(
        image_size=[32, 32],
        mean=[0.5, 0.5, 0.5],
        scale=(0.5, 1.0),
        color_jitter=(0.4, 0.4, 0.4, 0.0),
        flip=1.0,
    )
    assert ours == same and hash(ours) == hash(same) and repr(ours) == repr(same)
    assert pickle.loads(pickle.dumps(ours)) == ours
    assert ours != from_json(image_size=32, mean=0.5)


def test_a_checkpoints_augmentation():
    preprocess = Preprocess((24, 40), mean=(0.1, 0.2, 0.3), std=OPENAI_STD)
    augment = Augment(preprocess.image_size, preprocess.mean, preprocess.std)
    assert augment(IMAGE, generator()).shape == (3, 24, 40)
    pixels = augment.pixels(IMAGE, generator())
    np.testing.assert_array_equal(augment.normalize(pixels), preprocess.normalize(pixels))
    np.testing.assert_allclose(
        jax.jit(augment.normalize)(jnp.asarray(pixels)), preprocess.normalize(pixels), atol=1e-6
    )


@pytest.mark.parametrize(
    "options",
    [
        {"image_size": 0},
        {"mean": "grey"},
        {"std": 0},
        {"scale": (0, 1)},
        {"scale": (0.5, 1.1)},
        {"scale": (0.9, 0.5)},
        {"scale": 0.9},
        {"ratio": (0, 1)},
        {"ratio": (2, 1)},
        {"ratio": None},
        {"flip": 1.5},
        {"flip": True + 1},
        {"color_jitter": 0.4},
        {"color_jitter": (0.4, 0.4, 0.4)},
        {"color_jitter": (0.4, -0.4, 0.4, 0.1)},
        {"color_jitter": (0.4, 0.4, 0.4, 0.6)},
        {"color_jitter_prob": -0.1},
        {"grayscale_prob": float("nan")},
    ],
    ids=str,
)
def test_bad_options(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        Augment(**options)


@pytest.mark.parametrize(
    "rng",
    [None, 0, np.random.RandomState(0), jax.random.key(0)],
    ids=["none", "seed", "legacy", "jax"],
)
def test_a_generator_is_needed(rng):
    with pytest.raises(ValueError, match=re.escape("rng=np.random.default_rng(seed)")):
        EVERYTHING(IMAGE, rng)
    with pytest.raises(ValueError, match=type(rng).__name__):
        EVERYTHING.pixels(IMAGE, rng)


def test_errors_of_images_come_through():
    with pytest.raises(ValueError, match="not an image"):
        EVERYTHING(b"", generator())


def test_pure():
    for seed in range(20):
        random.seed(seed)
        np.random.seed(seed)
        state = np.random.get_state()
        first = EVERYTHING.pixels(IMAGE, generator(seed))
        np.testing.assert_equal(np.random.get_state(), state)
        random.seed(-seed)
        np.random.seed(99)
        np.testing.assert_array_equal(EVERYTHING.pixels(PIXELS, generator(seed)), first)
    np.testing.assert_array_equal(np.asarray(IMAGE), PIXELS)


def test_random():
    rng = generator()
    results = {EVERYTHING.pixels(IMAGE, rng).tobytes() for _ in range(20)}
    assert len(results) == 20


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 3), (5000, 40)])
def test_any_image_comes_out_at_the_target_size(size):
    augment = Augment((20, 12), color_jitter=(0.4, 0.4, 0.4, 0.1))
    for seed in range(5):
        pixels = augment.pixels(Image.new("RGB", size), generator(seed))
        assert pixels.shape == (3, 20, 12) and pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous and pixels.flags.writeable


SCALES = [((0.9, 1.0), (3 / 4, 4 / 3)), ((0.08, 1.0), (3 / 4, 4 / 3)), ((0.2, 0.3), (0.2, 5.0))]


@pytest.mark.parametrize("scale, ratio", SCALES)
@pytest.mark.parametrize("width, height", [(640, 480), (480, 640), (500, 500), (400, 500)])
def test_crops_lie_inside_and_have_the_area_and_ratio_asked_for(width, height, scale, ratio):
    rng = generator()
    areas, ratios, lefts, tops = [], [], [], []
    for _ in range(2000):
        left, top, right, bottom = crop_box(width, height, scale, ratio, rng)
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        areas.append((right - left) * (bottom - top) / (width * height))
        ratios.append((right - left) / (bottom - top))
        if right - left < width:
            lefts.append(left / (width - (right - left)))
        if bottom - top < height:
            tops.append(top / (height - (bottom - top)))
    slack = 0.5 / 50  # half a pixel in the smallest edge
    assert scale[0] * (1 - slack) <= min(areas) and max(areas) <= scale[1] * (1 + slack)
    assert ratio[0] * (1 - slack) <= min(ratios) and max(ratios) <= ratio[1] * (1 + slack)
    for positions in (lefts, tops):  # anywhere from one edge to the other
        assert min(positions) == 0 and max(positions) == 1
        assert abs(np.mean(positions) - 0.5) < 5 / math.sqrt(12 * len(positions))


def test_area_is_uniform_and_ratio_log_uniform():
    """Seen where every draw fits, so that none is rejected."""
    rng = generator()
    boxes = np.array([crop_box(4000, 4000, (0.1, 0.3), (0.5, 2.0), rng) for _ in range(4000)])
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area = (widths * heights / 4000**2 - 0.1) / 0.2
    log_ratio = (np.log(widths / heights) / math.log(2) + 1) / 2
    for uniform in (area, log_ratio):
        shares, _ = np.histogram(uniform, 10, (0, 1))
        np.testing.assert_allclose(shares, 400, atol=5 * math.sqrt(400))


def test_crops_that_cannot_fit_are_central():
    rng = generator()
    assert crop_box(100, 1000, (0.9, 1.0), (0.75, 4 / 3), rng) == (0, 433, 100, 566)
    assert crop_box(1000, 100, (0.9, 1.0), (0.75, 4 / 3), rng) == (433, 0, 566, 100)
    assert crop_box(1, 1, (0.01, 0.02), (1, 1), rng) == (0, 0, 1, 1)  # rounds to nothing
    assert crop_box(1, 9, (0.9, 1.0), (3.0, 4.0), rng) == (0, 4, 1, 5)


def test_flip():
    plain = Augment(32).pixels(IMAGE, generator())
    flipped = Augment(32, flip=1.0).pixels(IMAGE, generator())
    np.testing.assert_array_equal(flipped, plain[:, :, ::-1])


def test_grayscale():
    grey = Augment(32, grayscale_prob=1.0).pixels(IMAGE, generator())
    assert (grey == grey[:1]).all() and grey.std() > 0


def test_probabilities():
    options = {"image_size": 8, "scale": (1.0, 1.0), "ratio": (4 / 3, 4 / 3)}
    image = Image.fromarray(PIXELS[:9, :12])
    plain = Preprocess(8, resize_mode="squash").pixels(image)
    jitter = (0.9, 0.0, 0.0, 0.0)

    def share_changed(**more):
        augment, rng = Augment(**options, **more), generator()
        return np.mean([(augment.pixels(image, rng) != plain).any() for _ in range(500)])

    assert share_changed() == 0
    assert share_changed(color_jitter_prob=1.0) == 0  # nothing to jitter by
    assert share_changed(color_jitter=jitter, color_jitter_prob=0.0) == 0
    tolerance = 5 * math.sqrt(0.25 / 500)
    assert abs(share_changed(color_jitter=jitter) - 0.8) < tolerance
    assert abs(share_changed(color_jitter=jitter, color_jitter_prob=0.3) - 0.3) < tolerance
    assert abs(share_changed(flip=0.5) - 0.5) < tolerance
    assert abs(share_changed(grayscale_prob=0.2) - 0.2) < tolerance


def test_jitter_of_nothing_changes_nothing():
    result = jittered(IMAGE, (0.0, 0.0, 0.0, 0.0), generator())
    np.testing.assert_array_equal(np.asarray(result), PIXELS)


def test_factors_start_at_zero_when_the_strength_exceeds_one():
    """A negative factor of saturation would show the complementary colour."""
    red = Image.new("RGB", (1, 1), "red")
    for seed in range(50):
        pixel = np.asarray(jittered(red, (0.0, 0.0, 3.0, 0.0), generator(seed)))[0, 0]
        assert pixel[0] >= pixel[1] == pixel[2]


@pytest.mark.parametrize("draft", [1, 2])
def test_draft_crops_what_the_exact_decode_crops(draft):
    """A small crop is decoded larger than a large one, so that it stays sharp enough."""
    x, y = np.meshgrid(np.linspace(0, 9, 800), np.linspace(0, 7, 600))
    waves = np.stack([np.sin(x), np.cos(y), np.sin(x + y)], -1)
    stream = io.BytesIO()
    Image.fromarray((127 + 120 * waves).astype(np.uint8)).save(stream, "JPEG", quality=95)
    for seed in range(20):
        exact, fast = (
            Augment(64, scale=(0.05, 1.0), flip=0.5, draft=d).pixels(
                stream.getvalue(), generator(seed)
            )
            for d in (None, draft)
        )
        assert np.abs(exact.astype(int) - fast).mean() < 1.5
