"""TFDS builders over data in place: what TFDS's users expect of one, and nothing written."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from shards import record, samples, tar, tfrecord
from test_batches import encoded

from eqx_clip.data import CSVBuilder, TFRecordBuilder, WebDatasetBuilder


@pytest.fixture
def table(tmp_path):
    return make(tmp_path / "data", "here")


def make(folder, word):
    folder.mkdir()
    for i in range(20):
        (folder / f"{i}.jpg").write_bytes(f"{word} {i}".encode())
    rows = "".join(f"{word} caption {i},{i}.jpg\n" for i in range(20))
    (folder / "train.csv").write_text("caption,image_path\n" + rows)
    return folder / "train.csv"


@pytest.fixture
def paths(table):
    """Each kind of builder, and where it finds the same examples but for their words."""
    folder = table.parent
    rows = ({"jpg": b"image %d" % i, "txt": b"text %d" % i} for i in range(20))
    (folder / "0.tfrecord").write_bytes(tfrecord(*(record(**row) for row in rows)))
    (folder / "0.tar").write_bytes(tar(*samples(0, 12)))
    (folder / "1.tar").write_bytes(tar(*samples(12, 20)))
    return {CSVBuilder: table, TFRecordBuilder: folder, WebDatasetBuilder: folder}


@pytest.fixture(params=[CSVBuilder, TFRecordBuilder, WebDatasetBuilder])
def builder(request, paths):
    return request.param(paths[request.param])


def numbers(source):
    return [int(example["text"].split()[-1]) for example in source]


def test_a_builder_is_tfds_own_kind_and_knows_its_data(builder, tmp_path):
    assert isinstance(builder, tfds.core.DatasetBuilder)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "train": 20
    }
    assert builder.data_dir == builder.info.data_dir == os.fspath(tmp_path / "data")
    features = builder.info.features
    assert set(features) == {"image", "text"} and isinstance(features["text"], tfds.features.Text)
    for example in builder.as_data_source():
        assert {name: type(value) for name, value in example.items()} == {
            "image": bytes,
            "text": str,
        }
        for name, value in example.items():  # an object, in TFDS's words: text of any length
            assert features[name].np_dtype == np.object_ and np.shape(value) == ()
        assert example["image"].split()[-1].decode() == example["text"].split()[-1]


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", range(20)),
        ("train[:90%]", range(18)),
        ("train[-5:]", range(15, 20)),
        ("train[3:4]", [3]),
        ("train[:50%]+train[80%:]", [*range(10), *range(16, 20)]),
    ],
)
def test_slices_are_those_of_tfds(builder, split, expected):
    assert numbers(builder.as_data_source(split)) == list(expected)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("valid", r"Unknown split 'valid'. Should be one of \['train'\]"),
        ("train[:90%]+valid", r"Unknown split 'valid'. Should be one of \['train'\]"),
        ("train[:30]", r"slice \[:30\] incompatible with 20 examples"),
        ("train[10:21]", r"slice \[10:21\] incompatible with 20 examples"),
        ("train[3:3]", r"'train\[3:3\]' of 20 examples is empty"),
        ("train[", r"train\[.*See format at"),
    ],
)
def test_a_split_that_is_not_there_is_told(table, split, message):
    with pytest.raises(ValueError, match=message):
        CSVBuilder(table).as_data_source(split)


def test_a_source_is_a_sequence(table):
    source = CSVBuilder(table).as_data_source("train[10:]")
    assert len(source) == 10 and numbers(source) == list(range(10, 20))
    assert numbers([source[-1], source[-10], source[np.int64(2)]]) == [19, 10, 12]
    assert numbers(source.__getitems__([3, -1, 3])) == [13, 19, 13]
    for i in (10, -11):
        with pytest.raises(IndexError, match=f"Example {i} of 10"):
            source[i]
    with pytest.raises(TypeError, match="slice"):
        source[:2]


def run(code, *arguments, **environment):
    """What a new Python prints."""
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, **{name: str(value) for name, value in environment.items()}},
        capture_output=True,
        text=True,
    )
    assert not result.returncode, result.stderr
    return result.stdout.strip()


def state(folder):
    """Names and times of what a folder holds, the folder among it."""
    return {path: path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


def test_nothing_is_written_but_the_index(paths, tmp_path):
    data, home = tmp_path / "data", tmp_path / "home"
    home.mkdir()
    code = (
        "import sys; from eqx_clip import data\n"
        "for name, path in zip(sys.argv[1::2], sys.argv[2::2]):\n"
        "    builder = getattr(data, name)(path)\n"
        "    builder.download_and_prepare()\n"
        "    print(len(list(builder.as_data_source('train[:5]'))))"
    )
    arguments = [argument for kind, path in paths.items() for argument in (kind.__name__, path)]
    data.chmod(0o500)
    before = state(data)
    try:
        # Where TFDS keeps what it prepares, and where it leaves folders while it looks around.
        places = {"HOME": home, "TMPDIR": home, "TFDS_DATA_DIR": home}
        assert run(code, *arguments, **places).split() == ["5", "5", "5"]
        assert state(data) == before
    finally:
        data.chmod(0o700)
    assert list(home.iterdir()) == []


def test_two_tables_of_one_name_keep_their_examples(table, tmp_path):
    other = make(tmp_path / "other", "there")
    sources = [CSVBuilder(path).as_data_source() for path in (table, other, table)]
    assert [source[0]["text"].split()[0] for source in sources] == ["here", "there", "here"]


def test_builders_and_sources_pickle_small_and_load_elsewhere(paths, tmp_path):
    builders = [kind(path) for kind, path in paths.items()]
    sources = [builder.as_data_source("train[5:]") for builder in builders]
    assert all(len(pickle.dumps(thing)) < 800 for thing in (*builders, *sources))
    (tmp_path / "pickled").write_bytes(pickle.dumps((builders, sources)))
    code = (
        "import pickle, sys; builders, sources = pickle.load(open(sys.argv[1], 'rb')); "
        "sources += [builder.as_data_source() for builder in builders]; "
        "print([list(source) for source in sources])"
    )
    sources += [builder.as_data_source() for builder in builders]
    assert run(code, tmp_path / "pickled") == repr([list(source) for source in sources])


def test_a_builder_of_a_relative_path_loads_from_another_folder(table, monkeypatch):
    monkeypatch.chdir(table.parent)
    pickled = pickle.dumps(CSVBuilder(table.name))
    monkeypatch.chdir("/")
    assert numbers(pickle.loads(pickled).as_data_source()) == list(range(20))


def test_neither_tensorflow_nor_torch_is_imported(table, tmp_path):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "0.tar").write_bytes(tar(*samples(0, 3)))
    (tmp_path / "image.png").write_bytes(encoded(0))
    code = (
        "import sys; from eqx_clip.data import *; "
        "examples = list(open_source(sys.argv[1])); list(open_source(sys.argv[2])); "
        "write_tfrecords([{'image': open(sys.argv[4], 'rb').read(), 'text': ''}], sys.argv[3]); "
        "list(open_source(sys.argv[3])); "
        "CSVBuilder(sys.argv[1]).download_and_prepare(); "
        "print([m for m in ('tensorflow', 'torch') if m in sys.modules])"
    )
    paths = (tmp_path / name for name in ("data/train.csv", "shards", "out", "image.png"))
    assert run(code, *paths) == "[]"


def test_options_of_other_builders_are_refused(table):
    with pytest.raises(ValueError, match="as stored; got decoders"):
        CSVBuilder(table).as_data_source(decoders={})
    with pytest.raises(NotImplementedError, match="as_data_source"):
        CSVBuilder(table).as_dataset(split="train")
