"""What `batches` feeds against what OpenCLIP's transform and tokenizer make of the same files."""

import csv
import io

import numpy as np
import pytest
from oracle import open_clip, torch
from PIL import Image

import eqx_clip
from eqx_clip.data import batches, open_source


CAPTIONS = [
    *("A photo", "NA", "null", "123", "", 'a, "quoted"\ncaption'),
    *("ünïcode 你好", "word " * 100, "x"),
]


def image(i, mode="RGB", size=(90, 70)):
    pixels = np.random.default_rng(i).integers(0, 256, (7, 9, 3), np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS).convert(mode)


def encoded(picture, kind, **options):
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def moving():
    return encoded(image(8), "GIF", save_all=True, append_images=[image(9)])


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter, which OpenCLIP does not do
    return encoded(image(4), "JPEG", exif=exif)


FILES = {
    "photo.jpg": encoded(image(0), "JPEG"),
    "grey.jpg": encoded(image(1, "L"), "JPEG"),
    "print.jpg": encoded(image(2, "CMYK"), "JPEG"),
    "turned.jpg": turned(),
    "palette.png": encoded(image(5, "P"), "PNG"),
    "alpha.png": encoded(image(6, "RGBA"), "PNG"),
    "deep.png": encoded(
        Image.fromarray(np.arange(80 * 60, dtype=np.uint16).reshape(60, 80)), "PNG"
    ),
    "tall.webp": encoded(image(7, size=(40, 130)), "WEBP"),
    "moving.gif": moving(),  # its first picture
}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_feeds_openclips_pixels_and_tokens(tmp_path, num_workers):
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    with open(tmp_path / "table.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["filepath", "title"])
        writer.writerows(zip(FILES, CAPTIONS, strict=True))
    preprocess = eqx_clip.Preprocess(32)
    feed = batches(
        open_source(tmp_path / "table.csv"),
        **{"batch_size": 3, "preprocess": preprocess, "tokenizer": eqx_clip.tokenize},
        **{"shuffle": False, "epochs": 1, "drop_remainder": False, "num_workers": num_workers},
        empty_captions=True,
    )
    parts = list(feed)
    pixels, tokens = (np.concatenate([part[k] for part in parts]) for k in ("image", "tokens"))
    transform = open_clip.image_transform(32, is_train=False)
    decoded = (Image.open(io.BytesIO(data)).convert("RGB") for data in FILES.values())
    expected = [transform(picture) for picture in decoded]
    np.testing.assert_array_equal(preprocess.normalize(pixels), torch.stack(expected).numpy())
    np.testing.assert_array_equal(tokens, open_clip.get_tokenizer("ViT-B-32")(CAPTIONS).numpy())
