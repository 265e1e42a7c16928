"""`open_source`: which kind of data set a path is, several at once, a part of one."""

import pytest
from shards import record, samples, tar, tfrecord

from eqx_clip.data import Mixture, open_source


@pytest.fixture
def folder(tmp_path):
    """The same three examples as a table, as TFRecord and as a tar file."""
    for name in ("records", "tars"):
        (tmp_path / name).mkdir()
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(f"image {i}".encode())
    rows = "".join(f"{i}.jpg,text {i}\n" for i in range(3))
    (tmp_path / "table.csv").write_text("filepath,title\n" + rows)
    records = [record(jpg=f"image {i}".encode(), txt=f"text {i}".encode()) for i in range(3)]
    (tmp_path / "records" / "00000.tfrecord").write_bytes(tfrecord(*records))
    (tmp_path / "tars" / "00000.tar").write_bytes(tar(*samples(0, 3)))
    return tmp_path


KINDS = ["table.csv", "records", "records/00000.tfrecord", "tars", "tars/*.tar"]


@pytest.mark.parametrize("path", KINDS)
def test_a_path_is_opened_as_what_it_is(folder, path):
    assert list(open_source(folder / path)) == [
        {"image": f"image {i}".encode(), "text": f"text {i}"} for i in range(3)
    ]


def test_several_paths_are_a_mixture(folder):
    source = open_source(f"{folder}/table.csv::{folder}/tars", factors=[1, 2], split="train[1:]")
    assert isinstance(source, Mixture) and source.factors == (1.0, 2.0)
    assert [x["text"] for x in source] == ["text 1", "text 2"] * 2
    with pytest.raises(ValueError, match="3 factors for 1 sources"):
        open_source(folder / "tars", factors=[1, 2, 3])


def test_n_samples_takes_the_first(folder):
    assert [x["text"] for x in open_source(folder / "tars", n_samples=2)] == ["text 0", "text 1"]
    assert len(open_source(f"{folder}/table.csv::{folder}/tars", n_samples=2)) == 4
    for split, of in (("train", "3"), ("train[1:]", "2")):
        with pytest.raises(ValueError, match=rf"`n_samples=4` is more .*tars'.*, {of} examples"):
            open_source(folder / "tars", n_samples=4, split=split)
    for count in (0, -1, 1.5):
        with pytest.raises(ValueError, match="`n_samples` must be a whole number above 0"):
            open_source(folder / "tars", n_samples=count)


def test_what_is_no_data_set_is_told_with_what_was_looked_for_and_found(folder, tmp_path_factory):
    (folder / "tars" / "00000.tfrecord").write_bytes(b"")
    for path, message in (
        (tmp_path_factory.mktemp("nothing"), r"no kind of data set.*\.csv.*found nothing"),
        (folder, r"no kind of .*found '0\.jpg', '1\.jpg', '2\.jpg', 'records/', 'table\.csv', "),
        (folder / "0.jpg", r"no kind of data set.*found '0\.jpg'\."),
        (folder / "tars", r"more than one kind of data set.*'00000\.tar', '00000\.tfrecord'"),
        (f"{folder}/table.csv::", "The path is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            open_source(path)
    with pytest.raises(FileNotFoundError, match=r"no file '.*nowhere'"):
        open_source(folder / "nowhere")
