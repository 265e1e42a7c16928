"""The images that people hand in, one or many, read safely in threads."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from .._checks import short_repr
from .._types import AnyArray, ImageLike
from ..images.decode import encoded, is_encoded, to_rgb
from ..images.preprocess import AbstractTransform


def check_several(images: Any) -> None:
    """`ValueError` for one image, a folder, and what holds no images."""
    if isinstance(images, str | os.PathLike) and os.path.isdir(os.path.expanduser(images)):
        raise ValueError(
            f"{os.fspath(images)!r} is a folder; pass its files, such as "
            f"`sorted(Path({os.fspath(images)!r}).glob('*.jpg'))`."
        )
    if is_one_image(images):
        raise ValueError(f"Expected several images; got one, {described(images)}: pass `[image]`.")
    if isinstance(images, Mapping) or not isinstance(images, Iterable):
        raise ValueError(f"Expected several images in a list; got {described(images)}.")


def is_one_image(image: Any) -> bool:
    if isinstance(image, AnyArray):
        return image.ndim in (0, 2, 3)
    return isinstance(image, Image.Image | str | os.PathLike) or is_encoded(image)


def read_at_once(images: Iterable[ImageLike]) -> Iterator[ImageLike | Exception]:
    """The images as they are now, or why they cannot be read.

    What is no list may close a file, show an animation's next frame, or write to an array when it
    is asked for the image that follows.
    """
    stays = isinstance(images, list | tuple | AnyArray)
    for image in images:
        try:
            yield image if stays else _copied(image)
        except (OSError, ValueError) as error:
            yield error


def _copied(image: ImageLike) -> ImageLike:
    if isinstance(image, Image.Image):
        return to_rgb(image).copy()
    if isinstance(image, np.ndarray):
        return image.copy()
    return encoded(image) if is_encoded(image) else image


def pixels_of(preprocess: AbstractTransform) -> Callable[[ImageLike | Exception], np.ndarray]:
    """`preprocess.pixels`, for threads."""
    locks: dict[int, threading.Lock] = {}

    def pixels(image: ImageLike | Exception) -> np.ndarray:
        if isinstance(image, Exception):
            raise image
        if not (isinstance(image, ImageFile.ImageFile) or hasattr(image, "read")):
            return preprocess.pixels(image)
        # An opened file is read at its first use, which two threads must not do at once, and the
        # same image may stand in a list twice.
        with locks.setdefault(id(image), threading.Lock()):
            return preprocess.pixels(image)

    return pixels


def described(image: Any) -> str:
    return f"an array of shape {image.shape}" if isinstance(image, AnyArray) else short_repr(image)
