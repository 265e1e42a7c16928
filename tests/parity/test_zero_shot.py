"""The classifier matrix and `CLIPInference` against OpenCLIP."""

import numpy as np
import pytest
from helpers import TINY_CONVNEXT, TINY_VIT
from models import oracle_model, state_dict
from oracle import open_clip

import eqx_clip


NAMES = ["cat", "Siamese cat", "a very long name, " * 9, "dog", "naïve owl"]
TEMPLATES = ["a photo of a {}.", "itap of my {}.", "{}", "the {} in the park"]


@pytest.mark.parametrize("config", [TINY_VIT, TINY_CONVNEXT], ids=["vit", "convnext"])
@pytest.mark.parametrize(
    "templates", [TEMPLATES, [lambda name: f"a {name}!", str.upper]], ids=["strings", "functions"]
)
def test_classifier_equals_openclips(config, templates):
    oracle = oracle_model(config)
    ours = eqx_clip.from_state_dict(config, state_dict(oracle))
    tokenizer = open_clip.SimpleTokenizer(context_length=config["text_cfg"]["context_length"])
    theirs = open_clip.build_zero_shot_classifier(oracle, tokenizer, NAMES, templates).numpy().T
    mine = eqx_clip.zero_shot_classifier(ours, NAMES, templates)
    assert np.abs(np.asarray(mine) - theirs).max() < 1e-5


def test_classifier_of_more_prompts_than_a_batch_equals_openclips():
    oracle = oracle_model(TINY_VIT)
    ours = eqx_clip.from_state_dict(TINY_VIT, state_dict(oracle))
    tokenizer = open_clip.SimpleTokenizer(context_length=13)
    names = [f"number {i}" for i in range(50)]
    theirs = open_clip.build_zero_shot_classifier(oracle, tokenizer, names, TEMPLATES).numpy().T
    mine = eqx_clip.zero_shot_classifier(ours, names, TEMPLATES)
    assert np.abs(np.asarray(mine) - theirs).max() < 1e-5
