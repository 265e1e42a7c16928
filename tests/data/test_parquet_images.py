"""Parquet with images inside: every layout that writers make, nulls, damage, many files."""

import gzip
import io
import itertools
import pickle

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from eqx_clip.data import Mixture, Pairs, fingerprint, open_source
from eqx_clip.data._parquet_images import ParquetImageSource


RANDOM = np.random.default_rng(0)
# Of JPEGs' kind: nothing to compress but for a header in common; some empty, some longer than the
# 64 KiB that Snappy compresses at a time.
SIZES = (0, 1, 7, 300, 5000, 65_536, 70_000, 200_000)
IMAGES = [b"header" * 60 + RANDOM.bytes(int(size)) for size in RANDOM.choice(SIZES, 60)]
TEXTS = [f"text {i}" for i in range(60)]


def write(path, images, texts=TEXTS, **options):
    table = pa.table({"image": images, "text": texts[: len(images)]})
    pyarrow.parquet.write_table(table, path, **options)
    return path


def binary(values):
    return pa.array(values, pa.binary())


def structs(values):
    return pa.array([{"bytes": value, "path": f"{i}.jpg"} for i, value in enumerate(values)])


LAYOUTS = {
    "default": {},
    "uncompressed": {"compression": "none"},
    "no dictionary": {"use_dictionary": False},
    "row groups": {"row_group_size": 7},
    "pages": {"data_page_size": 1000, "write_batch_size": 3},
    "version 2": {"data_page_version": "2.0"},
    "version 2 uncompressed": {"data_page_version": "2.0", "compression": "none"},
    "zstd": {"compression": "zstd"},
    "gzip": {"compression": "gzip", "data_page_version": "2.0"},
    "brotli": {"compression": "brotli", "row_group_size": 20},
    "page index": {"write_page_index": True, "write_page_checksum": True},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", [binary, structs])
def test_every_layout_gives_the_images(tmp_path, layout, kind):
    source = open_source(write(tmp_path / "t.parquet", kind(IMAGES), **LAYOUTS[layout]))
    assert isinstance(source, ParquetImageSource) and len(source) == 60
    for i in RANDOM.permutation(60).tolist():
        assert source[i] == {"image": IMAGES[i], "text": TEXTS[i]}
    assert source.where(9) == f"{tmp_path}/t.parquet, row 10"


@pytest.mark.parametrize("layout", ["default", "uncompressed", "version 2", "no dictionary"])
def test_repeated_and_compressible_images_are_read(tmp_path, layout):
    images = [bytes(100_000), b"ab" * 90_000, IMAGES[5] * 3] * 10
    source = open_source(write(tmp_path / "t.parquet", binary(images), **LAYOUTS[layout]))
    assert [example["image"] for example in source] == images


@pytest.mark.parametrize("layout", ["default", "version 2", "row groups", "uncompressed"])
def test_nulls_are_told_and_move_nothing(tmp_path, layout):
    images = [None if i % 7 in (0, 3) else image for i, image in enumerate(IMAGES)]
    path = write(tmp_path / "t.parquet", binary(images), **LAYOUTS[layout])
    source = open_source(path)
    for i, image in enumerate(images):
        if image is None:
            with pytest.raises(ValueError, match="row has no 'image'"):
                source[i]
        else:
            assert source[i]["image"] == image


def test_a_path_stands_for_bytes_that_are_null(tmp_path):
    rows = [{"bytes": b"inside", "path": "0.jpg"}, {"bytes": None, "path": "1.jpg"}]
    rows += [{"bytes": None, "path": str(tmp_path / "1.jpg")}, {"bytes": None, "path": "gone.jpg"}]
    rows += [{"bytes": None, "path": None}, None]
    (tmp_path / "1.jpg").write_bytes(b"beside")
    source = open_source(write(tmp_path / "t.parquet", pa.array(rows)))
    assert [source[i]["image"] for i in range(3)] == [b"inside", b"beside", b"beside"]
    with pytest.raises(FileNotFoundError, match=r"holds no bytes.*gone\.jpg.*embedded"):
        source[3]
    for i in (4, 5):
        with pytest.raises(ValueError, match="row has no 'image'"):
            source[i]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_empty_bytes_are_no_image_and_damage_nothing(tmp_path, layout, place):
    images = [IMAGES[k] if k != place else b"" for k in range(3)]
    source = open_source(write(tmp_path / "t.parquet", binary(images), **LAYOUTS[layout]))
    for k in range(3):
        if k != place:
            assert source[k]["image"] == IMAGES[k]
    with pytest.raises(ValueError, match="row has no 'image'"):
        source[place]


def test_a_path_stands_for_bytes_that_are_empty(tmp_path):
    rows = [{"bytes": b"", "path": "1.jpg"}, {"bytes": b"inside", "path": "1.jpg"}]
    (tmp_path / "1.jpg").write_bytes(b"beside")
    source = open_source(write(tmp_path / "t.parquet", pa.array(rows)))
    assert [example["image"] for example in source] == [b"beside", b"inside"]


def test_structs_without_bytes_in_any_row_are_tables_of_paths(tmp_path):
    (tmp_path / "0.jpg").write_bytes(b"beside")
    path = write(tmp_path / "t.parquet", pa.array([{"bytes": None, "path": "0.jpg"}]))
    with pytest.raises(ValueError, match="no bytes in any row: name the paths, 'image:path'"):
        open_source(path)
    assert open_source(path, image_key="image:path")[0]["image"] == b"beside"


def test_paths_of_images_outside_start_at_a_root(tmp_path):
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "images" / "1.jpg").write_bytes(b"beside")
    rows = [{"bytes": None, "path": "images/1.jpg"}, {"bytes": b"inside", "path": None}]
    path = write(tmp_path / "t.parquet", pa.array(rows))
    with pytest.raises(FileNotFoundError, match=r"'.*/images/1\.jpg'.*`image_root=`"):
        open_source(path)[0]
    source = open_source(path, image_root=tmp_path / "data", split="train[:100%]")
    assert [example["image"] for example in source] == [b"beside", b"inside"]
    assert pickle.loads(pickle.dumps(source))[0]["image"] == b"beside"
    with pytest.raises(FileNotFoundError, match=r"no folder '.*nowhere', the `image_root`"):
        open_source(path, image_root=tmp_path / "nowhere")


def test_a_file_compressed_as_a_whole_is_refused(tmp_path):
    data = write(tmp_path / "a.parquet", structs(IMAGES)).read_bytes()
    (tmp_path / "b.parquet.gz").write_bytes(gzip.compress(data))
    for path in (tmp_path / "b.parquet.gz", tmp_path, tmp_path / "*.parquet*"):
        with pytest.raises(ValueError, match=r"b\.parquet\.gz is Parquet with images.*gunzip"):
            open_source(path)


def test_a_list_of_tables_and_of_images_inside_is_a_mixture(tmp_path):
    inside = write(tmp_path / "inside.parquet", structs([b"0", b"1"]))
    others = write(tmp_path / "others.parquet", binary([b"2"]))
    paths = write(tmp_path / "paths.parquet", pa.array(["3.jpg"]))
    (tmp_path / "table.csv").write_text("image,text\n3.jpg,text 0\n")
    (tmp_path / "3.jpg").write_bytes(b"3")
    for order in itertools.permutations([inside, paths, tmp_path / "table.csv"]):
        source = open_source(order)
        assert isinstance(source, Mixture)
        assert sorted(example["image"] for example in source) == [b"0", b"1", b"3", b"3"]
    assert not isinstance(open_source([inside, others]), Mixture)
    mixed = {
        inside.name: r"paths\.parquet.*no column 'image' of images",
        paths.name: r"inside\.parquet.*apart",
    }
    for first, message in mixed.items():
        folder = tmp_path / first.split(".")[0]
        folder.mkdir()
        for name in (inside.name, paths.name):
            prefix = "0" if name == first else "1"
            (folder / f"{prefix}-{name}").write_bytes((tmp_path / name).read_bytes())
        with pytest.raises(ValueError, match=message):
            open_source(folder)


def test_many_files_are_one_source_in_sorted_order(tmp_path):
    for k in (2, 0, 1):
        write(
            tmp_path / f"train-{k}.parquet", binary(IMAGES[k * 20 : k * 20 + 20]), TEXTS[k * 20 :]
        )
    for path in (tmp_path, tmp_path / "train-*.parquet", f"{tmp_path}/train-{{0..2}}.parquet"):
        source = open_source(path)
        assert [example["image"] for example in source] == IMAGES
    assert source.where(20) == f"{tmp_path}/train-1.parquet, row 1"
    assert list(pickle.loads(pickle.dumps(source))) == list(source)
    assert [x["text"] for x in open_source(tmp_path, split="train[50:]")] == TEXTS[50:]


def test_files_far_away_are_read_by_ranges(tmp_path):
    data = write(tmp_path / "t.parquet", structs(IMAGES)).read_bytes()
    files = fsspec.filesystem("memory")
    files.pipe("/images/t.parquet", data)
    source = open_source("memory://images/t.parquet")
    assert source.remote and source[17] == {"image": IMAGES[17], "text": TEXTS[17]}
    files.rm("/images", recursive=True)


def test_lists_are_several_texts_and_nulls_none(tmp_path):
    texts = [["a", "b"], None, ["c"]]
    source = open_source(write(tmp_path / "t.parquet", binary(IMAGES[:3]), texts))
    assert [example["text"] for example in source] == [["a", "b"], None, "c"]
    assert Pairs(source).groups.tolist() == [0, 0, 1, 2]


def test_keys_and_fields_are_found_or_told(tmp_path):
    columns = {"jpg": binary(IMAGES[:2]), "mask": binary(IMAGES[:2]), "meta": [{"alt": "a"}] * 2}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    source = open_source(tmp_path / "t.parquet", text_key="meta:alt")
    assert (source.image_key, source[1]["text"]) == ("jpg", "a")
    assert open_source(tmp_path / "t.parquet", image_key="mask", text_key="meta:alt")[0]["text"]
    with pytest.raises(ValueError, match="none may be the text: pass `text_key=`"):
        open_source(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"'meta' must hold text.*'meta:field'"):
        open_source(tmp_path / "t.parquet", text_key="meta")


def test_other_images_and_other_texts_are_other_data(tmp_path):
    whole = fingerprint(open_source(write(tmp_path / "0.parquet", binary(IMAGES))))
    assert fingerprint(open_source(write(tmp_path / "1.parquet", structs(IMAGES)))) != ""
    others = [[*IMAGES[:41], IMAGES[41][:-1] + b"?", *IMAGES[42:]], IMAGES]
    texts = [TEXTS, [*TEXTS[:41], "word 41", *TEXTS[42:]]]
    for images, words in zip(others, texts, strict=True):
        path = write(tmp_path / "2.parquet", binary(images), words)
        assert fingerprint(open_source(path)) != whole
    again = write(tmp_path / "3.parquet", binary(IMAGES), compression="none", row_group_size=9)
    assert fingerprint(open_source(again)) == whole


def test_bytes_that_changed_since_are_told(tmp_path):
    path = write(tmp_path / "t.parquet", binary(IMAGES), compression="none", use_dictionary=False)
    source = open_source(path)
    data = bytearray(path.read_bytes())
    i = next(i for i, image in enumerate(IMAGES) if len(image) > 5000)
    data[data.index(IMAGES[i]) + 2000] ^= 1
    with open(path, "r+b") as stream:  # in place: an editor's or a disk's doing
        stream.write(data)
    with pytest.raises(ValueError, match="not those that were indexed"):
        source[i]


@pytest.mark.parametrize("layout", ["default", "uncompressed", "version 2", "zstd", "row groups"])
def test_damaged_files_are_refused_or_read_right(tmp_path, layout):
    """Never another error, and never other bytes than Arrow gives for the same file."""
    images = IMAGES[:12]
    data = write(tmp_path / "t.parquet", structs(images), **LAYOUTS[layout]).read_bytes()
    generator = np.random.default_rng(0)
    for trial in range(60):
        broken = bytearray(data)
        for position in generator.integers(4, len(data), 1 + trial % 3):
            broken[position] = generator.integers(256)
        path = tmp_path / f"{trial}.parquet"
        path.write_bytes(broken)
        try:
            found = [example["image"] for example in open_source(path)]
        except (ValueError, FileNotFoundError):
            continue
        rows = pyarrow.parquet.read_table(io.BytesIO(broken))["image"].to_pylist()
        assert found == [row["bytes"] for row in rows]


def test_an_encoding_that_is_not_read_is_named(tmp_path):
    options = {"use_dictionary": False, "column_encoding": {"image": "DELTA_LENGTH_BYTE_ARRAY"}}
    with pytest.raises(ValueError, match=r"Row group 0 of .*encoding 6: expected PLAIN"):
        open_source(write(tmp_path / "t.parquet", binary(IMAGES), **options))
    with pytest.raises(ValueError, match="compressed by LZ4: expected SNAPPY"):
        open_source(write(tmp_path / "t.parquet", binary(IMAGES), compression="lz4"))
