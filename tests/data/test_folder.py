"""Folders of images beside their texts, and folders with metadata."""

import json
import pickle

import fsspec
import pytest
from shards import record, tfrecord

from eqx_clip.data import fingerprint, open_source


def fill(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode())
    return folder


# What img2dataset writes with `--output_format files`.
FILES = {
    **{f"0000{k}/0000{k}000{i}.jpg": f"image {k} {i}" for k in range(2) for i in range(3)},
    **{f"0000{k}/0000{k}000{i}.txt": f"text {k} {i}" for k in range(2) for i in range(3)},
    **{
        f"0000{k}/0000{k}000{i}.json": json.dumps({"caption": f"json {k} {i}"})
        for k in range(2)
        for i in range(3)
    },
    **{f"0000{k}.parquet": "urls" for k in range(2)},
    **{f"0000{k}_stats.json": "{}" for k in range(2)},
    ".DS_Store": "hidden",
}


def test_images_beside_their_texts_are_read_in_sorted_order(tmp_path):
    source = open_source(fill(tmp_path, FILES))
    expected = [(f"image {k} {i}", f"text {k} {i}") for k in range(2) for i in range(3)]
    assert [(x["image"].decode(), x["text"]) for x in source] == expected
    assert source.where(4) == f"{tmp_path}/00001/000010001.jpg"
    assert list(pickle.loads(pickle.dumps(source))) == list(source)
    by_json = open_source(tmp_path, text_key="json:caption")
    assert by_json[4]["text"] == "json 1 1"


def test_a_folder_far_away_is_read(tmp_path):
    files = fsspec.filesystem("memory")
    for name, content in FILES.items():
        files.pipe(f"/pairs/{name}", content.encode())
    source = open_source("memory://pairs")
    assert [example["text"] for example in source][3] == "text 1 0" and len(source) == 6
    files.rm("/pairs", recursive=True)


def test_an_image_without_a_text_has_none(tmp_path):
    source = open_source(
        fill(tmp_path, {"a.png": "1", "a.txt": "text", "b.PNG": "2", "c.txt": "c"})
    )
    assert list(source) == [{"image": b"1", "text": "text"}, {"image": b"2", "text": None}]


def test_two_images_of_one_name_are_refused_until_an_extension_is_said(tmp_path):
    fill(tmp_path, {"a.jpg": "image", "a.png": "mask", "a.txt": "text"})
    with pytest.raises(ValueError, match=r"'a\.jpg', 'a\.png' beside each other.*`image_key=`"):
        open_source(tmp_path)
    assert open_source(tmp_path, image_key="jpg")[0]["image"] == b"image"


def test_a_text_that_is_not_utf8_is_told(tmp_path):
    fill(tmp_path, {"a.jpg": "image", "a.txt": "text"})
    (tmp_path / "a.txt").write_bytes(b"\xe9")
    with pytest.raises(ValueError, match="not UTF-8"):
        open_source(tmp_path)[0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", "file_name,text\nx/0.png,a\n1.png,b\n"),
        (
            "metadata.jsonl",
            '{"file_name": "x/0.png", "text": "a"}\n{"file_name": "1.png", "text": "b"}',
        ),
    ],
)
def test_metadata_says_the_texts_of_a_folder(tmp_path, name, content):
    fill(tmp_path, {"x/0.png": "0", "1.png": "1", name: content})
    assert list(open_source(tmp_path)) == [
        {"image": b"0", "text": "a"},
        {"image": b"1", "text": "b"},
    ]


def test_two_kinds_of_metadata_are_a_choice(tmp_path):
    fill(tmp_path, {"metadata.csv": "", "metadata.jsonl": ""})
    with pytest.raises(ValueError, match=r"'metadata\.csv', 'metadata\.jsonl': name the one"):
        open_source(tmp_path)


def test_a_whole_json_file_is_no_text(tmp_path):
    with pytest.raises(ValueError, match="'json:caption'"):
        open_source(fill(tmp_path, FILES), text_key="json")


def test_shards_in_a_folder_are_read_as_shards(tmp_path):
    fill(tmp_path, {"a.jpg": "image", "a.txt": "text"})
    (tmp_path / "0.tfrecord").write_bytes(tfrecord(record(jpg=b"image", txt=b"record")))
    assert open_source(tmp_path)[0]["text"] == "record"


def test_other_texts_are_other_data(tmp_path):
    fill(tmp_path, FILES)
    before = fingerprint(open_source(tmp_path))
    fill(tmp_path, {"00000/000000001.txt": "word 0 1"})
    assert fingerprint(open_source(tmp_path)) != before
