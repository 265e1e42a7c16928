"""Data sets that TFDS prepared: ArrayRecord by its own reader, TFRecord by ours."""

import io
import itertools
import json
import logging
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from test_builders import run

from eqx_clip.data import open_source
from eqx_clip.data._tfds import key_of
from eqx_clip.data._write import write_tfrecords


class Pictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "picture": tfds.features.Image(),
            "caption": tfds.features.Text(),
            "number": tfds.features.Scalar(np.int64),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(0, 30), "test": self._generate_examples(30, 40)}

    def _generate_examples(self, start, stop):
        for i in range(start, stop):
            yield i, {"picture": io.BytesIO(png(i)), "caption": f"caption {i}", "number": i}


def png(i):
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), (i, 2 * i, 3 * i)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def array_record(tmp_path_factory):
    builder = Pictures(data_dir=tmp_path_factory.mktemp("tfds"), file_format="array_record")
    builder.download_and_prepare()
    return Path(builder.data_dir)


@pytest.fixture
def tfrecord(array_record, tmp_path):
    """The same in TFRecord files, which TFDS writes with TensorFlow only."""
    folder = tmp_path / "pictures" / "1.0.0"
    for split in ("train", "test"):
        examples = list(open_source(array_record, split=split))
        half = len(examples) // 2
        write_tfrecords(examples, folder / split, shard_size=half, progress=False)
        for shard in range(2):
            name = f"pictures-{split}.tfrecord-{shard:05}-of-00002"
            (folder / split / f"{shard:05}.tfrecord").rename(folder / name)
        (folder / split).rmdir()
    info = json.loads((array_record / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    for split in info["splits"]:
        split["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        half = int(sum(map(int, split["shardLengths"]))) // 2
        split["shardLengths"] = [str(half), str(half)]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    features = (array_record / "features.json").read_text()
    (folder / "features.json").write_text(
        features.replace('"picture"', '"png"').replace('"caption"', '"txt"')
    )
    return folder


def numbers(source):
    return [int(example["text"].split()[1]) for example in source]


@pytest.mark.parametrize("kind", ["array_record", "tfrecord"])
def test_prepared_data_are_read_as_stored(kind, request):
    folder = request.getfixturevalue(kind)
    source = open_source(folder)
    assert sorted(numbers(source)) == list(range(30))
    for example in source:
        decoded = np.asarray(Image.open(io.BytesIO(example["image"])))
        assert decoded[0, 0, 0] == int(example["text"].split()[1])
    assert "record" in source.where(3)


@pytest.mark.parametrize("kind", ["array_record", "tfrecord"])
def test_splits_and_slices_are_those_of_tfds(kind, request):
    folder = request.getfixturevalue(kind)
    everything = numbers(open_source(folder))
    assert numbers(open_source(folder, split="train[:50%]")) == everything[:15]
    assert sorted(numbers(open_source(folder, split="test"))) == list(range(30, 40))
    both = open_source(folder, split="test+train[25:]")
    assert numbers(both) == numbers(open_source(folder, split="test")) + everything[25:]
    with pytest.raises(ValueError, match="valid"):
        open_source(folder, split="valid")


@pytest.mark.parametrize("kind", ["array_record", "tfrecord"])
def test_prepared_data_pickle_as_a_path(kind, request):
    source = open_source(request.getfixturevalue(kind))
    pickled = pickle.dumps(source)
    assert len(pickled) < 1000
    assert list(pickle.loads(pickled)) == list(source)


def test_neither_tensorflow_nor_torch_is_imported_for_prepared_data(array_record, tfrecord):
    code = (
        "import sys; from eqx_clip.data import open_source; "
        "print([len(list(open_source(path))) for path in sys.argv[1:]], "
        "[m for m in ('tensorflow', 'torch') if m in sys.modules])"
    )
    assert run(code, array_record, tfrecord) == "[30, 30] []"


def test_keys_that_are_not_there_are_told_with_what_is(array_record):
    with pytest.raises(ValueError, match=r"image_key 'jpg'.*picture \(Image\)"):
        open_source(array_record, image_key="jpg")
    with pytest.raises(ValueError, match=r"text_key 'number'.*number \(Scalar\)"):
        open_source(array_record, text_key="number")


def test_a_shard_that_is_missing_is_told(tfrecord):
    next(tfrecord.glob("pictures-train*-00001-*")).unlink()
    with pytest.raises(ValueError, match=r"should hold 30 examples.*hold 15"):
        open_source(tfrecord)


@pytest.fixture
def shard(array_record, tmp_path):
    """The file of the thirty examples, in a copy of the data set."""
    shutil.copytree(array_record, tmp_path / "copy")
    (shard,) = (tmp_path / "copy").glob("pictures-train*")
    return shard


@pytest.mark.parametrize("kept", [None, 0, 1000, 1 << 16])
def test_an_array_record_that_is_cut_short_or_missing_is_told_when_it_is_opened(shard, kept):
    data = shard.read_bytes()
    shard.unlink()
    if kept is not None:
        shard.write_bytes(data[:kept])
    with pytest.raises(ValueError, match=r"pictures-train.* should hold 30 examples; 0 can be"):
        open_source(shard.parent)
    assert len(open_source(shard.parent, split="test")) == 10


def test_a_damaged_array_record_is_told_when_it_is_read(shard):
    data = shard.read_bytes()
    shard.write_bytes(data[:100] + bytes(byte ^ 4 for byte in data[100:2000]) + data[2000:])
    source = open_source(shard.parent)
    with pytest.raises(ValueError, match="The record is damaged"):
        source[0]


def test_files_that_are_not_read_at_random_are_refused(array_record, tmp_path):
    folder = tmp_path / "1.0.0"
    shutil.copytree(array_record, folder)
    info = (folder / "dataset_info.json").read_text()
    (folder / "dataset_info.json").write_text(info.replace('"array_record"', '"riegeli"'))
    with pytest.raises(ValueError, match=r"holds riegeli files.*file_format='array_record'"):
        open_source(folder)


@pytest.mark.parametrize("kind", ["array_record", "tfrecord"])
def test_a_folder_may_have_signs_of_a_pattern_in_its_name(kind, request, tmp_path):
    folder = tmp_path / "run[1]" / "1.0.0"
    shutil.copytree(request.getfixturevalue(kind), folder)
    assert len(open_source(folder)) == 30


class Captioned(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """As COCO's: texts in a sequence of dictionaries, names of files as the only other texts."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        text = tfds.features.Text()
        features = {
            "image": tfds.features.Image(),
            "image/filename": text,
            "captions": tfds.features.Sequence({"id": np.int64, "text": text}),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(3):
            captions = [{"id": k, "text": f"caption {i} {k}"} for k in range(i)]
            yield i, {"image": png_file(i), "image/filename": f"{i}.png", "captions": captions}


def png_file(i):
    return io.BytesIO(png(i))


def features_of(**features):
    """A builder as `key_of` asks it."""
    info = SimpleNamespace(features=tfds.features.FeaturesDict(features))
    return SimpleNamespace(info=info, data_dir="folder")


def test_texts_in_a_sequence_are_captions_and_the_log_says_so(tmp_path, caplog):
    builder = Captioned(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    with caplog.at_level(logging.INFO, "eqx_clip.data"):
        source = open_source(builder.data_dir)
    found = {int(Image.open(io.BytesIO(x["image"])).getpixel((0, 0))[0]): x["text"] for x in source}
    assert found == {0: None, 1: "caption 1 0", 2: ["caption 2 0", "caption 2 1"]}
    assert "images are 'image', texts are 'captions/text'" in caplog.text
    names = open_source(builder.data_dir, text_key="image/filename")
    assert sorted(example["text"] for example in names) == ["0.png", "1.png", "2.png"]


TEXT, IMAGE = tfds.features.Text(), tfds.features.Image()


@pytest.mark.parametrize(
    ("features", "key"),
    [
        ({"caption": TEXT}, "caption"),
        ({"sentence": TEXT, "image_id": TEXT}, "sentence"),
        ({"captions": tfds.features.Sequence(TEXT), "url": TEXT}, "captions"),
        ({"meta": {"alt": TEXT, "file_name": TEXT}}, "meta/alt"),
        ({"caption": TEXT, "translation": TEXT}, "caption"),
        ({"objects": tfds.features.Sequence({"text": TEXT, "id": TEXT})}, "objects/text"),
        ({"Caption": TEXT, "raw": TEXT}, "Caption"),
        ({"TITLE": TEXT}, "TITLE"),
        ({"alt_text": TEXT, "caption": TEXT}, "caption"),
        ({"prompt": TEXT, "uuid": TEXT}, "prompt"),
        ({"description": TEXT, "author": TEXT}, "description"),
        ({"Sentences": tfds.features.Sequence({"Text": TEXT})}, "Sentences/Text"),
    ],
    ids=itertools.count(),
)
def test_the_feature_that_holds_captions_is_found(features, key):
    assert key_of(features_of(image=IMAGE, **features), "text") == key


@pytest.mark.parametrize(
    "features",
    [
        {"id": TEXT},
        {"image/filename": TEXT},
        {"image_id": TEXT, "url": TEXT},
        {"english": TEXT, "german": TEXT},
        {"a": {"caption": TEXT}, "b": {"caption": TEXT}},
        {"raw": TEXT, "file_name": TEXT},
        {"objects": tfds.features.Sequence({"label": TEXT, "bbox": tfds.features.BBoxFeature()})},
        {"labels": tfds.features.Sequence(TEXT)},
        *[
            {name: TEXT}
            for name in (
                *("uuid", "fname", "img_fn", "imageId", "Filename", "md5"),
                *("identifier", "index", "language", "author", "split", "category", "key"),
            )
        ],
    ],
    ids=itertools.count(),
)
def test_names_and_choices_are_not_guessed(features):
    with pytest.raises(
        ValueError, match=r"holds .*\((Text|Sequence)\).*Pass `text_key=`, one of '"
    ):
        key_of(features_of(image=IMAGE, **features), "text")
    (name, *_) = features
    if isinstance(features[name], tfds.features.Text):
        assert key_of(features_of(image=IMAGE, **features), "text", name) == name


def test_what_has_no_text_is_told():
    with pytest.raises(ValueError, match=r"called as captions are.*Pass `text_key=`\."):
        key_of(features_of(image=IMAGE), "text")


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    builder = Pictures(data_dir=tmp_path_factory.mktemp("tfds"), file_format="parquet")
    builder.download_and_prepare()
    return Path(builder.data_dir)


def test_what_tfds_prepared_as_parquet_is_read_in_its_order(parquet):
    theirs = tfds.builder_from_directory(parquet).as_data_source("train")
    source = open_source(parquet)
    assert [example["text"] for example in source] == [
        example["caption"].decode() for example in theirs
    ]
    numbers = [int(text.split()[1]) for text in texts_of(source)]
    assert [example["image"] for example in source] == [png(i) for i in numbers]
    assert sorted(texts_of(open_source(parquet, split="test[50%:]"))) != []
    assert list(pickle.loads(pickle.dumps(source))) == list(source)


def texts_of(source):
    return [source[i]["text"] for i in range(len(source))]


@pytest.mark.parametrize("split", ["train[:0]", "test[:1%]"])
def test_an_empty_slice_is_refused_at_opening(array_record, split):
    with pytest.raises(ValueError, match="is empty"):
        open_source(array_record, split=split)
