"""Captions that are missing, empty or several, in every container, and which one an epoch draws."""

import io
import json
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image
from shards import record, tar, tfrecord

import eqx_clip
from eqx_clip.data import batches, examine, open_source, write_tfrecords
from eqx_clip.data.__main__ import main


def png(red):
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (red, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def write(folder, kind, texts):
    """Examples with these texts, each a string, None or a list, in a container of some kind."""
    images = [png(i) for i in range(len(texts))]
    names = [f"{i}.png" for i in range(len(texts))]
    rows = [{"image": name, "text": text} for name, text in zip(names, texts, strict=True)]
    if kind == "tfrecord":
        values = [text if isinstance(text, list) else [text] for text in texts]
        encoded = [[one.encode() for one in value if one is not None] for value in values]
        records = [record(png=image, txt=txt) for image, txt in zip(images, encoded, strict=True)]
        (folder / "0.tfrecord").write_bytes(tfrecord(*records))
        return folder, None
    if kind in ("tar", "json tar"):
        members = []
        for i, (image, text) in enumerate(zip(images, texts, strict=True)):
            members.append((f"{i}.png", image))
            if kind == "json tar":
                members.append((f"{i}.json", json.dumps({"caption": text}).encode()))
            elif text is not None:
                members.append((f"{i}.txt", text.encode()))
        (folder / "0.tar").write_bytes(tar(*members))
        return folder, "json:caption" if kind == "json tar" else None
    for name, image in zip(names, images, strict=True):
        (folder / name).write_bytes(image)
    if kind == "csv":
        lines = ["image,text", *(f"{row['image']},{row['text'] or ''}" for row in rows)]
        (folder / "table.csv").write_text("\n".join(lines) + "\n")
    elif kind == "jsonl":
        kept = [{k: v for k, v in row.items() if v is not None} for row in rows]
        (folder / "table.jsonl").write_text("\n".join(map(json.dumps, kept)))
    else:
        if any(isinstance(text, list) for text in texts):
            rows = [{**row, "text": as_list(row["text"])} for row in rows]
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), folder / "table.parquet")
    return folder / f"table.{kind}", None


def as_list(text):
    return [text] if isinstance(text, str) else text


def feed(source, **options):
    tokenizer = eqx_clip.Tokenizer(8)
    options = {"batch_size": 8, "preprocess": eqx_clip.Preprocess(8), "epochs": 1, **options}
    return batches(source, tokenizer=tokenizer, **options)


KINDS = ("csv", "jsonl", "parquet", "tfrecord", "tar", "json tar")
LISTS = ("jsonl", "parquet", "tfrecord", "json tar")


@pytest.mark.parametrize("kind", KINDS)
def test_mostly_missing_captions_end_a_run(tmp_path, kind):
    path, key = write(tmp_path, kind, [f"text {i}" if i % 16 == 0 else None for i in range(64)])
    counted = r"\d+ of \d+ examples .*could not be used.*MissingCaptionError \d+.*no caption"
    with pytest.raises(ValueError, match=counted):
        list(feed(open_source(path, text_key=key)))
    with pytest.raises(
        ValueError,
        match=r"examples.* \d\d\.\d\d%, could not be used \(Missing\w* \d+\).*no caption",
    ):
        list(feed(open_source(path, text_key=key), max_bad=1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_caption_is_replaced_counted_and_told(tmp_path, kind, caplog):
    path, key = write(tmp_path, kind, [f"text {i}" if i != 5 else None for i in range(16)])
    source = open_source(path, text_key=key)
    with caplog.at_level(logging.WARNING, "eqx_clip.data"):
        fed = feed(source)
        used = np.concatenate([batch["index"] for batch in fed])
    assert fed.bad_samples == {"MissingCaptionError": 1} and 5 not in used and len(used) == 16
    assert "no caption" in caplog.text and source.where(5) in caplog.text
    with pytest.raises(ValueError, match="no caption"):
        list(feed(source, shuffle=False))
    report = examine(source, batch_size=4, seconds=0, progress=False)
    assert (report.missing_captions, report.good) == (1, 15)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_text_is_a_caption_only_where_that_is_said(tmp_path, kind):
    path, key = write(tmp_path, kind, [f"text {i}" if i != 5 else "" for i in range(16)])
    source = open_source(path, text_key=key)
    fed = feed(source)
    assert 5 not in np.concatenate([batch["index"] for batch in fed])
    assert fed.bad_samples == {"MissingCaptionError": 1}
    fed = feed(source, empty_captions=True, shuffle=False)
    (empty,) = (batch["tokens"][5] for batch in list(fed)[:1])
    np.testing.assert_array_equal(empty, eqx_clip.Tokenizer(8)([""])[0])
    report = examine(source, batch_size=4, seconds=0, progress=False, empty_captions=True)
    assert (report.missing_captions, report.empty) == (0, 1)


def test_none_is_missing_whatever_is_said_of_empty_texts(tmp_path):
    path, _ = write(tmp_path, "jsonl", [f"text {i}" if i != 5 else None for i in range(16)])
    fed = feed(open_source(path), empty_captions=True)
    assert sum(len(batch["index"]) for batch in fed) == 16
    assert fed.bad_samples == {"MissingCaptionError": 1}


def test_the_command_shows_missing_captions_and_takes_empty_ones(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, _ = write(tmp_path, "csv", ["a", "", "b", " ", "c"])
    main([str(path), "--seconds", "0", "--workers", "1"])
    assert "no caption      2 (40.00%)" in capsys.readouterr().out
    main([str(path), "--seconds", "0", "--workers", "1", "--empty-captions"])
    out = capsys.readouterr().out
    assert "no caption      0 (0.00%)" in out and "empty captions  2 (40.00%)" in out


@pytest.mark.parametrize("kind", LISTS)
def test_one_of_several_captions_is_drawn_for_an_epoch(tmp_path, kind):
    lists = [[f"text {i} {k}" for k in range(4)] for i in range(15)]
    path, key = write(tmp_path, kind, [*lists, "text alone"])
    source = open_source(path, text_key=key)
    assert source[3]["text"] == lists[3] and source[15]["text"] == "text alone"
    tokenizer = eqx_clip.Tokenizer(8)
    steps = list(feed(source, epochs=48))
    seen = [set() for _ in range(16)]
    for batch in steps:
        for index, tokens in zip(batch["index"], batch["tokens"], strict=True):
            seen[index].add(tokens.tobytes())
    for index, texts in enumerate([*lists, ["text alone"]]):
        assert seen[index] == {tokens.tobytes() for tokens in tokenizer(texts)}
    resumed = list(feed(source, epochs=48, start_step=30))
    for batch, again in zip(steps[30:], resumed, strict=True):
        np.testing.assert_array_equal(batch["tokens"], again["tokens"])


def test_crops_do_not_depend_on_the_number_of_captions():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    one, several = ([{"image": image, "text": text}] * 8 for text in ("a", ["a", "b", "c"]))
    augment = eqx_clip.Augment(8, scale=(0.2, 0.9))
    pixels = [next(feed(source, preprocess=augment))["image"] for source in (one, several)]
    np.testing.assert_array_equal(*pixels)


def test_a_text_of_another_type_is_told():
    source = [{"image": png(0), "text": float("nan")}] * 8
    with pytest.raises(ValueError, match=r"must be a string, a list of strings, or None.*float"):
        next(feed(source))


def test_converted_examples_keep_their_captions(tmp_path):
    texts = ["a", None, ["b", "c"], ""]
    path, _ = write(tmp_path, "jsonl", texts)
    write_tfrecords(open_source(path), tmp_path / "shards", progress=False)
    assert [example["text"] for example in open_source(tmp_path / "shards")] == texts


def fields(folder, kind, values):
    """Images with JSON beside them."""
    members = []
    for i, value in enumerate(values):
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        members += [(f"{i}.png", png(i)), (f"{i}.json", data)]
    if kind == "tar":
        (folder / "0.tar").write_bytes(tar(*members))
    else:
        for name, data in members:
            (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("kind", ["tar", "folder"])
def test_the_first_of_several_fields_that_has_a_text_is_taken(tmp_path, kind):
    values = [{"a": "x", "b": "y"}, {"b": "z"}, {"a": None, "b": ["u", "v"]}, {"c": {"d": "w"}}, {}]
    source = open_source(fields(tmp_path, kind, values), text_key="json:a;json:b;json:c:d")
    assert [example["text"] for example in source] == ["x", "z", ["u", "v"], "w", None]
    assert [source.text(i) for i in range(5)] == ["x", "z", ["u", "v"], "w", None]


@pytest.mark.parametrize("kind", ["tar", "folder", "tfrecord"])
def test_a_text_that_cannot_be_read_is_told_with_its_place(tmp_path, kind):
    if kind == "tfrecord":
        (tmp_path / "7.tfrecord").write_bytes(tfrecord(*[record(png=b"0", txt=b"h\xe9llo")] * 2))
        source = open_source(tmp_path)
        places = [r"7\.tfrecord, record at byte \d+: The text 'txt' is not UTF-8"]
    else:
        values = [b'{"a": "h\xe9llo"}', b'{"a": ', {"a": 5}]
        source = open_source(fields(tmp_path, kind, values), text_key="json:a")
        place = {"tar": r"0\.tar, sample '{}': The member 'json'", "folder": r"{}\.json"}[kind]
        told = [" is not UTF-8", " is no JSON", ": 'json:a' must hold text; it is int"]
        places = [place.format(i) + words for i, words in enumerate(told)]
    for i, place in enumerate(places):
        for read in (source.__getitem__, source.text):
            with pytest.raises(ValueError, match=place):
                read(i)
