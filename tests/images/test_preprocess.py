"""`Preprocess` by itself: its value, its errors, its shapes, and `normalize` on any array."""

import inspect
import io
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from eqx_clip.images.augment import Augment
from eqx_clip.images.preprocess import OPENAI_MEAN, OPENAI_STD, Preprocess


PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def from_json(**options):
    """A transform of what a configuration file holds, whatever the annotations say."""
    return Preprocess(**options)


def test_equal_transforms_are_one_value():
    square = from_json(image_size=32, mean=[0.5, 0.5, 0.5], std=0.5, interpolation="random")
    same = from_json(image_size=[32, 32], mean=0.5, std=np.full(3, 0.5), interpolation="bicubic")
    assert square == same and hash(square) == hash(same) and repr(square) == repr(same)
    assert type(square.image_size) is int and square.mean == (0.5, 0.5, 0.5)
    wide = from_json(image_size=[24, np.int64(40)], fill_color=255)
    assert wide.image_size == (24, 40) and (wide.height, wide.width) == (24, 40)
    assert from_json(image_size=32.0).width == 32
    assert pickle.loads(pickle.dumps(wide)) == wide
    assert wide != from_json(image_size=[40, 24], fill_color=255)
    assert Preprocess() != Augment() and Preprocess() != Preprocess(resize_mode="squash")


def test_default_is_openais():
    assert Preprocess() == Preprocess(224, OPENAI_MEAN, OPENAI_STD, "bicubic", "shortest", 0)
    assert OPENAI_MEAN == (0.48145466, 0.4578275, 0.40821073)
    assert OPENAI_STD == (0.26862954, 0.26130258, 0.27577711)


def test_immutable():
    with pytest.raises(AttributeError):
        Preprocess().image_size = 336  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    "options, words",
    [
        ({"image_size": 0}, "image_size"),
        ({"image_size": (32, -1)}, "image_size"),
        ({"image_size": (32, 32, 3)}, "image_size"),
        ({"image_size": 32.5}, "image_size"),
        ({"image_size": "32"}, "image_size"),
        ({"image_size": None}, "image_size"),
        ({"mean": (0.5, 0.5)}, "mean"),
        ({"mean": None}, "mean"),
        ({"mean": (0.5, 0.5, float("nan"))}, "mean"),
        ({"std": 0}, "std"),
        ({"std": (1.0, -1.0, 1.0)}, "std"),
        ({"std": float("inf")}, "std"),
        ({"interpolation": "bicubik"}, "bicubic, bilinear, random.*Did you mean 'bicubic'"),
        ({"resize_mode": "short"}, "shortest, longest, squash.*Did you mean 'shortest'"),
        ({"resize_mode": ""}, "shortest, longest, squash"),
        ({"fill_color": 256}, "fill_color"),
        ({"fill_color": -1}, "fill_color"),
    ],
    ids=str,
)
def test_bad_options(options, words):
    with pytest.raises(ValueError, match=words):
        Preprocess(**options)


def test_every_kind_of_input_gives_the_same_result(tmp_path):
    preprocess = Preprocess(32)
    image = Image.fromarray(PIXELS)
    path = tmp_path / "image.png"
    image.save(path)
    expected = preprocess(image)
    assert expected.shape == (3, 32, 32) and expected.dtype == np.float32
    for same in (PIXELS, jnp.asarray(PIXELS), path, str(path), path.read_bytes()):
        np.testing.assert_array_equal(preprocess(same), expected)


def test_errors_of_images_come_through():
    with pytest.raises(ValueError, match=r"transpose\(1, 2, 0\)"):
        Preprocess()(PIXELS.transpose(2, 0, 1))
    with pytest.raises(ValueError, match="not an image"):
        Preprocess()(b"")


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("target", [16, (24, 10)])
@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 3), (16, 16), (24, 10), (400, 7)])
def test_any_image_comes_out_at_the_target_size(size, target, resize_mode):
    preprocess = Preprocess(target, resize_mode=resize_mode)
    pixels = preprocess.pixels(Image.new("RGB", size, (7, 8, 9)))
    assert pixels.shape == (3, preprocess.height, preprocess.width)
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous and pixels.flags.writeable
    # A plain image stays plain: what is not padding is its colour.
    np.testing.assert_array_equal(np.unique(pixels[:, pixels.any(0)], axis=1), [[7], [8], [9]])


def test_resize_modes():
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, 20:] = 200  # black on the left, light on the right
    shortest = Preprocess(20).pixels(image)
    np.testing.assert_array_equal(shortest, image[:, 10:30].transpose(2, 0, 1))
    longest = Preprocess(40, resize_mode="longest", fill_color=9).pixels(image)
    np.testing.assert_array_equal(longest[:, 10:30], image.transpose(2, 0, 1))
    assert (longest[:, :10] == 9).all() and (longest[:, 30:] == 9).all()
    squash = Preprocess((10, 40), resize_mode="squash").pixels(image)
    np.testing.assert_array_equal(squash, image[:10].transpose(2, 0, 1))


def test_images_too_thin_to_cover_the_target(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    thin = Image.new("RGB", (1, 60))
    assert Preprocess(16).pixels(thin).shape == (3, 16, 16)  # 16 x 960 pixels
    for target in (32, (32, 33)):  # 32 x 1920
        with pytest.raises(ValueError, match=r"long and thin.*PIL\.Image\.MAX_IMAGE_PIXELS"):
            Preprocess(target).pixels(thin)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert Preprocess(32).pixels(thin).shape == (3, 32, 32)


def test_rng_is_accepted_and_not_used():
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    image = Image.fromarray(PIXELS)
    np.testing.assert_array_equal(Preprocess(32)(image, rng), Preprocess(32)(image))
    assert rng.bit_generator.state == before
    for method in ("pixels", "__call__"):
        ours, theirs = (inspect.signature(getattr(c, method)) for c in (Preprocess, Augment))
        assert list(ours.parameters) == list(theirs.parameters)


def test_pure():
    image = Image.fromarray(PIXELS)
    np.testing.assert_array_equal(Preprocess(32)(image), Preprocess(32)(image))
    np.testing.assert_array_equal(np.asarray(image), PIXELS)
    Preprocess(64).pixels(PIXELS)[...] = 0  # the result is no view of the image
    assert PIXELS.any()


def test_normalize_formula():
    pixels = np.full((3, 2, 2), 255, np.uint8)
    expected = (1 - np.array(OPENAI_MEAN)) / np.array(OPENAI_STD)
    np.testing.assert_allclose(Preprocess().normalize(pixels)[:, 0, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("leading", [(), (4,), (2, 3), (0,)])
def test_normalize_in_jit_equals_numpy(leading):
    pixels = np.random.default_rng(0).integers(0, 256, (*leading, 3, 8, 9), np.uint8)
    preprocess = Preprocess()
    expected = preprocess.normalize(pixels)
    assert isinstance(expected, np.ndarray) and expected.dtype == np.float32
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        eager = preprocess.normalize(jnp.asarray(pixels))
        jitted = jax.jit(preprocess.normalize)(pixels)
    for ours in (eager, jitted):
        assert isinstance(ours, jax.Array) and ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)
    if leading:
        mapped = jax.vmap(preprocess.normalize)(pixels)
        np.testing.assert_allclose(mapped, expected, rtol=0, atol=1e-6)


def test_normalize_is_compiled_once_for_equal_transforms():
    traces = []

    @jax.jit(static_argnums=0)
    def step(transform, pixels):
        traces.append(transform)
        return transform.normalize(pixels)

    pixels = np.zeros((3, 8, 8), np.uint8)
    step(from_json(image_size=8, mean=0.5), pixels)
    step(from_json(image_size=[8, 8], mean=[0.5] * 3), pixels)
    assert len(traces) == 1


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_normalize_refuses(convert):
    normalize = Preprocess(8).normalize
    pixels = convert(np.zeros((2, 3, 8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"float32.*normalised already"):
        normalize(normalize(pixels))
    with pytest.raises(ValueError, match="int32"):
        normalize(pixels.astype(np.int32))
    with pytest.raises(ValueError, match=r"\(2, 8, 8, 3\).*np\.moveaxis\(pixels, -1, -3\)"):
        normalize(pixels.transpose(0, 2, 3, 1))
    with pytest.raises(ValueError, match=r"\(3, 8\)"):
        normalize(pixels[0, :, 0])
    np.testing.assert_array_equal(
        normalize(np.moveaxis(np.asarray(pixels).transpose(0, 2, 3, 1), -1, -3)),
        normalize(np.asarray(pixels)),
    )


def test_jpeg_bytes():
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "JPEG")
    assert Preprocess(32)(stream.getvalue()).shape == (3, 32, 32)


def photo(width, height):
    """A smooth image as a JPEG: what a reduced decode keeps."""
    x, y = np.meshgrid(np.linspace(0, 9, width), np.linspace(0, 7, height))
    waves = np.stack([np.sin(x), np.cos(y), np.sin(x + y)], -1)
    stream = io.BytesIO()
    Image.fromarray((127 + 120 * waves).astype(np.uint8)).save(stream, "JPEG", quality=95)
    return stream.getvalue()


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize(("draft", "decoded"), [(None, 640), (2, 160), (1, 80)])
def test_draft_decodes_a_jpeg_no_smaller_than_asked(resize_mode, draft, decoded, monkeypatch):
    widths = []
    load = JpegImageFile.load
    monkeypatch.setattr(JpegImageFile, "load", lambda x: widths.append(x.width) or load(x))
    exact = Preprocess(60, resize_mode=resize_mode)
    image = photo(640, 640)
    pixels = Preprocess(60, resize_mode=resize_mode, draft=draft).pixels(image)
    assert widths[0] == decoded
    difference = np.abs(pixels.astype(int) - exact.pixels(image))
    assert difference.max() <= (0 if draft is None else 6)


@pytest.mark.parametrize("make", [Preprocess, Augment])
def test_draft_leaves_small_jpegs_and_other_formats_as_they_are(make):
    stream = io.BytesIO()
    Image.fromarray(PIXELS).resize((640, 480)).save(stream, "PNG")
    for image in (photo(64, 48), stream.getvalue(), np.asarray(PIXELS)):
        exact, fast = (
            make(40, draft=draft).pixels(image, np.random.default_rng(0)) for draft in (None, 1)
        )
        np.testing.assert_array_equal(exact, fast)


def test_draft_is_of_three_values():
    with pytest.raises(ValueError, match="`draft` must be None, 1 or 2; got 4"):
        from_json(draft=4)
