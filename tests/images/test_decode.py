"""`to_rgb`: everything that is an image gives the same pixels, everything else says what to do."""

import contextlib
import io
import logging
import re
import struct
import warnings
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngInfo

from eqx_clip.images.decode import _tell_of_cut, to_rgb


PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def encoded(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


PNG = encoded(Image.fromarray(PIXELS))
RED, BLUE = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
ANIMATION = encoded(RED, "GIF", save_all=True, append_images=[BLUE])


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR" + header) + chunk(b"IDAT" + zlib.compress(b""))


def test_every_kind_of_input_gives_the_same_pixels(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(PNG)
    read_only = PIXELS.copy()
    read_only.flags.writeable = False
    backwards = np.ascontiguousarray(PIXELS[::-1, ::-1])[::-1, ::-1]
    with Image.open(path) as lazily_opened:
        for image in (
            *(Image.fromarray(PIXELS), lazily_opened, PNG, path, str(path)),
            *(PIXELS, read_only, backwards, np.asfortranarray(PIXELS), jnp.asarray(PIXELS)),
        ):
            rgb = to_rgb(image)
            assert rgb.mode == "RGB" and rgb.size == (30, 20)
            np.testing.assert_array_equal(np.asarray(rgb), PIXELS)


def test_buffers_open_files_and_paths_from_home_are_images(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "image.png"
    path.write_bytes(PNG)

    class Stream:  # what a web request gives: no way back
        def __init__(self):
            self.read = io.BytesIO(PNG).read

    with open(path, "rb") as file, open(path, "rb", buffering=0) as raw:
        for image in (
            *(file, raw, io.BytesIO(PNG), Stream(), bytearray(PNG), memoryview(PNG)),
            *("~/image.png", Path("~/image.png")),
        ):
            np.testing.assert_array_equal(np.asarray(to_rgb(image)), PIXELS)
        np.testing.assert_array_equal(np.asarray(to_rgb(file)), PIXELS)  # from its start again
        assert not file.closed


def test_a_file_of_text_is_refused_with_how_to_open_it(tmp_path):
    path = tmp_path / "image.png"
    for content in (b"text", PNG):
        path.write_bytes(content)
        with (
            open(path) as file,
            pytest.raises(ValueError, match=r"gives str: open it with `open\(path"),
        ):
            to_rgb(file)


def test_grey_and_transparent_arrays():
    grey = PIXELS[..., 0]
    repeated = np.stack([grey] * 3, axis=-1)
    np.testing.assert_array_equal(np.asarray(to_rgb(grey)), repeated)
    np.testing.assert_array_equal(np.asarray(to_rgb(grey[..., None])), repeated)
    transparent = np.concatenate([PIXELS, grey[..., None]], axis=-1)
    np.testing.assert_array_equal(np.asarray(to_rgb(transparent)), PIXELS)
    # Three rows are still rows: an array is only called channels first when it cannot be otherwise.
    assert to_rgb(np.zeros((3, 7, 3), np.uint8)).size == (7, 3)


@pytest.mark.parametrize("transparency", [3, bytes(range(16))], ids=["entry", "alphas"])
def test_transparency_in_a_palette_neither_warns_nor_changes_the_image(transparency):
    image = Image.fromarray(PIXELS).quantize(16)
    image.info["transparency"] = transparency
    opaque = image.copy()
    del opaque.info["transparency"]
    np.testing.assert_array_equal(np.asarray(to_rgb(image)), np.asarray(opaque.convert("RGB")))
    assert image.info["transparency"] == transparency and image.mode == "P"


def test_orientation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter for display
    assert to_rgb(encoded(Image.fromarray(PIXELS), "JPEG", exif=exif)).size == (30, 20)


def test_first_frame_of_an_animation():
    assert to_rgb(ANIMATION).getpixel((0, 0)) == (255, 0, 0)
    with Image.open(io.BytesIO(ANIMATION)) as image:
        image.seek(1)
        assert to_rgb(image).getpixel((0, 0)) == (0, 0, 255)
        image.seek(0)  # the user's image stays open


def test_files_are_closed(tmp_path, monkeypatch):
    opened = []

    def spy(*args, **kwargs):
        opened.append(open(*args, **kwargs))
        return opened[-1]

    monkeypatch.setattr("eqx_clip.images.decode.open", spy, raising=False)
    whole, damaged, animation = (tmp_path / name for name in ("a.png", "b.png", "c.gif"))
    whole.write_bytes(PNG)
    damaged.write_bytes(PNG[:-300])
    animation.write_bytes(ANIMATION)
    to_rgb(whole)
    to_rgb(animation)
    with pytest.raises(ValueError):
        to_rgb(damaged)
    assert len(opened) == 3 and all(stream.closed for stream in opened)


def assert_refused(image, *words):
    with pytest.raises(ValueError) as error:
        to_rgb(image)
    for word in words:
        assert word in str(error.value)


def test_missing_files_keep_their_error(tmp_path):
    missing = tmp_path / "missing.png"
    with pytest.raises(FileNotFoundError, match=re.escape(str(missing))):
        to_rgb(missing)
    with pytest.raises(OSError, match=re.escape(str(tmp_path))):
        to_rgb(tmp_path)


@pytest.mark.parametrize(
    "url", ["https://example.com/cat.png", "gs://bucket/cat.png", "data:image/png;base64,iVBORw0K"]
)
def test_urls_are_not_fetched(url):
    assert_refused(url, url, "URL", "download")


def test_what_is_no_image(tmp_path):
    page = tmp_path / "page.jpg"
    page.write_bytes(b"<html>404</html>")
    assert_refused(page, str(page), "not an image", "JPEG")
    assert_refused(b"", "length 0", "not an image")
    assert_refused(b"cat.png", "length 7", "not an image")
    for other in (None, 3, [PIXELS]):
        assert_refused(other, type(other).__name__, "PIL image", "path", "bytes", "uint8 array")


def test_truncated_and_damaged_images(tmp_path):
    jpeg = encoded(Image.fromarray(PIXELS).resize((200, 200)), "JPEG")
    path = tmp_path / "truncated.jpg"
    path.write_bytes(jpeg[: len(jpeg) // 2])
    assert_refused(path.read_bytes(), f"length {len(jpeg) // 2}", "truncated", "skip it")
    assert_refused(path, str(path), "truncated", "skip it")
    with Image.open(path) as lazily_opened:
        assert_refused(lazily_opened, str(path), "truncated", "skip it")
    closed = Image.open(io.BytesIO(PNG))
    closed.close()
    assert_refused(closed, "cannot be decoded")


def test_no_damage_escapes_as_another_error():
    rng = np.random.default_rng(0)
    refused = 0
    for file_format in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"):
        whole = encoded(Image.fromarray(PIXELS), file_format)
        for _ in range(60):
            damaged = bytearray(whole)
            for index in rng.integers(0, len(damaged), 3):
                damaged[index] = rng.integers(256)
            damaged = bytes(damaged[: rng.integers(1, len(damaged) + 1)])
            try:
                to_rgb(damaged)
            except ValueError:
                refused += 1
    assert refused > 100


def test_decompression_bombs():
    assert_refused(png_of_size(60_000, 60_000), "too large", "PIL.Image.MAX_IMAGE_PIXELS")


def test_memory_errors_pass(monkeypatch):
    def exhausted(self):
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", exhausted)
    with pytest.raises(MemoryError):
        to_rgb(PNG)


def test_images_without_pixels():
    assert_refused(Image.new("RGB", (0, 5)), "no pixels", "(0, 5)")
    assert_refused(np.zeros((5, 0, 3), np.uint8), "no pixels", "(5, 0, 3)")
    assert_refused(np.zeros((0, 5), np.uint8), "no pixels", "(0, 5)")


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_arrays_that_are_no_image(convert):
    planes = convert(PIXELS.transpose(2, 0, 1))
    assert_refused(planes, "(3, 20, 30)", "transpose(1, 2, 0)")
    assert_refused(convert(PIXELS[None]), "(1, 20, 30, 3)", "One image at a time")
    assert_refused(convert(PIXELS[0, 0]), "(3,)")
    assert_refused(convert(PIXELS[..., :2]), "(20, 30, 2)", "1, 3 or 4")
    unit = convert((PIXELS / 255).astype(np.float32))
    assert_refused(unit, "float32", "(255 * x).round().astype(np.uint8)")
    assert_refused(unit.astype(jnp.bfloat16), "bfloat16", "(255 * x).round().astype(np.uint8)")
    assert_refused(convert(PIXELS.astype(np.int32)), "int32", "x.astype(np.uint8)")


def test_remedies_work():
    np.testing.assert_array_equal(
        np.asarray(to_rgb((255 * (PIXELS / 255)).round().astype(np.uint8))), PIXELS
    )
    planes = PIXELS.transpose(2, 0, 1)
    np.testing.assert_array_equal(np.asarray(to_rgb(planes.transpose(1, 2, 0))), PIXELS)


def test_tracers():
    with pytest.raises(ValueError, match=r"outside jax\.jit"):
        jax.jit(to_rgb)(PIXELS)


def test_global_settings_are_left_alone():
    def settings():
        return Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, warnings.filters[:]

    before = settings()
    for image in (PNG, PNG[:-300], png_of_size(60_000, 60_000), b""):
        with contextlib.suppress(ValueError):
            to_rgb(image)
    assert settings() == before


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_grey_of_more_than_eight_bits_is_cut_off_as_pillow_does_and_told_once(mode, caplog):
    values = np.linspace(0, 1000, 64).reshape(8, 8)
    dtype = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
    image = Image.fromarray(values.astype(dtype))
    assert image.mode == mode
    _tell_of_cut.cache_clear()
    with caplog.at_level(logging.WARNING, "eqx_clip"):
        for _ in range(3):
            np.testing.assert_array_equal(to_rgb(image), np.asarray(image.convert("RGB")))
    (record,) = caplog.records
    assert mode in record.message and "8 bits" in record.message


def png_of_colour(values):
    """An 8 x 8 PNG of 16-bit colour, which Pillow does not write."""

    def chunk(kind, content):
        data = kind + content
        return struct.pack(">I", len(content)) + data + struct.pack(">I", zlib.crc32(data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_colour_of_sixteen_bits_is_scaled():
    values = np.random.default_rng(0).integers(0, 1 << 16, (8, 8, 3))
    np.testing.assert_array_equal(to_rgb(png_of_colour(values)), values >> 8)


def test_a_tiff_is_turned_by_its_orientation_and_no_other_format_is():
    image = Image.fromarray(PIXELS)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    sizes = {name: to_rgb(encoded(image, name, exif=exif)).size for name in ("TIFF", "JPEG", "PNG")}
    assert sizes == {"TIFF": (20, 30), "JPEG": (30, 20), "PNG": (30, 20)}


def test_text_over_pillows_limit_names_the_limit():
    info = PngInfo()
    info.add_text("key", "x" * (2 << 20), zip=True)
    with pytest.raises(ValueError, match=r"more text.*MAX_TEXT_CHUNK"):
        to_rgb(encoded(Image.fromarray(PIXELS), pnginfo=info))
