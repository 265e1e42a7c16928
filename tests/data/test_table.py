"""Tables: CSV, JSON lines and Parquet read alike, what is refused, and the index they leave."""

import base64
import csv
import gzip
import io
import itertools
import json
import logging
import os
import pickle
import sys
import uuid

import fsspec
import pyarrow as pa
import pyarrow.parquet
import pytest
from test_builders import run

from eqx_clip.data import CSVBuilder, open_source
from eqx_clip.data._table import TableSource


ROWS = [
    {"filepath": f"{i}.jpg", "title": title}
    for i, title in enumerate(
        [
            *("a dog", "NA", "null", "123", "", "1e5", "True", " spaces "),
            *('quoted, "comma"', "two\nlines", "tab\tin it", "ünï 狗 😀", "2020-01-01"),
        ]
    )
]


@pytest.fixture(autouse=True)
def images(tmp_path):
    """An image for each row, beside the table. A source passes on what it holds."""
    for row in ROWS:
        (tmp_path / row["filepath"]).write_bytes(image(row))


def image(row):
    return b"image " + row["filepath"].encode()


def as_csv(rows, **options):
    stream = io.StringIO()
    writer = csv.DictWriter(stream, rows[0].keys(), **options)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def as_json(rows):
    return "\n".join(map(json.dumps, rows)).encode()


def as_parquet(rows, schema=None):
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema), stream)
    return stream.getvalue()


def written(folder, name, data):
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def texts(source):
    return [example["text"] for example in source]


dictionary = pa.dictionary(pa.int32(), pa.string())


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("comma.csv", as_csv(ROWS)),
        ("unix.csv", as_csv(ROWS, lineterminator="\n")),
        ("tab.csv", as_csv(ROWS, delimiter="\t")),
        ("TAB.TSV", as_csv(ROWS, delimiter="\t")),
        ("commas.tsv", as_csv([{**row, "a,b,c": ""} for row in ROWS], delimiter="\t")),
        ("unnamed.csv", as_csv(ROWS).replace(b"\r\n", b",,\r\n")),
        ("bom.csv", b"\xef\xbb\xbf" + as_csv(ROWS)),
        ("quoted.csv", as_csv(ROWS, quoting=csv.QUOTE_ALL)),
        ("blank_lines.csv", as_csv(ROWS, lineterminator="\n\n").replace(b"two\n\n", b"two\n")),
        ("text_first.csv", as_csv([{"title": r["title"], **r} for r in ROWS])),
        ("extra.csv", as_csv([{"id": "1", **row, "width,height": "2"} for row in ROWS])),
        ("zipped.csv.gz", gzip.compress(as_csv(ROWS))),
        ("rows.jsonl", as_json(ROWS)),
        ("extra.jsonl", as_json([{"id": 1, **row, "size": [1, 2], "n": {}} for row in ROWS])),
        ("zipped.jsonl.gz", gzip.compress(as_json(ROWS) + b"\n\n")),
        ("rows.parquet", as_parquet(ROWS)),
        ("extra.parquet", as_parquet([{"id": 1, **row, "size": [1, 2]} for row in ROWS])),
        (
            "large.parquet",
            as_parquet(ROWS, pa.schema({"filepath": pa.large_string(), "title": dictionary})),
        ),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,
)
def test_one_table_is_read_alike_from_every_format(tmp_path, name, data):
    source = TableSource(written(tmp_path, name, data))
    assert (source.image_key, source.text_key) == ("filepath", "title")
    expected = [{"image": image(row), "text": row["title"]} for row in ROWS]
    assert len(source) == len(expected) and list(source) == expected


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("table.jsonl", as_json([{"image": "0.jpg", "text": None}, {"image": "1.jpg"}])),
        ("table.parquet", as_parquet([{"image": "0.jpg", "text": None}])),
    ],
)
def test_a_text_that_is_missing_is_none(tmp_path, name, data):
    path = written(tmp_path, name, data)
    assert set(texts(TableSource(path))) == {None}


@pytest.mark.parametrize(
    ("name", "write"), [("table.jsonl", as_json), ("table.parquet", as_parquet)]
)
def test_a_list_is_several_texts_of_one_image(tmp_path, name, write):
    lists = [["a", "b", "c"], ["d"], [], None, ["e", None, ""], [None]]
    data = write([{"image": f"{i}.jpg", "text": texts} for i, texts in enumerate(lists)])
    expected = [["a", "b", "c"], "d", None, None, ["e", ""], None]
    assert texts(TableSource(written(tmp_path, name, data))) == expected


def test_keys_choose_among_columns(tmp_path):
    path = written(tmp_path, "table.csv", "filepath,image,title,alt\nno,0.jpg,a title,an alt\n")
    source = TableSource(path, image_key="image", text_key="alt")
    assert list(source) == [{"image": image(ROWS[0]), "text": "an alt"}]


def test_image_paths_are_relative_to_the_table_absolute_or_far_away(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    written(tmp_path, "sub/in folder.jpg", b"below")
    far = f"memory://{uuid.uuid4()}/0.jpg"
    fsspec.filesystem("memory").pipe(far, b"far")
    rows = ["sub/in folder.jpg", "../0.jpg", str(tmp_path / "1.jpg"), far]
    written(tmp_path, "table.csv", "filepath,title\n" + "".join(f"{path},\n" for path in rows))
    written(tmp_path, "sub/table.csv", "filepath,title\n../0.jpg,\n")
    monkeypatch.chdir(tmp_path)
    source = TableSource("table.csv")
    monkeypatch.chdir("/")
    found = [source[0], source[2], source[3], *TableSource(tmp_path / "sub" / "table.csv")]
    assert [example["image"] for example in found] == [
        *(b"below", image(ROWS[1]), b"far", image(ROWS[0]))
    ]


@pytest.mark.parametrize(
    ("name", "write"), [("table.jsonl", as_json), ("table.parquet", as_parquet)]
)
def test_a_text_may_be_a_field_of_an_object(tmp_path, name, write):
    rows = [{"image": "0.jpg", "meta": {"en": {"text": text}, "id": 1}} for text in ("a", None)]
    path = written(tmp_path, name, write([*rows, {"image": "1.jpg", "meta": None}]))
    assert texts(TableSource(path, text_key="meta:en:text")) == ["a", None, None]
    with pytest.raises(ValueError, match=r"'meta:"):
        TableSource(path, text_key="meta")
    with pytest.raises(ValueError, match=r"has no text_key 'mate:en'"):
        TableSource(path, text_key="mate:en")


def test_an_image_that_is_missing_is_told_by_its_path_and_row(tmp_path):
    source = TableSource(written(tmp_path, "t.csv", "filepath,title\n0.jpg,a\ngone.jpg,b\n"))
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg"):
        source[1]
    assert source.where(1) == f"{tmp_path}/t.csv, row 2: {tmp_path}/gone.jpg"


HEAD = "filepath,title\n0.jpg,a\n"
MANY = "".join(f"{i}.jpg,caption {i}\n" for i in range(9000))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.csv", "url,alt\na,b\n", r"'url', 'alt', none may be .*`image_key=`.*by img2dataset"),
        ("t.tsv", "a bus station\thttp://a/b.jpg\n", r"on the web, 'http://a/b\.jpg'.*img2dataset"),
        ("t.csv", "filepath,alt\na,b\n", r"none may be the text: pass `text_key=`"),
        ("t.csv", "filepath,title,caption\na,b,c\n", r"several may be the text"),
        ("t.csv", "filepath,title,title\na,b,c\n", r"several columns 'title'.*Rename"),
        ("t.csv", HEAD + "1.jpg,b,c\n", r"row at line 3: it has 3 cells in place of 2"),
        ("t.csv", HEAD + '1.jpg,"b\nc"\n2.jpg\n', r"row at line 5: it has 1 cells in place of 2"),
        ("t.csv", "filepath,title\n" + MANY + "1.jpg\n", r"row at line 9002: it has 1 cells"),
        ("t.csv", HEAD + '1.jpg,"b\n2.jpg,c\n', r"row at line 3: .*end of data.*quote missing"),
        ("t.csv", HEAD + '1.jpg,"b" c\n', r"row at line 3: .*expected after"),
        ("t.csv", 'filepath,"title\n0.jpg,a\n', r"unexpected end of data"),
        ("t.csv", "filepath,title\n0.jpg,é\n".encode("latin-1"), r"in UTF-8.*0xe9"),
        ("t.csv", HEAD.encode("utf-16"), r"in UTF-8.*0xff"),
        ("t.csv", "filepath,title\n", r"no rows below its header"),
        ("t.csv", "", r"is empty: expected a table"),
        ("t.csv", "\n\n", r"is empty: expected a table"),
        ("t.csv.gz", HEAD, r"Not a gzipped file"),
        ("t.csv.gz", gzip.compress((HEAD + MANY).encode())[:-100], r"cannot be read.*ended before"),
        ("t.jsonl", "", r"is empty: expected a table"),
        ("t.jsonl", as_json([{"url": "a", "alt": "b"}]), r"'url', 'alt', none may be the image"),
        (
            "t.jsonl",
            as_json([{"image": "a", "text": 1}]),
            r"Line 1: 'text' must hold text; it is int",
        ),
        ("t.jsonl", as_json([{"image": "a", "text": ["b", 1]}]), r"'text' must hold text.* int"),
        ("t.jsonl", as_json([{"image": ["a"], "text": "b"}]), r"'image' must hold text.* list"),
        ("t.jsonl", as_json(ROWS) + b'\n{"filepath": "a", "ti', r"cannot be read as a table"),
        ("t.jsonl", as_json(ROWS * 20) + b'\n{"title": "a', r"Line 261 is no JSON"),
        (
            "t.jsonl",
            b'{"image": "0.jpg", "text": ""}\n{"image" 1}\n',
            r"^(?!.*line 1).*Line 2 is no",
        ),
        ("t.jsonl", as_json([ROWS]), r"Expected one JSON object a line"),
        (
            "t.jsonl",
            as_json(ROWS * 20) + b'\n{"title": "\xe9"}',
            r"Line 261 is no JSON in UTF-8.*0xe9",
        ),
        ("t.parquet", "", r"Parquet file size is 0"),
        ("t.parquet", as_parquet(ROWS)[:-9], r"cannot be read as a table.*magic bytes"),
        ("t.parquet", as_parquet(ROWS).replace(b"\x15", b"\x16"), r"cannot be read as a .* thrift"),
        ("t.parquet", as_parquet([{"image": "a", "text": 1}]), r"'text' must hold text.*int64"),
        ("t.parquet", as_parquet([{"image": b"a", "text": "b"}]), r"'image' must hold.*binary"),
        ("t.parquet", as_parquet([{"url": "a"}]), r"'url', none may be the image"),
        ("t.parquet", as_parquet([], pa.schema({"image": "str", "text": "str"})), r"no rows"),
        ("t.doc", HEAD, r"is no table: expected a file named \.csv, \.tsv, \.jsonl, \.parquet"),
    ],
    ids=itertools.count(),
)
def test_a_table_that_is_not_whole_is_refused_when_it_is_opened(tmp_path, name, data, message):
    path = written(tmp_path, name, data)
    for _ in range(2):  # also where an index could be there
        with pytest.raises(ValueError, match=message) as raised:
            TableSource(path)
        assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("filepaths", "title"), r"no image_key 'filepaths'.*mean 'filepath'"),
        (("filepath", "txt"), r"no text_key 'txt': it holds 'filepath', 'title'"),
        (("title", "title"), r"image_key and text_key are the same, 'title'"),
    ],
)
def test_a_key_that_cannot_be_is_told_with_the_columns_found(tmp_path, keys, message):
    with pytest.raises(ValueError, match=message):
        TableSource(written(tmp_path, "t.csv", as_csv(ROWS)), *keys)


def test_a_table_that_is_not_there_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}/none\.csv"):
        TableSource(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="holds no tables"):
        TableSource(tmp_path)


def times(folder):
    """When what a folder holds was written; reading may leave its time."""
    return {entry.name: entry.stat().st_mtime_ns for entry in os.scandir(folder)}


def test_a_folder_that_cannot_be_written_is_read_and_left_as_it_is(tmp_path):
    path = written(tmp_path, "t.csv", as_csv(ROWS))
    tmp_path.chmod(0o555)
    before = times(tmp_path)
    assert len(list(TableSource(path))) == len(ROWS)
    assert times(tmp_path) == before
    tmp_path.chmod(0o755)


def test_a_table_that_changed_is_read_anew_and_refused_to_who_knew_the_old(tmp_path):
    path = written(tmp_path, "t.csv", "filepath,title\n0.jpg,old\n")
    old = TableSource(path)
    pickled = pickle.dumps(old)
    times = path.stat()
    path.write_text("filepath,title\n0.jpg,new\n")  # of the same size and, it says, time
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert texts(TableSource(path)) == ["new"] and texts(old) == ["old"]
    with pytest.raises(ValueError, match=r"t\.csv has changed since it was opened"):
        pickle.loads(pickled)


def test_tables_and_columns_never_share_an_index(tmp_path, index_folder):
    for name in "ab":
        (tmp_path / name).mkdir()
        written(tmp_path, f"{name}/t.csv", f"filepath,title,alt\n../0.jpg,{name},{name}{name}\n")
    for _ in range(2):
        assert texts(TableSource(tmp_path / "a/t.csv", text_key="title")) == ["a"]
        assert texts(TableSource(tmp_path / "b/t.csv", text_key="title")) == ["b"]
        assert texts(TableSource(tmp_path / "b/t.csv", text_key="alt")) == ["bb"]
    assert len(list(index_folder.iterdir())) == 3


def test_a_source_pickles_as_a_path(tmp_path):
    rows = [{**row, "title": row["title"] * 100} for row in ROWS]
    source = TableSource(written(tmp_path, "t.csv", as_csv(rows * 100)))
    pickled = pickle.dumps(source)
    assert len(pickled) < 500
    assert list(pickle.loads(pickled)) == list(source)


@pytest.mark.parametrize("kept", [0, 1, 100, -1, None])
def test_an_index_that_is_damaged_is_made_anew(tmp_path, index_folder, kept):
    path = written(tmp_path, "t.csv", as_csv(ROWS))
    expected = texts(TableSource(path))
    (index,) = index_folder.iterdir()
    index.write_bytes(b"x" * 5000 if kept is None else index.read_bytes()[:kept])
    assert texts(TableSource(path)) == expected
    assert list(index_folder.iterdir()) == [index] and index.read_bytes()[:5] == b"ARROW"


def test_an_index_that_cannot_be_kept_is_held_in_memory(tmp_path, monkeypatch, caplog):
    path = written(tmp_path, "t.csv", as_csv(ROWS))
    monkeypatch.setenv("EQX_CLIP_CACHE", str(path / "below a file"))
    with caplog.at_level(logging.WARNING, "eqx_clip.data"):
        source = TableSource(path)
    assert texts(source) == [row["title"] for row in ROWS]
    assert "`EQX_CLIP_CACHE` names another folder" in caplog.text
    assert texts(pickle.loads(pickle.dumps(source))) == texts(source)


FULL = """
import resource, sys
from eqx_clip.data import open_source
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    open_source(sys.argv[1])
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_full_disk_under_the_index_is_told(tmp_path, index_folder):
    path = written(tmp_path, "t.csv", "filepath,title\n" + MANY)
    told = run(FULL, path)
    assert f"cannot be written to {index_folder}" in told and "`EQX_CLIP_CACHE` names" in told
    assert list(index_folder.iterdir()) == []


# --- Several files ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "write"), [("csv", as_csv), ("jsonl", as_json), ("parquet", as_parquet)]
)
@pytest.mark.parametrize("pattern", ["", "train-*.{}", "train-{{00000..00002}}.{}"])
def test_many_files_are_one_table_in_sorted_order(tmp_path, name, write, pattern):
    folder = tmp_path / "tables"
    folder.mkdir()
    parts = ROWS[:5], ROWS[5:6], ROWS[6:]
    for k in (2, 0, 1):
        rows = [{**row, "filepath": f"../{row['filepath']}"} for row in parts[k]]
        written(folder, f"train-{k:05}.{name}", write(rows))
    source = open_source(folder / pattern.format(name))
    assert list(source) == [{"image": image(row), "text": row["title"]} for row in ROWS]
    assert source.where(6) == f"{folder}/train-00002.{name}, row 1: {folder}/../6.jpg"
    assert list(pickle.loads(pickle.dumps(source))) == list(source)


def test_paths_start_at_the_folder_of_their_file(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        written(tmp_path, f"{name}/0.jpg", name)
        written(tmp_path, f"{name}/t.csv", f"filepath,title\n0.jpg,{name}\n")
    source = open_source(f"{tmp_path}/{{a,b}}/t.csv")
    assert list(source) == [{"image": name.encode(), "text": name} for name in "ab"]


@pytest.mark.parametrize(("name", "write"), [("csv", as_csv), ("parquet", as_parquet)])
def test_a_file_that_lacks_a_column_is_named(tmp_path, name, write):
    folder = tmp_path / "tables"
    folder.mkdir()
    written(folder, f"0.{name}", write(ROWS))
    written(folder, f"1.{name}", write([{"filepath": "0.jpg", "words": "a"}]))
    with pytest.raises(ValueError, match=rf"1\.{name} has no column 'title'.*'words'"):
        open_source(folder)


def test_another_file_in_the_folder_makes_other_data(tmp_path):
    folder = tmp_path / "tables"
    folder.mkdir()
    written(folder, "0.csv", as_csv(ROWS))
    source = open_source(folder)
    pickled = pickle.dumps(source)
    written(folder, "1.csv", as_csv(ROWS))
    assert len(open_source(folder)) == 2 * len(source)
    with pytest.raises(ValueError, match="has changed since it was opened"):
        pickle.loads(pickled)


def test_the_same_files_are_indexed_once(tmp_path, index_folder):
    folder = tmp_path / "tables"
    folder.mkdir()
    for k in range(3):
        written(folder, f"{k}.csv", as_csv(ROWS))
    for _ in range(2):
        open_source(folder)
    assert len(list(index_folder.iterdir())) == 1


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"),
        ("train.csv", "valid.csv"),
        ("captions_train.jsonl", "captions_val.jsonl"),
    ],
)
def test_files_of_several_splits_are_never_one_table(tmp_path, names):
    write = {"csv": as_csv, "jsonl": as_json, "parquet": as_parquet}[names[0].split(".")[-1]]
    for name in names:
        written(tmp_path, name, write(ROWS))
    with pytest.raises(ValueError, match=rf"several splits, .*{names[1]}.*pattern, such as"):
        open_source(tmp_path)
    assert len(open_source(f"{tmp_path}/*train*")) == len(ROWS)
    assert len(open_source([tmp_path / name for name in names])) == 2 * len(ROWS)


def test_tables_of_several_formats_in_a_folder_are_a_choice(tmp_path):
    written(tmp_path, "t.csv", as_csv(ROWS))
    written(tmp_path, "t.parquet", as_parquet(ROWS))
    with pytest.raises(ValueError, match=r"several formats, 't\.csv', 't\.parquet'"):
        open_source(tmp_path)
    assert len(open_source(f"{tmp_path}/*.csv")) == len(ROWS)


def test_a_table_beside_a_folder_of_its_name_is_read(tmp_path):
    (tmp_path / "train").mkdir()
    written(tmp_path, "train/0.jpg", "below")
    written(tmp_path, "train.csv", "filepath,title\ntrain/0.jpg,a\n")
    assert list(open_source(tmp_path)) == [{"image": b"below", "text": "a"}]


def test_files_far_away_are_one_table_in_sorted_order():
    files, root = fsspec.filesystem("memory"), f"memory://{uuid.uuid4()}"
    for k in (2, 0, 1):
        files.pipe(f"{root}/train-{k}.csv", f"filepath,title\n{k}.jpg,{k}\n".encode())
        files.pipe(f"{root}/{k}.jpg", f"image {k}".encode())
    for path in (root, f"{root}/train-*.csv"):
        expected = [{"image": f"image {k}".encode(), "text": str(k)} for k in range(3)]
        assert list(open_source(path)) == expected


# --- Separators, roots, spellings ------------------------------------------------------------


@pytest.mark.parametrize("separator", [";", "\t", "|", ","])
@pytest.mark.parametrize("name", ["t.csv", "captions.txt"])
def test_the_separator_is_found(tmp_path, name, separator):
    source = open_source(written(tmp_path, name, as_csv(ROWS, delimiter=separator)))
    assert [x["text"] for x in source] == [row["title"] for row in ROWS]


def test_the_columns_asked_for_decide_the_separator(tmp_path):
    header = "picture;words, all of them, and more"
    path = written(tmp_path, "t.csv", f"{header}\n0.jpg;a, b, c, d\n")
    source = open_source(path, image_key="picture", text_key="words, all of them, and more")
    assert source[0]["text"] == "a, b, c, d"


def test_a_text_file_that_is_no_table_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"one column, 'dear diary': expected a first line that"):
        open_source(written(tmp_path, "notes.txt", "dear diary\nall is well\n"))
    with pytest.raises(ValueError, match="none may be the image"):
        open_source(written(tmp_path, "notes.txt", "Dear diary, all is well\nand so on, too\n"))


def test_a_root_says_where_paths_start(tmp_path):
    (tmp_path / "lists").mkdir()
    path = written(tmp_path, "lists/t.csv", as_csv(ROWS))
    for source in (
        open_source(path, image_root=tmp_path),
        CSVBuilder(path, image_root=tmp_path).as_data_source(),
        pickle.loads(pickle.dumps(open_source(path, image_root=tmp_path))),
    ):
        assert source[3]["image"] == image(ROWS[3])


@pytest.mark.parametrize("place", ["working directory", "folder beside", "folder above"])
def test_images_that_are_elsewhere_name_the_root(tmp_path, monkeypatch, caplog, place):
    lists, root = tmp_path / "a" / "lists", tmp_path
    lists.mkdir(parents=True)
    if place == "working directory":
        root = tmp_path / "elsewhere"
    elif place == "folder beside":
        root = lists / "Images"
    root.mkdir(exist_ok=True)
    monkeypatch.chdir(root if place == "working directory" else "/")
    for i in range(3):
        written(root, f"only {i}.jpg", "image")
    path = written(
        lists, "t.csv", "filepath,title\n" + "".join(f"only {i}.jpg,\n" for i in range(3))
    )
    source = open_source(path)
    assert f"From {str(root)!r} they would be there" in caplog.text
    assert "`image_root=`" in caplog.text
    with pytest.raises(FileNotFoundError, match=r"lists/only 2\.jpg.*`image_root=`"):
        source[2]
    caplog.clear()
    assert open_source(path, image_root=root)[2]["image"] == b"image" and not caplog.text


def test_images_are_looked_for_beyond_the_first_rows(tmp_path, caplog):
    rows = "".join(f"gone {i}.jpg,\n" for i in range(990)) + "0.jpg,\n" * 990
    open_source(written(tmp_path, "t.csv", "filepath,title\n" + rows))
    assert not caplog.text


def test_a_root_that_is_not_there_is_told(tmp_path):
    path = written(tmp_path, "t.csv", as_csv(ROWS))
    with pytest.raises(FileNotFoundError, match=r"no folder '.*nowhere', the `image_root`"):
        open_source(path, image_root=tmp_path / "nowhere")


def test_spaces_behind_separators_are_none_of_the_values(tmp_path):
    rows = 'image| number| caption\n0.jpg| 0| a dog .\n1.jpg| 1| "a | b"\n'  # as Flickr30k's
    source = open_source(written(tmp_path, "results.csv", rows))
    assert [x["text"] for x in source] == ["a dog .", "a | b"]
    assert source[0]["image"] == image(ROWS[0])


def test_backslashes_are_read_as_slashes_where_only_that_is_there(tmp_path, caplog):
    (tmp_path / "sub").mkdir()
    written(tmp_path, "sub/0.jpg", "image")
    source = open_source(written(tmp_path, "t.csv", "filepath,title\nsub\\0.jpg,a\n"))
    assert source[0]["image"] == b"image" and "backslashes" in caplog.text
    written(tmp_path, "b\\0.jpg", "other")
    source = open_source(written(tmp_path, "u.csv", "filepath,title\nb\\0.jpg,a\n"))
    assert source[0]["image"] == b"other"


def test_images_on_the_web_are_refused_at_opening(tmp_path):
    rows = "filepath,title\nhttps://example.com/0.jpg,a\n"
    with pytest.raises(ValueError, match=r"on the web, 'https://example.*img2dataset"):
        open_source(written(tmp_path, "t.csv", rows))


def test_a_row_without_an_image_is_told(tmp_path):
    source = open_source(written(tmp_path, "t.csv", "filepath,title\n,a\n0.jpg,b\n"))
    with pytest.raises(ValueError, match=r"row has no 'filepath'"):
        source[0]
    assert source.where(0) == f"{tmp_path}/t.csv, row 1: no image"


def test_a_field_over_the_limit_of_csv_names_it(tmp_path):
    path = written(tmp_path, "t.csv", f"filepath,title\n0.jpg,{'x' * 140_000}\n")
    with pytest.raises(ValueError, match=r"line 2: field larger .*`csv\.field_size_limit"):
        open_source(path)


def jsonl(folder, *rows):
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "0.jpg").write_bytes(b"image")
    return folder / "t.jsonl"


def test_a_key_that_is_given_may_come_late(tmp_path):
    rows = [{"image": "0.jpg"} for _ in range(150)]
    path = jsonl(tmp_path, *rows, {"image": "0.jpg", "caption": "late", "meta": {"alt": "deep"}})
    assert open_source(path, text_key="caption")[150]["text"] == "late"
    source = open_source(path, image_key="image", text_key="meta:alt")
    assert source[150]["text"] == "deep" and pickle.loads(pickle.dumps(source)).text(150) == "deep"
    with pytest.raises(ValueError, match="no text_key 'other': it holds 'image'"):
        open_source(path, text_key="other")
    (tmp_path / "first.jsonl").write_text('{"image": "0.jpg"}\n')
    source = open_source([tmp_path / "first.jsonl", path], text_key="caption")
    assert (source.text(0), source.text(151)) == (None, "late")


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "images"])
def test_a_field_that_no_row_has_is_told(tmp_path, kind):
    rows = [{"image": "0.jpg", "meta": {"alt": "a"}}]
    path = jsonl(tmp_path, *rows)
    if kind != "jsonl":
        images = [b"0"] if kind == "images" else ["0.jpg"]
        path = tmp_path / "t.parquet"
        pyarrow.parquet.write_table(pa.table({"image": images, "meta": [{"alt": "a"}]}), path)
    assert open_source(path, text_key="meta:alt")[0]["text"] == "a"
    for key in ("meta:nope", "meta:alt:deep"):
        with pytest.raises(ValueError, match=rf"{path}.*There is no field '(nope|deep)'"):
            open_source(path, text_key=key)


def test_images_in_base64_are_refused_in_few_words(tmp_path):
    words = r"are in base64, '.{60}'\.\.\., which is not read: .* bytes in Parquet"
    data = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20).decode()
    for text in (
        data,
        f"data:image/png;base64,{data}",
        base64.b64encode(b"\xff\xd8\xff" * 50).decode(),
    ):
        with pytest.raises(ValueError, match=words) as told:
            open_source(jsonl(tmp_path, *[{"image": text, "caption": "a"}] * 3))
        assert len(str(told.value)) < 500
    source = open_source(
        jsonl(tmp_path, {"image": "0.jpg", "caption": "a"}, {"image": data, "caption": "b"})
    )
    assert source[0]["image"] == b"image" and len(source.where(1)) < 500
    with pytest.raises(ValueError, match=words):
        source[1]


def test_a_path_that_is_too_long_is_told_in_few_words(tmp_path, caplog):
    source = open_source(jsonl(tmp_path, {"image": "no path " * 1000, "caption": "a"}))
    assert len(caplog.text) < 1200
    with pytest.raises(FileNotFoundError, match=r"no image .*\(8,\d+ characters\)") as told:
        source[0]
    assert len(str(told.value)) < 800
