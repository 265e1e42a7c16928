"""TFRecord files as img2dataset writes them: what is read in place, and what damage is found."""

import gzip
import itertools
import pickle

import pytest
from shards import record, tfrecord

from eqx_clip.data import open_source
from eqx_clip.data._tfrecord import TFRecordSource


HEADER, FOOTER = 12, 4


def row(i, **more):
    """What img2dataset keeps of one image. What it does not know is the empty byte string."""
    return {"key": b"%09d" % i, "jpg": b"image %d" % i, "txt": b"text %d" % i, **more}


def shard(*rows):
    return tfrecord(*(record(**row) for row in rows))


def written(folder, **shards):
    for name, data in shards.items():
        (folder / f"{name.removeprefix('n')}.tfrecord").write_bytes(data)
    return folder


def expected(*numbers):
    return [{"image": b"image %d" % i, "text": f"text {i}"} for i in numbers]


def test_a_folder_of_img2dataset_is_read_in_order(tmp_path):
    written(tmp_path, n00003=shard(row(3), row(4)), n00000=shard(row(0), row(1), row(2)))
    written(tmp_path, n00010=shard(row(5)))  # gaps in the numbers
    for name in ("00000.parquet", "00000_stats.json", "00001_stats.json", "00004.tfrecord.part"):
        (tmp_path / name).write_bytes(b"beside the shards")
    (tmp_path / "00009.tfrecord").mkdir()
    source = TFRecordSource(tmp_path)
    assert len(source) == 6 and list(source) == expected(*range(6))
    assert source.where(4) == (f"{tmp_path}/00003.tfrecord, record at byte {len(shard(row(3)))}")


def test_one_file_and_a_pattern_are_read(tmp_path):
    written(tmp_path, n00000=shard(row(0)), n00001=shard(row(1)), n00002=shard(row(2)))
    assert list(TFRecordSource(tmp_path / "00001.tfrecord")) == expected(1)
    assert list(TFRecordSource(tmp_path / "{00000..00001}.tfrecord")) == expected(0, 1)
    assert list(TFRecordSource(tmp_path / "*[12].tfrecord")) == expected(1, 2)


def test_a_caption_that_is_missing_is_none_and_one_that_is_empty_stays(tmp_path):
    without = row(0)
    del without["txt"]
    written(tmp_path, n00000=shard(without, row(1, txt=b""), row(2)))
    assert [example["text"] for example in TFRecordSource(tmp_path)] == [None, "", "text 2"]


def test_several_values_are_several_texts(tmp_path):
    written(tmp_path, n00000=shard(row(0, txt=[b"a", b"b"]), row(1, txt=[b"c"]), row(2, txt=[])))
    assert [example["text"] for example in TFRecordSource(tmp_path)] == [["a", "b"], "c", None]


def test_a_text_that_is_not_utf8_is_told_when_it_is_read(tmp_path):
    written(tmp_path, n00000=shard(row(0), row(1, txt=b"\xe9")))
    with pytest.raises(ValueError, match=r"text 'txt' is not UTF-8"):
        TFRecordSource(tmp_path)[1]


def test_features_may_be_of_another_type_in_each_record(tmp_path):
    rows = [row(0, width=512, similarity=0.25), row(1, width=b"", similarity=b""), row(2)]
    written(tmp_path, n00000=shard(*rows, row(3, width=0.5, txt=7)))
    texts = [example["text"] for example in TFRecordSource(tmp_path)]
    assert texts == ["text 0", "text 1", "text 2", None]


@pytest.mark.parametrize("count", [1, 150])
def test_img2dataset_writes_the_text_twice_and_it_is_taken_once(tmp_path, count):
    """`caption` is metadata. Either may be asked for, also where it is empty."""
    rows = [row(i, caption=b"" if i < count else b"caption %d" % i) for i in range(count + 1)]
    written(tmp_path, n00000=shard(*rows))
    assert TFRecordSource(tmp_path).text_key == "txt"
    assert TFRecordSource(tmp_path, text_key="caption")[count]["text"] == f"caption {count}"


def test_shards_without_records_are_passed_over(tmp_path):
    written(tmp_path, n00000=b"", n00001=shard(row(0)), n00002=b"", n00003=shard(row(1)))
    source = TFRecordSource(tmp_path)
    assert list(source) == expected(0, 1) and "00003" in source.where(1)


def flipped(data, position):
    return data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :]


WHOLE = shard(*map(row, range(3)))
SECOND = len(shard(row(0)))  # the byte where the second record starts


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (WHOLE[:-1], rf"Truncated record at byte {2 * SECOND} \(record 2\)"),
        (WHOLE[: SECOND + HEADER], rf"Truncated record at byte {SECOND} \(record 1\)"),
        (WHOLE[: SECOND + 5], rf"Truncated header at byte {SECOND} \(record 1\)"),
        (flipped(WHOLE, SECOND), rf"Damaged header at byte {SECOND} \(record 1\)"),
        (flipped(WHOLE, SECOND + 9), rf"Damaged header at byte {SECOND} \(record 1\)"),
        (flipped(WHOLE, SECOND + 7), rf"Damaged header at byte {SECOND} \(record 1\)"),
        (bytes(len(WHOLE)), r"Damaged header at byte 0"),
        (gzip.compress(WHOLE), r"is compressed by gzip: unpack it"),
        (b"<!DOCTYPE html><title>404</title>", r"Damaged header at byte 0.*not a TFRecord"),
        (tfrecord(b"\xff" * 20), r"not a tf\.train\.Example"),
    ],
    ids=itertools.count(),
)
def test_a_file_that_is_not_whole_is_refused_when_it_is_opened(tmp_path, data, message):
    written(tmp_path, n00007=data)
    for _ in range(2):  # also where an index could be there
        with pytest.raises(ValueError, match=message) as raised:
            TFRecordSource(tmp_path)
        assert f"{tmp_path}/00007.tfrecord" in str(raised.value)


@pytest.mark.parametrize("position", [HEADER, SECOND - 1, SECOND - FOOTER - 1])
@pytest.mark.parametrize("before", [0, 120])
def test_a_flipped_bit_in_a_payload_is_found_when_it_is_read(tmp_path, position, before):
    first = shard(*(row(0) for _ in range(before)))
    written(tmp_path, n00000=first + flipped(WHOLE, position))
    source = TFRecordSource(tmp_path)
    start = len(first) + HEADER
    with pytest.raises(ValueError, match=rf"byte {start} of .*00000\.tfrecord is damaged: its che"):
        source[before]
    others = [source[i] for i in range(len(source)) if i != before]
    assert others == expected(*[0] * before, 1, 2)


def test_a_record_without_an_image_is_told_when_it_is_read(tmp_path):
    written(tmp_path, n00000=shard(row(0), row(1, jpg=b""), row(2, jpg=5)))
    source = TFRecordSource(tmp_path)
    for i in (1, 2):
        with pytest.raises(ValueError, match="The record has no image 'jpg'"):
            source[i]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("jpgs", None), r"no image_key 'jpgs': it holds 'jpg', 'key', 'txt'\. Did you mean 'jpg'"),
        (("jpg", "title"), r"no text_key 'title': it holds 'jpg', 'key', 'txt'"),
        (("jpg", "jpg"), r"are the same"),
    ],
)
def test_a_key_that_cannot_be_is_told_with_the_features_found(tmp_path, keys, message):
    with pytest.raises(ValueError, match=message):
        TFRecordSource(written(tmp_path, n00000=WHOLE), *keys)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"key": b"0", "txt": b"a"}, r"'key', 'txt', none may be the image: pass `image_key=`"),
        ({"key": b"0", "jpg": b"a"}, r"'jpg', 'key', none may be the text: pass `text_key=`"),
        ({"jpg": b"a", "png": b"a", "txt": b"a"}, r"several may be the image: pass `image_key=`"),
    ],
)
def test_features_of_unusual_names_are_asked_for(tmp_path, features, message):
    with pytest.raises(ValueError, match=message):
        TFRecordSource(written(tmp_path, n00000=shard(features)))


def test_where_there_is_nothing_it_is_told_what_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        TFRecordSource(tmp_path / "none")
    with pytest.raises(ValueError, match=r"no TFRecord files \(`\*\.tfrecord`\): .* nothing"):
        TFRecordSource(tmp_path)
    (tmp_path / "00000.tfrecord.gz").touch()
    with pytest.raises(ValueError, match=r"no TFRecord files .*'00000\.tfrecord\.gz'"):
        TFRecordSource(tmp_path)
    with pytest.raises(ValueError, match=r"holds no examples\. Its 2 files are empty"):
        TFRecordSource(written(tmp_path, n00000=b"", n00001=b""))


def test_a_shard_more_or_less_is_seen_and_refused_to_who_knew_the_old(tmp_path):
    written(tmp_path, n00000=shard(row(0)))
    source = TFRecordSource(tmp_path)
    pickled = pickle.dumps(source)
    assert len(pickled) < 500 and list(pickle.loads(pickled)) == list(source)
    written(tmp_path, n00001=shard(row(1)))
    assert list(TFRecordSource(tmp_path)) == expected(0, 1)
    with pytest.raises(ValueError, match="has changed since it was opened"):
        pickle.loads(pickled)
    (tmp_path / "00001.tfrecord").unlink()
    assert list(TFRecordSource(tmp_path)) == expected(0)


def test_an_index_is_made_once_and_outside_the_data(tmp_path, index_folder, monkeypatch):
    written(tmp_path, n00000=shard(row(0)), n00001=shard(row(1)))
    before = sorted(tmp_path.iterdir())
    expected_items = list(TFRecordSource(tmp_path))
    assert sorted(tmp_path.iterdir()) == before and len(list(index_folder.iterdir())) == 1
    monkeypatch.setattr(TFRecordSource, "_indexed", None)
    assert list(TFRecordSource(tmp_path)) == expected_items


def test_a_key_that_is_given_may_come_late(tmp_path):
    records = [record(png=b"0", alt=b"late") if i >= 150 else record(png=b"0") for i in range(200)]
    (tmp_path / "0.tfrecord").write_bytes(tfrecord(*records))
    source = open_source(tmp_path, text_key="alt")
    assert (source[0]["text"], source[150]["text"]) == (None, "late")
    with pytest.raises(ValueError, match="has no text_key 'caption': it holds 'alt', 'png'"):
        open_source(tmp_path, text_key="caption")
