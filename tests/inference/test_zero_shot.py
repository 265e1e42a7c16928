import numpy as np
import pytest
from helpers import tiny

import eqx_clip


@pytest.fixture(scope="module")
def model():
    return tiny()


def test_classifier_is_the_renormalised_mean_of_unit_vectors(model):
    classifier = np.asarray(eqx_clip.zero_shot_classifier(model, ["cat", "dog"], ["{}", "a {}"]))
    assert classifier.shape == (2, 24)
    prompts = [["cat", "a cat"], ["dog", "a dog"]]
    for row, texts in zip(classifier, prompts, strict=True):
        features = np.stack([model.encode_text(tokens) for tokens in model.tokenize(texts)])
        mean = features.mean(0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-6)


def test_templates_may_be_functions_and_iterables_may_be_generators(model):
    as_strings = eqx_clip.zero_shot_classifier(model, ["cat"], ["a {}!"])
    as_function = eqx_clip.zero_shot_classifier(
        model, (name for name in ["cat"]), (lambda name: f"a {name}!" for _ in range(1))
    )
    np.testing.assert_array_equal(as_strings, as_function)


def test_many_prompts_give_what_few_at_a_time_give(model):
    names = [f"thing {i}" for i in range(70)]
    together = eqx_clip.zero_shot_classifier(model, names, ["{}", "a {}"])
    apart = [eqx_clip.zero_shot_classifier(model, [name], ["{}", "a {}"])[0] for name in names[-3:]]
    np.testing.assert_allclose(together[-3:], np.stack(apart), atol=1e-6)


@pytest.mark.parametrize(
    ("names", "templates", "message"),
    [
        ([], ["{}"], "`class_names` must not be empty"),
        (["cat"], [], "`templates` must not be empty"),
        ("cat", ["{}"], "`class_names` must be a list; got 'cat'"),
        (["cat"], "a {}", "`templates` must be a list; got 'a {}'"),
        (b"cat", ["{}"], "`class_names` must be a list; got b'cat'"),
        (None, ["{}"], "`class_names` must be a list; got None"),
        ([1, 2], ["{}"], "`class_names` must be strings; one is 1"),
        (["cat"], [None], "`templates` must be strings or functions of a name; one is None"),
        (["cat"], ["a photo"], r"'a photo' must have a '\{\}'"),
        (["cat"], ["a {} and {x}"], "and no other braces"),
        (["cat"], ["a {{}} x"], r"must have a '\{\}'"),
        (["cat"], ["a {"], r"must have a '\{\}'"),
        (["cat"], ["a {0.name}"], r"must have a '\{\}'"),
        (["cat"], ["a {0[a]}"], r"must have a '\{\}'"),
    ],
)
def test_bad_arguments_are_named(model, names, templates, message):
    with pytest.raises(ValueError, match=message):
        eqx_clip.zero_shot_classifier(model, names, templates)
