"""Labelled images: folders of classes, and what TFDS prepared."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from eqx_clip.data import open_classes


@pytest.fixture
def folder(tmp_path):
    for name in (
        "golden_retriever/1.JPEG",
        "golden_retriever/sub/0.png",
        "cat/a.webp",
        "cat/b.txt",
    ):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix != ".txt":
            Image.new("RGB", (4, 4)).save(path)
    (tmp_path / "set" / "readme.md").write_text("")
    (tmp_path / "set" / ".cache").mkdir()
    return tmp_path / "set"


def test_sub_folders_are_classes(folder):
    images, labels, names = open_classes(str(folder))
    assert [str(path.relative_to(folder)) for path in images] == [
        "cat/a.webp",
        "golden_retriever/1.JPEG",
        "golden_retriever/sub/0.png",
    ]
    np.testing.assert_array_equal(labels, [0, 1, 1])
    assert labels.dtype == np.int64 and names == ("cat", "golden retriever")


def test_names_may_be_given_in_the_order_of_the_folders(folder):
    assert open_classes(folder, class_names=(x for x in ["Cat", "Dog"])).class_names == (
        "Cat",
        "Dog",
    )
    with pytest.raises(ValueError, match="2 classes, cat, golden_retriever; got 1 names, Cat"):
        open_classes(folder, class_names=["Cat"])


def test_folders_that_are_no_classes_are_told(folder, tmp_path):
    with pytest.raises(ValueError, match=r"There is no folder .*nowhere"):
        open_classes(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"two classes or more.*has sub"):
        open_classes(folder / "golden_retriever")
    with pytest.raises(ValueError, match="has no sub-folder"):
        open_classes(folder / "cat")
    with pytest.raises(ValueError, match=r"no `split`, and the folder.*set/val"):
        open_classes(folder, split="val")
    (folder / "cat" / "a.webp").unlink()
    with pytest.raises(ValueError, match=r"class 'cat' has no image in .*cat: add some"):
        open_classes(folder)


class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(names=["number_zero", "one", "two"]),
            "parity": tfds.features.ClassLabel(names=["even", "odd"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(12), "test": self._generate_examples(6)}

    def _generate_examples(self, count):
        for i in range(count):
            stream = io.BytesIO()
            Image.new("RGB", (8, 6), (80 * (i % 3), i, 0)).save(stream, "PNG")
            stream.seek(0)
            yield i, {"image": stream, "label": i % 3, "parity": i % 2}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    builder = Digits(data_dir=tmp_path_factory.mktemp("tfds"), file_format="array_record")
    builder.download_and_prepare()
    return Path(builder.data_dir)


@pytest.mark.parametrize("split", ["test", "train[:50%]"])
def test_what_tfds_prepared_gives_encoded_images_and_its_names(prepared, split):
    images, labels, names = open_classes(prepared, split=split, label_key="label")
    assert len(images) == len(labels) == 6 and names == ("number zero", "one", "two")
    for image, label in zip(images, labels, strict=True):
        assert np.asarray(Image.open(io.BytesIO(image)))[0, 0, 0] == 80 * label
    parity = open_classes(prepared, split=split, label_key="parity", class_names=["E", "O"])
    assert parity.class_names == ("E", "O") and set(parity.labels) == {0, 1}


def test_mistakes_about_what_tfds_prepared_are_told(prepared):
    with pytest.raises(ValueError, match=r"parity \(ClassLabel\).*Pass `label_key=`"):
        open_classes(prepared, split="test")
    with pytest.raises(ValueError, match="has the splits test, train: pass `split=`"):
        open_classes(prepared, label_key="label")
    with pytest.raises(ValueError, match="no split 'valid'"):
        open_classes(prepared, split="valid", label_key="label")


def test_tfrecord_files_of_tfds_are_refused_with_the_remedy(prepared, tmp_path):
    folder = tmp_path / "digits" / "1.0.0"
    folder.mkdir(parents=True)
    for path in prepared.iterdir():
        (folder / path.name).write_bytes(
            path.read_bytes().replace(b'"array_record"', b'"tfrecord"')
        )
    with pytest.raises(ValueError, match="file_format='array_record'"):
        open_classes(folder, split="test", label_key="label")


def classes(tmp_path, *names):
    for name in names:
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name / "0.png")
    return tmp_path


def test_identifiers_of_imagenet_have_their_names(tmp_path, caplog):
    folder = classes(tmp_path, "n03445777", "n01440764", "n02102040")
    assert open_classes(folder).class_names == ("tench", "English Springer Spaniel", "golf ball")
    assert caplog.text == ""


@pytest.mark.parametrize(
    "names", [("0", "1"), ("007", "012", "cat"), ("n00000001", "n01440764")], ids=str
)
def test_names_by_which_no_model_knows_a_class_are_told(tmp_path, caplog, names):
    open_classes(classes(tmp_path, *names))
    (record,) = caplog.records
    assert names[0] in record.message and "--zero-shot-names" in record.message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("names.txt", "tench\ngolf ball\n"),
        ("mapping.txt", "n1 golf ball\nn0 tench\nn9 another\n"),
        ("mapping.tsv", "n0\ttench\nn1\tgolf ball\n"),
        ("mapping.csv", "n0,tench\nn1,golf ball\n"),
        ("names.json", '["tench", "golf ball"]'),
        ("mapping.json", '{"n1": "golf ball", "n0": "tench"}'),
    ],
)
def test_names_are_read_from_a_file(tmp_path, caplog, name, content):
    folder = classes(tmp_path / "set", "n0", "n1")
    (tmp_path / name).write_text(content)
    assert open_classes(folder, class_names=tmp_path / name).class_names == ("tench", "golf ball")
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("names.txt", "tench\n", "2 classes, n0, n1; got 1 names"),
        ("mapping.txt", "n0 tench\nn2 other\n", "names lack n1"),
        ("names.json", "[1, 2]", "must be strings"),
        ("names.json", "7", "a list of names, or an object"),
        ("names.json", "[", "cannot be read as names"),
        ("mapping.txt", "n0 tench\nn0 other\n", "names the classes n0 more than once"),
        ("names.txt", "tench\ntench\n", "n0, n1 are all given the name 'tench'"),
        ("mapping.json", '{"n0": "tench", "n1": "tench"}', "n0, n1 are all given the name 'tench'"),
    ],
)
def test_files_of_other_names_are_told(tmp_path, name, content, message):
    folder = classes(tmp_path / "set", "n0", "n1")
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        open_classes(folder, class_names=tmp_path / name)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_classes(folder, class_names=tmp_path / "nowhere.txt")


@pytest.mark.parametrize("names", [[1, 2], {"n0": 1, "n1": 2}, ["tench", ""], ["tench", None]])
def test_names_that_are_no_strings_are_refused(tmp_path, names):
    with pytest.raises(ValueError, match="must be strings, none of them empty; got"):
        open_classes(classes(tmp_path, "n0", "n1"), class_names=names)


@pytest.mark.parametrize("names", [["x", "x"], {"n0": "x", "n1": "x"}])
def test_one_name_of_two_classes_is_refused(tmp_path, names):
    with pytest.raises(ValueError, match="n0, n1 are all given the name 'x'"):
        open_classes(classes(tmp_path, "n0", "n1"), class_names=names)


def test_names_that_imagenet_has_twice_are_taken(tmp_path):
    folder = classes(tmp_path, "n0", "n1")
    assert open_classes(folder, class_names=["missile"] * 2).class_names == ("missile", "missile")


@pytest.mark.parametrize("form", ["{}", "class_{}", "{}.name"])
def test_a_list_for_folders_that_count_otherwise_than_they_sort_is_refused(tmp_path, form):
    folders = [form.format(k) for k in range(11)]
    folder = classes(tmp_path / "set", *folders)
    names = [f"name {k}" for k in range(11)]
    (tmp_path / "names.txt").write_text("\n".join(names))
    for given in (names, tmp_path / "names.txt"):
        with pytest.raises(ValueError, match=r"order.*'.*10.*' comes in place 2, as numbers '.*2"):
            open_classes(folder, class_names=given)
    (tmp_path / "names.tsv").write_text("\n".join(map("\t".join, zip(folders, names, strict=True))))
    for given in (dict(zip(folders, names, strict=True)), tmp_path / "names.tsv"):
        found = open_classes(folder, class_names=given)
        for image, label in zip(found.images, found.labels, strict=True):
            number = re.findall(r"\d+", image.parent.name)[0]
            assert found.class_names[label] == f"name {number}"


def test_a_list_is_taken_where_both_orders_are_one(tmp_path):
    folder = classes(tmp_path, *(f"{k:02}" for k in range(11)))
    names = tuple(f"name {k}" for k in range(11))
    assert open_classes(folder, class_names=names).class_names == names


@pytest.mark.parametrize("lines", ["green pear\nred apple\n", "granny smith\nred apple\n"])
def test_lines_that_may_be_names_or_classes_and_names_are_refused(tmp_path, lines):
    folder = classes(tmp_path / "set", "red", "green")
    (tmp_path / "names.txt").write_text(lines)
    with pytest.raises(ValueError, match="may be names in order, or lines of a class and its"):
        open_classes(folder, class_names=tmp_path / "names.txt")
    (tmp_path / "names.txt").write_text("red\tapple\ngreen\tgreen pear\n")
    found = open_classes(folder, class_names=tmp_path / "names.txt")
    assert found.class_names == ("green pear", "apple")


def test_names_of_two_words_are_names(tmp_path):
    folder = classes(tmp_path / "set", "red", "green")
    (tmp_path / "names.txt").write_text("granny smith\ngala apple\n")
    found = open_classes(folder, class_names=tmp_path / "names.txt")
    assert found.class_names == ("granny smith", "gala apple")
