"""`fingerprint`: the same wherever the data lies, another where a run would see other examples."""

import os

import numpy as np
import pytest
from PIL import Image
from test_captions import write as write_captions

from eqx_clip.data import Mixture, fingerprint, open_source


def write(folder, texts, other="other", image=b"image"):
    folder.mkdir()
    for i in range(len(texts)):
        (folder / f"{i}.jpg").write_bytes(image + bytes([i]))
    rows = "".join(f"{i}.jpg,{text},{other} {text}\n" for i, text in enumerate(texts))
    (folder / "table.csv").write_text("filepath,title,tags\n" + rows)
    return folder / "table.csv"


def test_it_follows_the_data_and_not_the_place_or_the_way_it_was_opened(tmp_path):
    texts = [f"text {i}" for i in range(40)]
    table = write(tmp_path / "a", texts)
    expected = fingerprint(open_source(table))
    assert expected.startswith("40 examples, ")
    assert fingerprint(open_source(write(tmp_path / "b", texts))) == expected
    assert fingerprint(open_source(table, image_key="filepath", text_key="title")) == expected


def test_a_copy_with_other_times_of_files_is_the_same(tmp_path):
    texts = [f"text {i}" for i in range(40)]
    table = write(tmp_path / "a", texts)
    expected = fingerprint(open_source(table))
    for path in (tmp_path / "a").iterdir():
        os.utime(path, (1, 1))
    assert fingerprint(open_source(table)) == expected


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "tfrecord", "tar", "json tar"])
@pytest.mark.parametrize("changed", [1, 2, 38])
def test_no_change_of_captions_goes_unseen(tmp_path, kind, changed):
    texts = [f"text {i:03}" for i in range(192)]
    seen = set()
    for seed in range(10):
        others = list(texts)
        for i in np.random.default_rng(seed).choice(192, changed, replace=False):
            others[i] = others[i].replace("text", "word")  # of the same length
        folder = tmp_path / str(seed)
        folder.mkdir()
        path, key = write_captions(folder, kind, others)
        seen.add(fingerprint(open_source(path, text_key=key)))
    path, key = write_captions(tmp_path, kind, texts)
    assert len(seen) == 10 and fingerprint(open_source(path, text_key=key)) not in seen


def test_an_image_of_another_size_is_noticed(tmp_path):
    table = write(tmp_path / "a", [f"text {i}" for i in range(40)])
    whole = fingerprint(open_source(table))
    (tmp_path / "a" / "4.jpg").write_bytes(b"longer than before")  # none of those that are read
    assert fingerprint(open_source(table)) != whole


def test_other_examples_are_noticed(tmp_path):
    texts = [f"text {i}" for i in range(40)]
    table = write(tmp_path / "a", texts)
    others = [
        open_source(table),
        open_source(table, text_key="tags"),
        open_source(table, n_samples=39),
        open_source(write(tmp_path / "sorted", sorted(texts))),
        open_source(write(tmp_path / "images", texts, image=b"other")),
        open_source(write(tmp_path / "last", [*texts[:-1], "another"])),
        Mixture([open_source(table), open_source(table)]),
    ]
    assert len({fingerprint(source) for source in others}) == len(others)
    same = [{"image": b"image", "text": "text"}]
    assert fingerprint(same * 20) != fingerprint(same * 30)  # by their number alone


def test_what_cannot_be_read_is_no_error(tmp_path):
    table = write(tmp_path / "a", ["x", "y"])
    whole = fingerprint(open_source(table))
    (tmp_path / "a" / "1.jpg").unlink()
    assert fingerprint(open_source(table)) not in ("", whole)


def test_sources_of_decoded_images():
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    pixels[1] = 7
    first, second = (
        [{"image": image, "text": "x"} for image in images] for images in (pixels, pixels[::-1])
    )
    assert fingerprint(first) != fingerprint(second)
    opened = [{"image": Image.fromarray(image), "text": "x"} for image in pixels]
    assert fingerprint(opened) == fingerprint(first)
