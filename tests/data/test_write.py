"""`write_tfrecords`: img2dataset's layout, read back byte for byte."""

import io
import os
import struct
import uuid

import fsspec
import pytest
from PIL import Image

from eqx_clip.data import TFRecordBuilder, open_source, write_tfrecords
from eqx_clip.data._tfrecord import parse_example
from eqx_clip.data._write import framed


def examples(count, kind="JPEG"):
    result = []
    for i in range(count):
        stream = io.BytesIO()
        Image.new("RGB", (8, 6), (i, 0, 0)).save(stream, kind)
        result.append({"image": stream.getvalue(), "text": f"caption {i}, ünïcode"})
    return result


@pytest.mark.parametrize(("kind", "name"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")])
def test_what_is_written_is_read_back_byte_for_byte(kind, name, tmp_path):
    written = [*examples(7, kind), {"image": examples(1, "PNG")[0]["image"], "text": ""}]
    write_tfrecords(written, tmp_path / "out", shard_size=3)
    assert sorted(os.listdir(tmp_path / "out")) == [f"0000{i}.tfrecord" for i in range(3)]
    source = TFRecordBuilder(tmp_path / "out").as_data_source()
    assert source.image_key == name and source.text_key == "txt"
    assert list(source) == written


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_a_record_is_framed_as_tfrecord_says():
    assert crc32c(b"123456789") == 0xE3069283  # the published check value

    def masked(data):
        crc = crc32c(data)
        return struct.pack("<I", ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF)

    length = (9).to_bytes(8, "little")
    expected = length + masked(length) + b"123456789" + masked(b"123456789")
    assert framed(b"123456789") == expected


def test_features_are_those_of_img2dataset(tmp_path):
    (written,) = examples(1)
    write_tfrecords([written], tmp_path)
    record = (tmp_path / "00000.tfrecord").read_bytes()[12:-4]
    expected = {"key": b"000000000", "jpg": written["image"], "txt": written["text"].encode()}
    expected["caption"] = expected["txt"]  # both, as img2dataset has them
    assert parse_example(record) == {name: [value] for name, value in expected.items()}


@pytest.mark.parametrize("progress", [True, False])
def test_a_bar_shows_progress(tmp_path, capsys, progress):
    write_tfrecords(examples(3), tmp_path, progress=progress)
    assert ("Writing: 100%" in capsys.readouterr().err) == progress


def test_a_folder_far_away_is_written_to():
    folder = f"memory://{uuid.uuid4()}"
    write_tfrecords(examples(5), folder, shard_size=2)
    assert len(fsspec.filesystem("memory").ls(folder)) == 3
    assert list(open_source(folder)) == examples(5)


def test_a_folder_with_records_is_refused(tmp_path):
    write_tfrecords(examples(2), tmp_path)
    before = (tmp_path / "00000.tfrecord").read_bytes()
    with pytest.raises(ValueError, match=r"holds TFRecord files already, 00000\.tfrecord"):
        write_tfrecords(examples(3), tmp_path)
    assert (tmp_path / "00000.tfrecord").read_bytes() == before


def test_a_shard_that_is_not_whole_has_not_its_name(tmp_path):
    broken = [*examples(3), {"image": Image.new("RGB", (2, 2)), "text": "not encoded"}]
    with pytest.raises(ValueError, match=r"example 3 of .* only encoded bytes can be written"):
        write_tfrecords(broken, tmp_path, shard_size=2)
    assert len(list(open_source(tmp_path))) == 2


def test_a_format_that_the_layout_does_not_have_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"Expected JPEG, PNG or WebP; example 0 of .* is BMP"):
        write_tfrecords(examples(1, "BMP"), tmp_path)
    with pytest.raises(ValueError, match=r"example 0 of .* is no image"):
        write_tfrecords([{"image": b"<html>", "text": ""}], tmp_path)
