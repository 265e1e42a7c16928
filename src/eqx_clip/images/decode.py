"""Whatever a user calls an image, as an RGB PIL image."""

import functools
import io
import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from PIL import Image, UnidentifiedImageError

from .._checks import short_repr
from .._types import AnyArray, ImageLike


logger = logging.getLogger("eqx_clip")

# From an image's width and height, by what factor it may be reduced while it is decoded.
Reduction = Callable[[int, int], float]


def to_rgb(image: ImageLike, reduction: Reduction | None = None) -> Image.Image:
    """The RGB PIL image of a PIL image, a path, a file, encoded bytes or a uint8 array.

    A path may begin with `~`. A file is open for reading bytes, and read from its start, as Pillow
    does. Bytes may be any buffer: `bytes`, `bytearray`, `memoryview`.

    Arrays are (height, width) or (height, width, channels) with 1, 3 or 4 channels, NumPy or JAX.
    Conversion is Pillow's `convert("RGB")`, before anything else, as in OpenCLIP's webdataset
    pipeline: an alpha channel is dropped, a palette is looked up, 16-bit colour is scaled to 8
    bits, and values above 255 of 16-bit grey and of floats are cut off, which is told once. Pillow
    turns a TIFF by its orientation on opening, and no other format. Of an animation it is the
    current frame, in a file the first.

    With `reduction`, encoded JPEGs are decoded at the least of a half, a quarter or an eighth of
    their size that it allows, several times faster.

    Raises `ValueError` for what is not one whole image, and `OSError` (`FileNotFoundError` and its
    kin) for a file that cannot be opened. The argument may be returned: do not write to the result.
    """
    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise ValueError(f"The PIL image has no pixels: its (width, height) is {image.size}.")
        with _explained(f"The PIL image {getattr(image, 'filename', '')!r}"):
            return _converted(image)
    if is_encoded(image):
        image = encoded(image)
    if isinstance(image, bytes):
        return _read(io.BytesIO(image), f"The byte string of length {len(image)}", reduction)
    if isinstance(image, str | os.PathLike):
        path = os.fspath(image)
        if "://" in path or path.startswith("data:"):
            raise ValueError(
                f"{path[:80]!r} is a URL and nothing is fetched here: download it and pass the "
                "bytes or the path of a local file."
            )
        path = os.path.expanduser(path)
        with open(path, "rb") as stream:  # not by Pillow: an OSError then always means the file
            return _read(stream, f"The file {path!r}", reduction)
    if isinstance(image, AnyArray):
        return _converted(Image.fromarray(_checked(image)))
    raise ValueError(
        "Expected one image: a PIL image, a path, an open file, encoded bytes, or a uint8 array "
        f"(height, width) or (height, width, channels); got {type(image).__name__}."
    )


def is_encoded(image: Any) -> bool:
    """Whether it holds an encoded image: a buffer, or what is open for reading."""
    return isinstance(image, bytes | bytearray | memoryview) or hasattr(image, "read")


def encoded(image: Any) -> bytes:
    """A copy of a buffer, or what a file holds; `ValueError` for one that gives no bytes."""
    if not hasattr(image, "read"):
        return bytes(image)
    found = None
    if not isinstance(image, io.TextIOBase):  # which fails at the first byte that is no text
        if hasattr(image, "seekable") and image.seekable():
            image.seek(0)
        found = image.read()
    if not isinstance(found, bytes):
        kind = "str" if found is None else type(found).__name__
        raise ValueError(
            f"Expected a file of bytes; {short_repr(image)} gives {kind}: open it with "
            "`open(path, 'rb')`."
        )
    return found


def _read(
    stream: io.BytesIO | io.BufferedReader, name: str, reduction: Reduction | None
) -> Image.Image:
    with _explained(name), Image.open(stream) as image:
        if reduction is not None and image.format == "JPEG":
            factor = reduction(image.width, image.height)
            if factor >= 2:
                least = math.ceil(image.width / factor), math.ceil(image.height / factor)
                image.draft(None, least)
        return _converted(image)


def _converted(image: Image.Image) -> Image.Image:
    image.load()  # a lazily opened file is decoded here, where the error can be explained
    if "transparency" in image.info:
        # RGB has no transparency, so the pixels do not depend on it, but Pillow would warn.
        image = image.copy()
        del image.info["transparency"]
    if is_cut_off(image.mode):
        _tell_of_cut(image.mode)
    return image if image.mode == "RGB" else image.convert("RGB")


def is_cut_off(mode: str) -> bool:
    """Whether Pillow cuts off values above 255 of images of a mode, rather than scaling them."""
    return mode in ("I", "F") or mode.startswith("I;16")


@functools.cache
def _tell_of_cut(mode: str) -> None:
    """Once a mode and process."""
    logger.warning(
        "An image of mode %r has values of more than 8 bits: Pillow, and so OpenCLIP, makes all "
        "above 255 white, and fractions of 0 to 1 black. Scale yours to 0 to 255 first.",
        mode,
    )


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turns each of Pillow's many errors for undecodable data into a `ValueError` about `name`."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{name} is too large to decode safely: {error} If you trust it, raise the limit: "
            "PIL.Image.MAX_IMAGE_PIXELS = ..."
        ) from error
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{name} is not an image that Pillow can identify: expected an encoded image, such as "
            "JPEG, PNG or WebP. Check what it holds (a web page? nothing?), or skip it."
        ) from error
    except MemoryError:
        raise
    except ValueError as error:
        if "MAX_TEXT" in str(error):
            raise ValueError(
                f"{name} has more text in it than Pillow reads: {error} If you trust it, raise the "
                "limit: PIL.PngImagePlugin.MAX_TEXT_CHUNK = ... (one text), MAX_TEXT_MEMORY (all)."
            ) from error
        raise ValueError(_damaged(name, error)) from error
    # Fuzzed files raise OSError, SyntaxError, ValueError and RuntimeError: there is no common base.
    except Exception as error:
        raise ValueError(_damaged(name, error)) from error


def _damaged(name: str, error: Exception) -> str:
    return (
        f"{name} cannot be decoded ({str(error) or type(error).__name__}): expected one whole "
        "image, and this one may be truncated or damaged. Write or download it again, or skip it."
    )


def _checked(array: AnyArray) -> np.ndarray:
    """A uint8 array (height, width) or (height, width, 3 or 4), or a `ValueError`."""
    if isinstance(array, Tracer):
        raise ValueError(
            "Images are resized by Pillow, outside jax.jit, jax.vmap and the like: prepare the "
            "pixels first. `normalize` works inside."
        )
    got = f"got {array.dtype} {array.shape}"
    if array.ndim == 4:
        raise ValueError(f"One image at a time, {got}: [transform(image) for image in images].")
    if array.dtype != np.uint8:
        remedy = "If its values are from 0 to 1: (255 * x).round().astype(np.uint8)."
        if not jnp.issubdtype(array.dtype, np.floating):
            remedy = "If its values are from 0 to 255: x.astype(np.uint8)."
        raise ValueError(f"An image array is uint8, {got}. {remedy}")
    channels_last = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if not channels_last:
        planes = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        remedy = " The channels come last: x.transpose(1, 2, 0)." if planes else ""
        raise ValueError(
            f"An image array is (height, width) or (height, width, 1, 3 or 4), {got}.{remedy}"
        )
    if array.size == 0:
        raise ValueError(f"The image array has no pixels, {got}.")
    array = np.asarray(array)
    return array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
