"""The lengths that texts of a batch are cut to."""

import numpy as np
import pytest

from eqx_clip.tokenizers.text_lengths import text_length, used_lengths


@pytest.mark.parametrize(
    ("context", "training", "lengths"),
    [
        (77, False, {8, 16, 24, 32, 40, 48, 56, 64, 72, 77}),
        (77, True, {16, 24, 32, 40, 48, 77}),
        (32, False, {8, 16, 24, 32}),
        (32, True, {16, 24, 32}),
        (12, True, {12}),
    ],
)
def test_every_text_fits_in_the_least_of_a_few_lengths(context, training, lengths):
    found = {used: text_length(used, context, training=training) for used in range(1, context + 1)}
    assert set(found.values()) == lengths
    assert all(length == min(n for n in lengths if n >= used) for used, length in found.items())


def test_a_tower_that_does_not_say_what_it_uses_is_given_all_tokens():
    tokens = np.array([[5, 9, 0, 0], [5, 3, 9, 0]])
    assert used_lengths(object(), tokens).tolist() == [4, 4]
