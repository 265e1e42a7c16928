"""Files here and far away, by fsspec: every kind of data set, patterns, and what is missing."""

import gzip
import pickle
import sys
import uuid

import fsspec
import numpy as np
import pytest
from shards import record, samples, tar, tfrecord
from test_batches import encoded

import eqx_clip
from eqx_clip.data import batches, open_source
from eqx_clip.data._files import files_in, is_pattern, look_at, matches, normalized


@pytest.fixture
def remote():
    """A folder in memory, which fsspec treats as it does a bucket."""
    folder = f"memory:///{uuid.uuid4()}"
    yield folder
    if fsspec.filesystem("memory").exists(folder):
        fsspec.filesystem("memory").rm(folder, recursive=True)


def put(url, data):
    fsspec.filesystem("memory").pipe_file(url, data)


TABLE = b"filepath,title\nimages/0.jpg,text 0\n"
JSON = b'{"filepath": "images/0.jpg", "title": "text 0"}'
RECORD = tfrecord(record(jpg=b"image 0", txt=b"text 0"))


@pytest.mark.parametrize(
    ("name", "data", "path"),
    [
        ("table.csv", TABLE, "table.csv"),
        ("table.csv.gz", gzip.compress(TABLE), "table.csv.gz"),
        ("table.jsonl", JSON, "table.jsonl"),
        ("00000.tfrecord", RECORD, ""),
        ("00000.tfrecord", RECORD, "00000.tfrecord"),
        ("00000.tfrecord", RECORD, "{00000..00000}.tfrecord"),
        ("00000.tar", tar(*samples(0, 1)), ""),
        ("00000.tar", tar(*samples(0, 1)), "00000.tar"),
        ("00000.tar", tar(*samples(0, 1)), "*.tar"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,
)
def test_every_kind_of_data_is_read_from_far_away(remote, index_folder, name, data, path):
    put(f"{remote}/{name}", data)
    put(f"{remote}/images/0.jpg", b"image 0")
    source = open_source(f"{remote}/{path}".rstrip("/"))
    assert list(source) == [{"image": b"image 0", "text": "text 0"}]
    assert source.remote and source.where(0).startswith(remote)
    assert list(pickle.loads(pickle.dumps(source))) == list(source)
    assert len(list(index_folder.iterdir())) == 1, "and its index is kept here"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("0.tar", tar(*samples(0, 3))[:4000], "end of data"),
        ("0.tfrecord", RECORD[:-1], "Truncated record at byte 0"),
        ("0.tfrecord", RECORD + RECORD[:7], f"Truncated header at byte {len(RECORD)}"),
        ("0.tfrecord", b"<html></html>", "Damaged header at byte 0"),
    ],
    ids=["tar", "record", "header", "html"],
)
def test_damage_far_away_is_found_when_it_is_opened(remote, name, data, message):
    put(f"{remote}/{name}", data)
    with pytest.raises(ValueError, match=message) as raised:
        open_source(remote)
    assert f"{remote}/{name}" in str(raised.value)


def test_what_changes_far_away_is_read_anew(remote):
    put(f"{remote}/0.tar", tar(*samples(0, 1)))
    assert len(open_source(remote)) == 1
    put(f"{remote}/0.tar", tar(*samples(0, 3)))
    assert len(open_source(remote)) == 3


def test_batches_from_far_away_are_those_from_here(remote, tmp_path):
    data = tar(
        *(m for i in range(16) for m in ((f"{i:02}.png", encoded(i)), (f"{i:02}.txt", b"a")))
    )
    put(f"{remote}/0.tar", data)
    (tmp_path / "0.tar").write_bytes(data)
    options = {
        **{"batch_size": 8, "preprocess": eqx_clip.Augment(8), "tokenizer": eqx_clip.tokenize},
        **{"epochs": 1, "process_index": 0, "process_count": 1},
    }
    here, there = (list(batches(open_source(p), **options)) for p in (tmp_path, remote))
    for one, other in zip(here, there, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.fixture(params=["here", "far away"])
def folder(request, remote, tmp_path):
    """A folder, here or far away, of files "0", ..., "11" and a folder."""
    folder = str(tmp_path / "of files") if request.param == "here" else remote
    filesystem, _ = fsspec.core.url_to_fs(folder)
    filesystem.makedirs(f"{folder}/0.folder")
    filesystem.pipe_file(f"{folder}/0.folder/inside", b"")
    for i in range(12):
        filesystem.pipe_file(f"{folder}/{i:02}", b"x" * i)
    return folder


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{08..11}", ["08", "09", "10", "11"]),
        ("{11,03}", ["11", "03"]),  # in the pattern's order
        ("*1", ["01", "11"]),
        ("0?", [f"{i:02}" for i in range(10)]),
        ("1[01]", ["10", "11"]),
        ("{1,0}*", ["10", "11", *(f"{i:02}" for i in range(10))]),  # files only
    ],
)
def test_braces_and_stars_name_files(folder, pattern, names):
    files = matches(f"{folder}/{pattern}")
    assert [file.url for file in files] == [f"{folder}/{name}" for name in names]
    assert files == [look_at(f"{folder}/{name}") for name in names]


@pytest.mark.parametrize(
    ("pattern", "missing"), [("{10..12}", "12"), ("x*", "x*"), ("0.folder/{a,b}", "0.folder/a")]
)
def test_a_pattern_of_files_that_are_not_there_is_told(folder, pattern, missing):
    with pytest.raises(FileNotFoundError) as raised:
        matches(f"{folder}/{pattern}")
    assert repr(f"{folder}/{missing}") in str(raised.value)


def test_a_name_with_a_patterns_characters_is_a_name(folder):
    name = f"{folder}/[images] {{0}}"
    assert is_pattern(name)
    fsspec.core.url_to_fs(folder)[0].pipe_file(name, b"")
    assert not is_pattern(name) and not is_pattern(folder)


def test_a_link_is_what_it_leads_to(tmp_path):
    """Downloads of Hugging Face's hub are folders of links."""
    shards, links = tmp_path / "shards", tmp_path / "links"
    for folder in (shards, links, tmp_path / "other"):
        folder.mkdir()
    (shards / "a").write_bytes(tar(*samples(0, 2)))
    (links / "0.tar").symlink_to("../shards/a")
    (links / "1.tar").symlink_to(tmp_path / "other")  # a folder is no shard
    for path in (links, links / "*.tar"):
        assert [example["text"] for example in open_source(path)] == ["text 0", "text 1"]
    assert files_in(str(links)) == matches(f"{links}/*.tar") == [look_at(f"{links}/0.tar")]
    (shards / "a").write_bytes(tar(*samples(3, 5)))  # as large: the mark is not the link's
    assert [example["text"] for example in open_source(links)] == ["text 3", "text 4"]
    (shards / "a").unlink()
    with pytest.raises(FileNotFoundError, match=r"0\.tar"):
        open_source(links)


def test_a_path_here_means_the_same_in_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert normalized("a/../b.csv") == normalized("~/b.csv") == str(tmp_path / "b.csv")
    assert normalized("gs://bucket/b.csv") == "gs://bucket/b.csv"


def test_what_is_not_there_is_told(remote):
    put(f"{remote}/0.tar", tar(*samples(0, 1)))
    for path in (f"{remote}/1.tar", f"{remote}/1.csv", f"{remote}/*.tfrecord"):
        with pytest.raises(FileNotFoundError, match=path.replace("*", r"\*")):
            open_source(path)


def test_an_unknown_scheme_is_told():
    with pytest.raises(
        ValueError, match=r"'nowhere://b/0\.tar' cannot be read.*not known: nowhere"
    ):
        open_source("nowhere://b/0.tar")


@pytest.mark.parametrize(
    ("scheme", "package", "remedy"),
    [
        ("gs", "gcsfs", r"`pip install 'eqx_clip\[gcs\]'`"),
        ("s3", "s3fs", r"`pip install 'eqx_clip\[s3\]'`"),
        ("abfs", "adlfs", r"adlfs"),
    ],
)
@pytest.mark.parametrize("path", ["b/0.tar", "b/*.tar", "b/table.csv"])
def test_a_missing_package_is_told_with_its_extra(monkeypatch, scheme, package, remedy, path):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(ImportError, match=f"{scheme}:// needs another package: .*{remedy}"):
        open_source(f"{scheme}://{path}")
