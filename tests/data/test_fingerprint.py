"""`fingerprint`: the same wherever the data lies, another where a run would see other examples."""

import numpy as np
from PIL import Image

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
    assert fingerprint(list(open_source(table))) == expected


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
