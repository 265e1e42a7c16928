"""`python -m eqx_clip.data`: the figures, the table, the picture, and mistakes."""

import csv
import io
import os
import sys

import numpy as np
import pytest
from PIL import Image

from eqx_clip.data import examine, open_source
from eqx_clip.data.__main__ import main
from eqx_clip.data._report import expected_repeats


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Twelve rows: two cannot be read, three share a caption, one has none and one is too long."""
    monkeypatch.chdir(tmp_path)
    for i in range(11):
        kind = "PNG" if i % 2 else "JPEG"
        Image.new("RGB", (40 + i, 30), (20 * i, 0, 0)).save(f"{i}.image", kind)
    (tmp_path / "3.image").write_text("<html>404</html>")
    texts = [f"picture number {i}" for i in range(12)]
    texts[0] = texts[1] = "a photo"
    texts[2] = "A  photo"  # the same tokens
    texts[4], texts[5] = "", "word " * 100
    with open(tmp_path / "table.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(
            [("path", "words"), *((f"{i}.image", texts[i]) for i in range(12))]
        )
    return tmp_path / "table.csv"


KEYS = ("--image-key", "path", "--text-key", "words")


def run(*arguments):
    """The exit code of the command."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code
    return 0


def test_the_figures_are_those_of_the_data(table):
    source = open_source(table, image_key="path", text_key="words")
    report = examine(source, batch_size=5, seconds=0, progress=False)
    assert (report.rows, report.samples, report.good) == (12, 12, 9)
    assert report.missing_captions == 1 and (4, "MissingCaptionError") in [
        (bad.index, bad.cause) for bad in report.bad
    ]
    report = examine(source, batch_size=5, seconds=0, progress=False, empty_captions=True)
    assert (report.rows, report.samples, report.good) == (12, 12, 10)
    assert sorted((bad.index, bad.cause) for bad in report.bad) == [
        (3, "UnidentifiedImageError"),
        (11, "FileNotFoundError"),
    ]
    assert report.formats == {"JPEG": 6, "PNG": 4}
    np.testing.assert_array_equal(report.widths, [40 + i for i in range(11) if i != 3])
    np.testing.assert_array_equal(report.shortest_sides, [30] * 10)
    np.testing.assert_array_equal(report.lengths[[0, 3, 4]], [4, 2, 102])
    assert (report.cut, report.empty, report.repeated) == (1, 1, 3)
    assert report.captions[0] == ("a photo", 3) and len(report.captions) == 8
    assert report.images_per_second is None


def test_each_kind_of_damage_has_its_cause(tmp_path):
    stream = io.BytesIO()
    Image.new("RGB", (40, 30)).save(stream, "JPEG")
    whole = stream.getvalue()
    bomb = io.BytesIO()
    Image.new("1", (14_000, 14_000)).save(bomb, "PNG")
    files = {
        **{"good.jpg": whole, "cut.jpg": whole[:-20], "empty.jpg": b"", "page.jpg": b"<html>"},
        **{"random.jpg": bytes(range(256)), "bomb.png": bomb.getvalue()},
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    rows = "".join(f"{name},a\n" for name in (*files, "missing.jpg", ""))
    (tmp_path / "table.csv").write_text("filepath,title\n" + rows)
    report = examine(open_source(tmp_path / "table.csv"), seconds=0, progress=False)
    unidentified = "UnidentifiedImageError"
    assert [bad.cause for bad in report.bad] == [
        *("OSError", unidentified, unidentified, unidentified, "DecompressionBombError"),
        *("FileNotFoundError", "ValueError"),
    ]
    paths = [f"{tmp_path}/{name}" for name in (*files, "missing.jpg")]
    for bad, place in zip(report.bad, [*paths[1:], "no image"], strict=True):
        assert f"row {bad.index + 1}: {place}" in bad.where
    assert "is too large to decode safely" in report.bad[4].message
    assert "truncated" in report.bad[0].message


def test_expected_repeats_are_those_of_random_batches():
    counts, batch_size, rng = [5, 3, 1, 1, 2], 4, np.random.default_rng(0)
    captions = np.repeat(np.arange(len(counts)), counts)
    draws = [rng.permutation(captions)[:batch_size] for _ in range(20_000)]
    seen = [np.bincount(draw)[draw] > 1 for draw in draws]
    assert abs(np.sum(seen, 1).mean() - expected_repeats(counts, batch_size)) < 0.05
    assert expected_repeats([1] * 10, 4) == 0
    assert expected_repeats([4], 4) == pytest.approx(4)


def test_some_samples_are_spread_over_the_data(table):
    source = open_source(table, image_key="path", text_key="words")
    report = examine(source, samples=6, batch_size=2, seconds=0, progress=False)
    assert report.samples == 6 and report.rows == 12


def test_the_command_prints_a_table_and_draws_a_picture(table, capsys):
    assert run(table, *KEYS, "--batch-size", 4, "--seconds", 0.2, "--workers", 0) == 0
    out = capsys.readouterr().out
    for part in (
        *("12, of which 12 were looked at", "3 (25.00%)", "1 FileNotFoundError, the first: "),
        *("row 12: ", "JPEG 5, PNG 4", "1 (11.11%): more than 77 tokens", "3 (33.33%)"),
        *("no caption      1 (8.33%)", "in a batch of 4", "images/s", "Drew it: data.png"),
    ):
        assert part in out
    with Image.open("data.png") as picture:
        assert picture.width > 1000 and len(picture.convert("RGB").getcolors(1 << 20)) > 20


def test_without_matplotlib_the_table_is_printed(table, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert run(table, *KEYS, "--seconds", 0) == 0
    out = capsys.readouterr().out
    assert "JPEG 5" in out and "pip install 'eqx_clip[demo]'" in out
    assert not os.path.exists("data.png")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("nowhere.csv",), "There is no file"),
        (("table.csv", "--image-key", "pat", "--text-key", "words"), "Did you mean 'path'?"),
        (("table.csv", *KEYS, "--picture", "nowhere/data.png"), "There is no folder nowhere"),
        (("table.csv", *KEYS, "--picture", "data.bmp"), "must end in .png, .pdf or .svg"),
        (("table.csv", *KEYS, "--samples", "-1"), "`samples`"),
        (("table.csv", *KEYS, "--batch-size", "0"), "`batch_size`"),
        (("table.csv", *KEYS, "--split", "valid"), "valid"),
    ],
    ids=["path", "key", "folder", "picture", "samples", "batch", "split"],
)
def test_a_mistake_is_told_in_a_line(table, capsys, arguments, expected):
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and expected in captured.err


def test_data_of_which_nothing_can_be_read_are_told(table, tmp_path, capsys):
    (tmp_path / "bad.csv").write_text("path,words\nx.jpg,a\ny.jpg,b\n")
    assert run(tmp_path / "bad.csv", *KEYS) == 2
    captured = capsys.readouterr()
    assert "2 FileNotFoundError" in captured.out
    assert "None of the 2 samples can be used" in captured.err
