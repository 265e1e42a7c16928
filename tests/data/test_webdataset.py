"""WebDataset's tar shards in place: grouping into samples, and damaged files."""

import gzip
import json
import logging
import os
import pickle
import tarfile

import pytest
from shards import samples, tar

from eqx_clip.data import WebDatasetBuilder, open_source


@pytest.fixture
def folder(tmp_path):
    for shard in range(3):
        (tmp_path / f"{shard:05}.tar").write_bytes(tar(*samples(5 * shard, 5 * shard + 5)))
    (tmp_path / "00000_stats.json").write_text("{}")
    return tmp_path


def test_samples_are_read_in_the_order_of_the_shards(folder):
    source = open_source(folder)
    assert [x["text"] for x in source] == [f"text {i}" for i in range(15)]
    assert source[7] == {"image": b"image 7", "text": "text 7"}
    assert source.where(7) == f"{folder}/00001.tar, sample '00007'"
    assert WebDatasetBuilder(folder).info.splits["train"].num_examples == 15


def test_braces_and_stars_name_shards(folder):
    assert len(open_source(f"{folder}/{{00001..00002}}.tar")) == 10
    assert len(open_source(f"{folder}/*1.tar")) == 5
    with pytest.raises(FileNotFoundError, match=r"00003\.tar"):
        open_source(f"{folder}/{{00001..00003}}.tar")


@pytest.mark.parametrize("name", ["run[1]", "a{b", "what?"])
def test_a_name_with_signs_of_a_pattern_in_it_is_a_name(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "0.tar").write_bytes(tar(*samples(0, 2)))
    for path in (tmp_path / name, tmp_path / name / "0.tar"):
        assert len(open_source(path)) == 2


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_and_folders_are_names(tmp_path, form):
    long = "folder.with.dots/" + "ü" * 150
    members = [(f"{long}.jpg", b"long"), (f"{long}.txt", b"a"), *samples(0, 1)]
    (tmp_path / "0.tar").write_bytes(tar(*members, form=form))
    source = open_source(tmp_path)
    assert [x["image"] for x in source] == [b"long", b"image 0"] and long in source.where(0)


def test_a_name_in_another_folder_is_another_sample(tmp_path):
    members = [("a/0.jpg", b"1"), ("a/0.txt", b"a"), ("b/0.jpg", b"2"), ("b/0.txt", b"b")]
    (tmp_path / "0.tar").write_bytes(tar(*members))
    assert [x["text"] for x in open_source(tmp_path)] == ["a", "b"]


def test_members_that_are_no_files_of_a_sample_are_passed_over(tmp_path):
    (tmp_path / "0").mkdir()
    for name in ("README", ".DS_Store", "0.jpg", "0.txt"):
        (tmp_path / "0" / name).write_text(name)
    os.symlink("0.jpg", tmp_path / "0" / "0.png")
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name in ("0", "0/.DS_Store", "0/README", "0/0.jpg", "0/0.png", "0/0.txt"):
            archive.add(tmp_path / name, name, recursive=False)
    (example,) = open_source(tmp_path / "0.tar")
    assert example == {"image": b"0.jpg", "text": "0.txt"}
    assert "sample '0/0'" in open_source(tmp_path / "0.tar").where(0)


def test_shards_without_samples_are_passed_over(folder):
    (folder / "00000.tar").write_bytes(tar())
    source = open_source(folder)
    assert len(source) == 10 and "00001.tar" in source.where(0)


def test_extensions_may_be_any_of_several(tmp_path):
    members = [("a.PNG", b"1"), ("a.txt", b"a"), ("b.webp", b"2"), ("b.txt", b"b")]
    members += [("c.seg.png", b"3"), ("c.caption", b"c")]
    (tmp_path / "0.tar").write_bytes(tar(*members))
    assert [x["image"] for x in open_source(tmp_path)] == [b"1", b"2"]
    special = open_source(tmp_path, image_key="seg.png;bmp", text_key="caption")
    assert list(special) == [{"image": b"3", "text": "c"}]


def test_samples_without_an_image_are_left_out_and_those_without_a_text_have_none(tmp_path, caplog):
    members = [*samples(0, 2), ("x.jpg", b"no text"), ("y.txt", b"no image"), *samples(2, 3)]
    (tmp_path / "0.tar").write_bytes(tar(*members))
    with caplog.at_level(logging.WARNING, "eqx_clip.data"):
        texts = [example["text"] for example in open_source(tmp_path)]
    assert texts == ["text 0", "text 1", None, "text 2"]
    assert "1 samples have no image" in caplog.text


def json_tar(*values):
    return tar(
        *(
            member
            for i, value in enumerate(values)
            for member in ((f"{i}.jpg", b"image"), (f"{i}.json", json.dumps(value).encode()))
        )
    )


def test_a_field_of_a_json_member_is_a_text_or_several(tmp_path):
    values = [{"caption": "a", "meta": {"Title": ["b", "c"]}}, {"caption": None}, {}]
    (tmp_path / "0.tar").write_bytes(json_tar(*values))
    for key, texts in (
        ("json:caption", ["a", None, None]),
        ("JSON:meta:Title", [["b", "c"], None, None]),
    ):
        source = open_source(tmp_path, text_key=key)
        assert [example["text"] for example in source] == texts
        assert [source.text(i) for i in range(3)] == texts


def test_a_whole_json_member_is_no_text(tmp_path):
    (tmp_path / "0.tar").write_bytes(json_tar({"caption": "a", "sha256": "b"}))
    with pytest.raises(ValueError, match=r"name a field.*'json:caption', 'json:sha256'"):
        open_source(tmp_path, text_key="json")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"caption": 7}, r"must hold text; it is int"),
        ({"caption": {"en": "a"}}, r"'json:caption:en'"),
    ],
)
def test_a_field_that_is_no_text_is_told(tmp_path, value, message):
    (tmp_path / "0.tar").write_bytes(json_tar(value))
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path, text_key="json:caption")[0]


def test_a_text_that_is_not_utf8_is_told_when_it_is_read(tmp_path):
    broken = [("9.jpg", b"image"), ("9.txt", "é".encode("latin-1"))]
    (tmp_path / "0.tar").write_bytes(tar(*samples(0, 1), *broken))
    source = open_source(tmp_path)
    assert source[0]["text"] == "text 0"
    with pytest.raises(ValueError, match="utf-8"):
        source[1]


WHOLE = tar(*samples(0, 4))
BLOCK = 512
HEADER = 6 * BLOCK  # of "00001.json", the fourth of the members; each has a header and one block
END = 24 * BLOCK  # of the last member


def changed(start, data):
    return WHOLE[:start] + data + WHOLE[start + len(data) :]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (WHOLE[: WHOLE.index(b"image 2") + 3], "end of data"),
        (WHOLE[: HEADER + 100], "ends early, or is damaged, at byte 3072"),
        (WHOLE[:HEADER], "ends early, or is damaged, at byte 3072"),
        (WHOLE[:END], "ends early, or is damaged, at byte 12288"),
        (changed(HEADER, b"x" * BLOCK), "ends early, or is damaged, at byte 3072"),
        (changed(HEADER + 124, b"7"), "ends early, or is damaged, at byte 3072"),
        (changed(HEADER, bytes(BLOCK)), "ends early, or is damaged, at byte 3072"),
        (WHOLE + tar(*samples(4, 6)), "ends early, or is damaged, at byte 12288"),
        (gzip.compress(WHOLE), "not a whole, uncompressed tar.*unpack it"),
        (b"<html></html>" * 100, "not a whole, uncompressed tar.*Download"),
        (b"", "not a whole, uncompressed tar.*Download"),
        (tar(*samples(0, 1), ("00000.jpg", b"again")), "'00000.jpg' twice"),
    ],
    ids=[
        *("member", "header", "boundary", "end", "garbage", "flipped", "zeros", "concatenated"),
        *("gzip", "html", "empty", "twice"),
    ],
)
def test_a_damaged_shard_is_refused_when_it_is_opened(folder, data, message):
    (folder / "00001.tar").write_bytes(data)
    for _ in range(2):  # also where an index could be there
        with pytest.raises(ValueError, match=message) as raised:
            open_source(folder)
        assert f"{folder}/00001.tar" in str(raised.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tar(("a.mp4", b""), ("b.mp4", b""), ("b.srt", b"")), r"'mp4' \(2\), 'srt' \(1\)\. Pass"),
        (tar(("a.jpg", b""), ("b.jpg", b""), ("a.txt", b"")), r"consecutive.*'jpg' \(2\), 'txt'"),
        (tar(), r"holds no examples\. .* the members are none"),
    ],
)
def test_shards_without_a_single_sample_are_told_with_their_members(tmp_path, data, message):
    (tmp_path / "0.tar").write_bytes(data)
    for _ in range(2):  # also where an index could be there
        with pytest.raises(ValueError, match=message):
            open_source(tmp_path)


def test_where_there_is_nothing_it_is_told_what_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        WebDatasetBuilder(tmp_path / "nowhere")
    (tmp_path / "0.tar.gz").touch()
    with pytest.raises(ValueError, match=r"no WebDataset shards \(`\*\.tar`\): .*'0\.tar\.gz'"):
        WebDatasetBuilder(tmp_path)


def test_shards_that_change_are_read_anew_and_refused_to_who_knew_the_old(folder):
    source = open_source(folder)
    pickled = pickle.dumps(source)
    assert len(pickled) < 500 and list(pickle.loads(pickled)) == list(source)
    (folder / "00002.tar").write_bytes(tar(*samples(20, 21)))
    assert [x["text"] for x in open_source(folder)][-2:] == ["text 9", "text 20"]
    with pytest.raises(ValueError, match="has changed since it was opened"):
        pickle.loads(pickled)


def test_an_index_is_of_its_extensions(tmp_path):
    (tmp_path / "0.tar").write_bytes(tar(("0.jpg", b"1"), ("0.txt", b"a"), ("0.cap", b"b")))
    for key, text in (("txt", "a"), ("cap", "b"), ("none;cap", "b"), ("TXT", "a")):
        assert [x["text"] for x in open_source(tmp_path, text_key=key)] == [text]
