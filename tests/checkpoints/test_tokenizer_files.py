"""A tokenizer's files beside the weights: found by `load`, written by `save`."""

import json
import logging
import os

import equinox as eqx
import jax
import numpy as np
import pytest
import small_tokenizers
from folders import CONFIG, WEIGHTS
from helpers import TINY_CLIPA, bitwise_equal, tiny

import eqx_clip
from eqx_clip.checkpoints.config import config_from_open_clip, config_to_open_clip
from eqx_clip.checkpoints.tokenizer_files import with_tokenizer_in


FILES = ("tokenizer.json", "tokenizer_config.json")


@pytest.fixture(scope="module")
def bare():
    """A model without the files of its tokenizer."""
    return tiny(TINY_CLIPA)


@pytest.fixture
def folder(bare, tmp_path):
    eqx_clip.save(bare, tmp_path / "model")
    return small_tokenizers.write("bert", tmp_path / "model")


def without_class(folder):
    """As the repository `bert-base-uncased` has it."""
    (folder / FILES[1]).write_text(json.dumps({"do_lower_case": True}))


def test_a_folders_tokenizer_is_read(folder, bare):
    model = eqx_clip.load(folder)

    assert bitwise_equal(model.text, bare.text)
    assert model.tokenize(["a cat", "two dogs"]).shape == (2, 13)
    assert model.tokenizer.strip_sep_token and model.tokenizer.name == "bert-base-uncased"


@pytest.mark.parametrize("change", [lambda folder: None, without_class])
def test_saved_and_loaded_it_is_equal(folder, tmp_path, change):
    change(folder)
    model = eqx_clip.load(folder)
    eqx_clip.save(model, tmp_path / "again")
    again = eqx_clip.load(tmp_path / "again")

    assert {path.name for path in (tmp_path / "again").iterdir()} == {CONFIG, WEIGHTS, *FILES}
    assert (tmp_path / "again" / FILES[0]).read_bytes() == (folder / FILES[0]).read_bytes()
    assert again.tokenizer == model.tokenizer
    assert jax.tree.structure(again) == jax.tree.structure(model)
    np.testing.assert_array_equal(again.tokenize("the cat"), model.tokenize("the cat"))


def test_equal_tokenizers_compile_once_and_others_again(folder, tmp_path):
    traced = []

    @eqx.filter_jit
    def scale(model):
        traced.append(model.tokenizer)
        return model.scale

    model = eqx_clip.load(folder)
    other = eqx_clip.load(small_tokenizers.write("roberta", folder))
    scale(model), scale(model), scale(other)
    assert len(traced) == 2
    scale(eqx_clip.load(small_tokenizers.write("bert", folder)))
    assert len(traced) == 2


@pytest.mark.parametrize("absent", FILES)
def test_without_a_file_the_model_loads_and_says_which(folder, absent):
    (folder / absent).unlink()
    model = eqx_clip.load(folder)

    with pytest.raises(ValueError, match=f"there is no '{absent}' in {folder}"):
        model.tokenize("a cat")


@pytest.mark.parametrize("name", ["spiece.model", "vocab.txt"])
def test_older_files_of_a_tokenizer_are_named_with_what_rewrites_them(folder, name):
    for file in FILES:
        (folder / file).unlink()
    (folder / name).write_bytes(b"any")

    with pytest.raises(ValueError, match=rf"only {name}, which transformers rewrites: .*AutoTok"):
        eqx_clip.load(folder).tokenize("a cat")


def test_a_damaged_file_is_refused(folder):
    content = (folder / FILES[0]).read_bytes()
    (folder / FILES[0]).write_bytes(content[: len(content) // 2])

    with pytest.raises(
        ValueError, match=r"'tokenizer\.json' in .*model is damaged: .*take it away"
    ):
        eqx_clip.load(folder)
    (folder / FILES[0]).unlink()
    eqx_clip.load(folder)


def test_a_file_of_weights_has_its_tokenizer_beside_it(folder):
    config = config_from_open_clip(json.loads((folder / CONFIG).read_text()))

    assert with_tokenizer_in(config, folder).tokenizer == eqx_clip.load(folder).tokenizer


def test_its_options_are_written_where_they_are_not_the_usual_ones(folder):
    model = eqx_clip.load(folder)
    text = config_to_open_clip(model)["model_cfg"]["text_cfg"]

    assert text["hf_tokenizer_name"] == "bert-base-uncased"
    assert text["tokenizer_kwargs"] == {"strip_sep_token": True}


@pytest.mark.parametrize("kwargs", [{"use_fast": True}, ["clean"], {"clean": "upper"}])
def test_unknown_options_are_refused(kwargs):
    text = {**TINY_CLIPA["text_cfg"], "tokenizer_kwargs": kwargs}
    with pytest.raises(ValueError, match=r"`tokenizer_kwargs=.* is not supported|`clean` must be"):
        config_from_open_clip({**TINY_CLIPA, "text_cfg": text})


def test_a_model_without_its_files_leaves_no_other_models_tokenizer(folder, bare):
    eqx_clip.save(bare, folder)

    assert not (folder / FILES[0]).exists()
    assert eqx_clip.load(folder).tokenizer == bare.tokenizer


def test_a_model_of_clips_tokenizer_leaves_files_alone(folder):
    eqx_clip.save(tiny(), folder)

    assert (folder / FILES[0]).exists()
    assert eqx_clip.load(folder).tokenizer == eqx_clip.Tokenizer(13)


@pytest.mark.parametrize("n", range(1, 8))
@pytest.mark.parametrize("other", ["bert", "roberta"])
def test_a_fault_leaves_no_model_with_another_ones_tokenizer(
    n, other, folder, tmp_path, monkeypatch
):
    old = eqx_clip.load(folder)
    new = eqx.tree_at(lambda model: model.logit_scale, old, old.logit_scale + 1)
    second = small_tokenizers.write(other, tmp_path / "other")
    config = config_from_open_clip(config_to_open_clip(old))
    tokenizer = with_tokenizer_in(config, second).tokenizer
    new = eqx_clip.CLIP(
        image=new.image,
        text=new.text,
        logit_scale=new.logit_scale,
        preprocess=new.preprocess,
        tokenizer=tokenizer,
    )
    replace, calls = os.replace, []

    def fails(*arguments):
        calls.append(arguments)
        if len(calls) >= n:
            raise OSError("no more renaming")
        replace(*arguments)

    monkeypatch.setattr(os, "replace", fails)
    try:
        eqx_clip.save(new, folder)
        finished = True
    except OSError:
        finished = False
    monkeypatch.undo()
    found = eqx_clip.load(folder)
    model = old if found.logit_scale == old.logit_scale else new
    assert not finished or model is new
    if found.tokenizer.vocabulary is not None:
        assert found.tokenizer == model.tokenizer
    eqx_clip.save(new, folder)
    assert eqx_clip.load(folder).tokenizer == new.tokenizer


@pytest.fixture
def repository(hub, folder):
    """A repository of weights on the hub; its tokenizer's files are taken away."""
    hub.add("org/name", folder)
    files = hub.repos["org/name"]["main"]
    return hub, {name: files.pop(name) for name in FILES}


def test_it_is_fetched_with_the_weights(repository, folder):
    hub, files = repository
    hub.repos["org/name"]["main"] |= files
    model = eqx_clip.load("hf-hub:org/name")

    assert model.tokenizer == eqx_clip.load(folder).tokenizer
    assert not any("bert-base-uncased" in line for line in hub.log)


def test_it_is_fetched_from_its_own_repository(repository, folder):
    hub, files = repository
    hub.repos["bert-base-uncased"] = {"main": files}
    hub.repos["org/name"]["v1"] = hub.repos["org/name"]["main"]
    expected = eqx_clip.load(folder).tokenizer

    assert eqx_clip.load("hf-hub:org/name").tokenizer == expected
    assert eqx_clip.load("hf-hub:org/name", revision="v1").tokenizer == expected


def test_without_it_on_the_hub_the_weights_load(repository, bare, caplog):
    with caplog.at_level(logging.WARNING, logger="eqx_clip"):
        model = eqx_clip.load("hf-hub:org/name")

    assert bitwise_equal(model.text, bare.text)
    assert "org/name/tokenizer.json: no such file" in caplog.text
    assert "bert-base-uncased/tokenizer.json: no such repository" in caplog.text
    with pytest.raises(ValueError, match="no such file; bert-base-uncased/tok"):
        model.tokenize("a cat")


def test_what_was_fetched_serves_without_a_network(repository, use_hub):
    hub, files = repository
    hub.repos["bert-base-uncased"] = {"main": files}
    expected = eqx_clip.load("hf-hub:org/name").tokenizer
    hub.repos.clear()
    use_hub("http://127.0.0.1:9")

    assert eqx_clip.load("hf-hub:org/name").tokenizer == expected
