"""Folders of images beside their texts, and folders with metadata."""

import json
import pickle

import fsspec
import pytest
from shards import record, tfrecord

from eqx_clip.data import _folder, fingerprint, open_source


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
    source = open_source(tmp_path)  # and not here: it counts when it is drawn
    with pytest.raises(ValueError, match=rf"{tmp_path}/a\.txt is not UTF-8"):
        source[0]


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


def test_metadata_in_the_folders_of_a_folder_is_one_table(tmp_path):
    files = {f"{name}/metadata.csv": f"file_name,text\n0.png,{name}\n" for name in "ba"}
    fill(tmp_path, {**files, "a/0.png": "image a", "b/0.png": "image b", ".git/x": ""})
    expected = [{"image": f"image {name}".encode(), "text": name} for name in "ab"]
    source = open_source(tmp_path)
    assert list(source) == list(pickle.loads(pickle.dumps(source))) == expected


def test_metadata_of_several_splits_is_never_one_table(tmp_path):
    rows = "file_name,text\n0.png,a\n"
    fill(tmp_path, {f"{name}/metadata.csv": rows for name in ("train", "test")})
    fill(tmp_path, {f"{name}/0.png": name for name in ("train", "test")})
    with pytest.raises(ValueError, match=r"several splits, 'test/metadata\.csv', 'train/"):
        open_source(tmp_path)
    assert open_source(tmp_path / "train")[0]["image"] == b"train"


def test_two_kinds_of_metadata_are_a_choice(tmp_path):
    fill(tmp_path, {"metadata.csv": "", "metadata.jsonl": ""})
    with pytest.raises(ValueError, match=r"'metadata\.csv', 'metadata\.jsonl'.*name the one"):
        open_source(tmp_path)


@pytest.mark.parametrize("name", ["metadata.csv", "train.csv"])
def test_a_folder_of_two_kinds_is_told_with_both(tmp_path, name):
    fill(tmp_path, {"0.png": "0", "0.txt": "text", name: "file_name,text\n0.png,a\n"})
    with pytest.raises(ValueError, match=rf"more than one kind .*'{name}'.*'0\.txt'"):
        open_source(tmp_path)


def test_metadata_among_folders_of_pairs_is_told(tmp_path):
    fill(tmp_path, {"a/0.png": "0", "a/0.txt": "text", "b/1.png": "1"})
    fill(tmp_path, {"b/metadata.csv": "file_name,text\n1.png,b\n"})
    with pytest.raises(ValueError, match=r"b/metadata\.csv lies among folders of images"):
        open_source(tmp_path)


def test_classes_are_told_to_be_for_zero_shot(tmp_path):
    fill(tmp_path, {f"{name}/{i}.jpg": "image" for name in ("cat", "dog") for i in range(2)})
    with pytest.raises(ValueError, match=r"'cat/', 'dog/'.*None of the 4 images.*`open_classes`"):
        open_source(tmp_path)


def test_texts_of_another_extension_are_told_and_named(tmp_path):
    fill(tmp_path, {"0.jpg": "image", "0.caption": "text"})
    with pytest.raises(ValueError, match=r"1 '\.caption', 1 '\.jpg'.*`text_key=`"):
        open_source(tmp_path)
    assert open_source(tmp_path, text_key="caption")[0]["text"] == "text"


def test_order_is_that_of_paths_and_names_may_have_dots(tmp_path):
    names = ["a.v1", "b/a.v2", "b.c", "c"]
    fill(tmp_path, {f"{name}.jpg": name for name in names})
    fill(tmp_path, {f"{name}.txt": name for name in names})
    assert [x["text"] for x in open_source(tmp_path)] == ["a.v1", "b.c", "b/a.v2", "c"]


def test_the_end_of_a_line_and_the_mark_of_an_editor_are_no_text(tmp_path):
    fill(
        tmp_path, {"a.jpg": "a", "a.txt": "\ufeffa dog\r\n", "b.jpg": "b", "b.txt": "two\nlines\n"}
    )
    assert [x["text"] for x in open_source(tmp_path)] == ["a dog", "two\nlines"]


def test_texts_without_an_image_are_counted(tmp_path, caplog):
    fill(tmp_path, {"a.jpg": "a", "a.txt": "text", "b.heif": "b", "b.txt": "text"})
    assert len(open_source(tmp_path)) == 1
    assert "1 texts have no image beside them: 'b.txt'" in caplog.text


def test_a_link_that_leads_back_up_is_not_followed(tmp_path):
    fill(tmp_path, FILES)
    (tmp_path / "00000" / "up").symlink_to(tmp_path)
    assert len(open_source(tmp_path)) == 6


def test_workers_list_nothing(tmp_path, monkeypatch, index_folder):
    source = open_source(fill(tmp_path, FILES))
    pickled, expected = pickle.dumps(source), list(source)
    with monkeypatch.context() as patch:
        patch.setattr(_folder, "walk", lambda folder: pytest.fail("listed"))
        assert list(pickle.loads(pickled)) == expected
    for file in index_folder.iterdir():
        file.unlink()
    assert list(pickle.loads(pickled)) == expected  # where there is no index, it is made anew
    for file in index_folder.iterdir():
        file.unlink()
    fill(tmp_path, {"00000/new.jpg": "image"})
    with pytest.raises(ValueError, match="has changed since it was opened"):
        pickle.loads(pickled)


def test_a_text_that_changed_is_read_anew(tmp_path):
    fill(tmp_path, FILES)
    assert open_source(tmp_path)[0]["text"] == "text 0 0"
    fill(tmp_path, {"00000/000000000.txt": "another"})
    assert open_source(tmp_path)[0]["text"] == "another"


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
