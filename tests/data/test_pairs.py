"""`Pairs`: each caption with its image, and which share one."""

import io

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image
from shards import record, tar, tfrecord
from test_captions import LISTS, feed, write

from eqx_clip.data import Mixture, Pairs, open_source
from eqx_clip.train import retrieval_metrics


@pytest.mark.parametrize("kind", LISTS)
def test_a_list_is_as_many_pairs_of_one_image(tmp_path, kind):
    path, key = write(tmp_path, kind, [["a", "b"], "c", ["d", "e", "f"]])
    pairs = Pairs(open_source(path, text_key=key))
    assert [example["text"] for example in pairs] == list("abcdef")
    assert pairs.groups.tolist() == [0, 0, 1, 2, 2, 2] and pairs.num_images == 3
    assert pairs[1]["image"] == pairs[0]["image"] != pairs[2]["image"]


def test_rows_that_name_one_image_share_it(tmp_path):
    write(tmp_path, "csv", ["x", "y"])
    (tmp_path / "captions.csv").write_text("image,text\n0.png,a\n1.png,b\n0.png,c\n1.png,d\n")
    source = open_source(tmp_path / "captions.csv")
    assert Pairs(source).groups.tolist() == [0, 1, 0, 1]
    assert Pairs(open_source(tmp_path / "captions.csv", n_samples=3)).groups.tolist() == [0, 1, 0]
    assert Pairs(Mixture([source, source])).groups.tolist() == [0, 1, 0, 1] * 2


def test_users_sequences_are_grouped_by_bytes_and_pixels():
    pairs = Pairs([{"image": b"1", "text": ["a", "b"]}, {"image": b"2", "text": None}])
    assert pairs.groups.tolist() == [0, 0, 1] and pairs.groups.dtype == np.int64
    assert [pairs[i]["text"] for i in range(3)] == ["a", "b", None]
    images = [np.full((4, 4, 3), k % 2, np.uint8) for k in range(4)]
    for kind in (Image.fromarray, png_of, np.asarray):
        rows = [{"image": kind(image), "text": "a"} for image in images]
        assert Pairs(rows).groups.tolist() == [0, 1, 0, 1]


def png_of(image):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


# Images of one size of file, of which CRC-32 tells none from another: chunks of PNG end in theirs.
IMAGES = [png_of(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8))]
for k in range(3):
    IMAGES.append(png_of(np.random.default_rng(k + 1).integers(0, 255, (8, 8, 3), np.uint8)))
ROWS = [(image, f"text {i} {k}") for i, image in enumerate(IMAGES) for k in range(5)]
KINDS = ("binary", "structs", "paths in structs", "tar", "tfrecord", "folder", "csv")


def repeated(folder, kind):
    """Every image five times, each with a text of its own, in a container of some kind."""
    images, texts = zip(*ROWS, strict=True)
    names = [f"{IMAGES.index(image)}.png" for image in images]
    if kind in ("csv", "paths in structs"):
        for name, image in zip(names, images, strict=True):
            (folder / name).write_bytes(image)
        names = [f"./x/..//{name}" if k % 2 else name for k, name in enumerate(names)]
    if kind == "csv":
        lines = "".join(f"{name},{text}\n" for name, text in zip(names, texts, strict=True))
        (folder / "rows.csv").write_text("image,text\n" + lines)
        return folder / "rows.csv"
    if kind == "tar":
        pairs = [(f"{k}.png", image, f"{k}.txt", text) for k, (image, text) in enumerate(ROWS)]
        members = [[(png, image), (txt, text.encode())] for png, image, txt, text in pairs]
        (folder / "0.tar").write_bytes(tar(*(one for pair in members for one in pair)))
        return folder
    if kind == "folder":
        for k, (image, text) in enumerate(ROWS):
            (folder / f"{k:02}.png").write_bytes(image)
            (folder / f"{k:02}.txt").write_text(text)
        return folder
    if kind == "tfrecord":
        records = [record(png=image, txt=text.encode()) for image, text in ROWS]
        (folder / "0.tfrecord").write_bytes(tfrecord(*records))
        return folder
    column = images
    if kind != "binary":
        stored = [None if kind == "paths in structs" else image for image in images]
        pairs = zip(stored, names, strict=True)
        rows = [{"bytes": data, "path": name} for data, name in pairs]
        column = pa.array(rows, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    pyarrow.parquet.write_table(pa.table({"image": column, "text": texts}), folder / "t.parquet")
    return folder / "t.parquet"


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_one_image_share_it_in_every_container(tmp_path, kind):
    (tmp_path / "x").mkdir()
    pairs = Pairs(open_source(repeated(tmp_path, kind)))
    assert pairs.groups.tolist() == [i for i in range(4) for _ in range(5)]
    features = np.eye(4, dtype=np.float32)
    found = retrieval_metrics(features, features[pairs.groups], groups=pairs.groups)
    assert found["image_to_text_R@1"] == found["text_to_image_R@1"] == 1


def test_images_of_several_containers_are_the_same_by_their_bytes(tmp_path):
    for name in ("tar", "tfrecord", "binary"):
        (tmp_path / name).mkdir()
    sources = [open_source(repeated(tmp_path / name, name)) for name in ("tar", "tfrecord")]
    sources.append(open_source(repeated(tmp_path / "binary", "binary"), split="train[5:]"))
    pairs = Pairs(Mixture(sources))
    whole = [i for i in range(4) for _ in range(5)]
    assert pairs.groups.tolist() == [*whole, *whole, *whole[5:]]


def test_only_images_of_one_size_are_read(tmp_path, monkeypatch):
    members = [
        (f"{k}.{end}", data)
        for k in range(4)
        for end, data in (("png", b"x" * (k or 1)), ("txt", b"text"))
    ]
    (tmp_path / "0.tar").write_bytes(tar(*members))
    source = open_source(tmp_path)
    asked = []
    monkeypatch.setattr(type(source), "_read", lambda self, i: asked.append(i) or {"image": b"x"})
    assert Pairs(source).groups.tolist() == [0, 0, 1, 2] and asked == [0, 1]


def test_images_far_away_are_grouped(tmp_path):
    data = repeated(tmp_path, "structs").read_bytes()
    files = fsspec.filesystem("memory")
    files.pipe("/pairs/t.parquet", data)
    assert Pairs(open_source("memory://pairs/t.parquet")).num_images == 4
    files.rm("/pairs", recursive=True)


def test_what_cannot_be_read_is_an_image_of_its_own(tmp_path):
    pq = pa.table({"image": pa.array([None, None, b"1", b"1"], pa.binary()), "text": list("abcd")})
    pyarrow.parquet.write_table(pq, tmp_path / "t.parquet")
    assert Pairs(open_source(tmp_path / "t.parquet")).groups.tolist() == [0, 1, 2, 2]


def test_empty_texts_among_others_are_left_out_as_training_does(tmp_path):
    texts = [["a", "", "b", None, " "], ["", " "], [], ("c", "d")]
    source = [{"image": b"%d" % k, "text": text} for k, text in enumerate(texts)]
    pairs = Pairs(source)
    assert [example["text"] for example in pairs] == ["a", "b", ["", " "], [], "c", "d"]
    assert pairs.groups.tolist() == [0, 0, 1, 2, 3, 3]
    with_empty = Pairs(source, empty_captions=True)
    assert [x["text"] for x in with_empty] == ["a", "", "b", " ", "", " ", [], "c", "d"]
    path, _ = write(tmp_path, "jsonl", [["x", ""] if k == 3 else ["y", "z"] for k in range(8)])
    fed = feed(Pairs(open_source(path)), shuffle=False, batch_size=5, drop_remainder=False)
    assert sum(len(batch["index"]) for batch in fed) == 15 and not fed.bad_samples
