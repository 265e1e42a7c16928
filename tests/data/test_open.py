"""`open_source`: which kind of data set a path is, several at once, a part of one."""

import pickle
import re

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
    pictures = folder / "pictures"
    (pictures / "a").mkdir(parents=True)
    for name in ("0.jpg", "1.jpg"):
        (pictures / "a" / name).write_bytes(b"image")
    for path, message in (
        (tmp_path_factory.mktemp("nothing"), r"no kind of data set.*\.csv.*found nothing"),
        (pictures, r"no kind of .*found 'a/', in all 2 '\.jpg'\. None of the 2 .*open_classes"),
        (folder / "0.jpg", r"no kind of data set.*found '0\.jpg'\."),
        (folder / "tars", r"more than one kind of data set.*'00000\.tar', '00000\.tfrecord'"),
        (f"{folder}/table.csv::", "The path is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            open_source(path)
    with pytest.raises(FileNotFoundError, match=r"no file '.*nowhere'"):
        open_source(folder / "nowhere")


def test_a_list_of_one_kind_is_one_source_in_its_order(folder, index_folder):
    (folder / "more.csv").write_text("filepath,title\n2.jpg,more\n")
    source = open_source([folder / "table.csv", f"{folder}/more.csv"])
    assert not isinstance(source, Mixture) and len(list(index_folder.iterdir())) == 1
    assert [x["text"] for x in source] == ["text 0", "text 1", "text 2", "more"]
    assert list(pickle.loads(pickle.dumps(source))) == list(source)
    assert source.where(3) == f"{folder}/more.csv, row 1: {folder}/2.jpg"
    assert len(open_source([folder / "table.csv", folder / "more.csv"], n_samples=4)) == 4
    assert len(open_source([folder / "tars", folder / "tars" / "00000.tar"])) == 6
    assert len(open_source([folder / "table.csv"])) == 3
    (folder / "other.csv").write_text("filepath,words\n2.jpg,more\n")
    with pytest.raises(ValueError, match=r"other\.csv has no column 'title'.*'words'"):
        open_source([folder / "table.csv", folder / "other.csv"])


def test_a_list_of_several_kinds_or_with_factors_is_a_mixture(folder):
    source = open_source([folder / "tars", f"{folder}/table.csv"])
    assert isinstance(source, Mixture)
    assert [x["text"] for x in source] == ["text 0", "text 1", "text 2"] * 2
    several = open_source([f"{folder}/tars::{folder}/table.csv", folder / "tars"])
    assert isinstance(several, Mixture) and len(several) == 9
    assert open_source([folder / "table.csv"] * 2, factors=[1, 2]).factors == (1.0, 2.0)
    with pytest.raises(ValueError, match="list of paths is empty"):
        open_source([])


def test_tables_beside_shards_are_what_img2dataset_says_of_them(folder):
    for name in ("tars", "records"):
        (folder / name / "00000.parquet").write_bytes(b"urls")
        (folder / name / "00000_stats.json").write_text("{}")
        assert len(open_source(folder / name)) == 3


def test_a_root_is_of_tables_only(folder):
    with pytest.raises(ValueError, match="`image_root` is of tables"):
        open_source(folder / "tars", image_root=folder)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (None, r"path of a data set.*list of such paths; got None\."),
        (5, r"got 5\."),
        (b"table.csv", r"got b'table\.csv'\."),
        ({"train": "table.csv"}, r"got {'train'"),
        (["table.csv", None], r"got None in a list\."),
        ([["table.csv"]], r"got \['table\.csv'\] in a list\."),
    ],
)
def test_what_is_no_path_is_told(path, message):
    with pytest.raises(ValueError, match=message):
        open_source(path)


def tables(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"filepath,title\n{folder}/.images/0.jpg,{name}\n")
    (folder / ".images").mkdir()
    (folder / ".images" / "0.jpg").write_bytes(b"image")
    return folder


@pytest.mark.parametrize(
    "names",
    [
        ("train-0.csv", "train-1.csv", "val-0.csv"),
        ("COCO_Train.csv", "COCO_Test.csv"),
        ("train/metadata.csv", "test/metadata.csv"),
        ("data/train/metadata.csv", "data/validation/metadata.csv"),
        ("a_train_of_coco_val.csv", "a_train_of_coco_test.csv"),
        ("test_a.csv", "test_of_train.csv"),
    ],
)
def test_several_splits_are_refused_with_a_remedy_that_works(tmp_path, names):
    tables(tmp_path, *names)
    with pytest.raises(ValueError, match="holds several splits") as told:
        open_source(tmp_path)
    (remedy,) = re.findall(r"such as (\S+)\.", str(told.value))
    texts = [example["text"] for example in open_source(remedy)]
    assert 0 < len(texts) < len(names) and set(texts) < set(names)
    assert len(open_source([tmp_path / name for name in names])) == len(names)


@pytest.mark.parametrize(
    "names", [("my_test_of_train.csv",), ("test_of_train-0.csv", "test_of_train-1.csv")]
)
def test_two_words_in_one_name_are_no_two_splits(tmp_path, names):
    assert len(open_source(tables(tmp_path, *names))) == len(names)


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("data/train-00000-of-00001.parquet", "data"),
        ("data/en/0.csv", "data/en"),
        ("shards/00000.tar", "shards"),
        ("shards/00000.tfrecord", "shards"),
    ],
)
def test_data_further_down_are_named(tmp_path, name, pattern):
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_bytes(b"")
    (tmp_path / "README.md").write_text("A data set")
    with pytest.raises(ValueError, match=rf"no kind of data set.* open {tmp_path}/{pattern}\."):
        open_source(tmp_path)
