"""`Pairs`: each caption with its image, and which share one."""

import numpy as np
import pytest
from test_captions import LISTS, write

from eqx_clip.data import Mixture, Pairs, open_source


@pytest.mark.parametrize("kind", LISTS)
def test_a_list_is_as_many_pairs_of_one_image(tmp_path, kind):
    path, key = write(tmp_path, kind, [["a", "b"], "c", ["d", "e", "f"]])
    pairs = Pairs(open_source(path, text_key=key))
    assert [example["text"] for example in pairs] == list("abcdef")
    assert pairs.groups.tolist() == [0, 0, 1, 2, 2, 2] and pairs.num_images == 3
    assert pairs[1]["image"] == pairs[0]["image"] != pairs[2]["image"]


def test_rows_that_name_one_image_share_it(tmp_path):
    write(tmp_path, "csv", ["x", "y"])
    (tmp_path / "captions.csv").write_text("image,text\n0.png,a\n1.png,b\n0.png,c\n1.png,d\n")
    source = open_source(tmp_path / "captions.csv")
    assert Pairs(source).groups.tolist() == [0, 1, 0, 1]
    assert Pairs(open_source(tmp_path / "captions.csv", n_samples=3)).groups.tolist() == [0, 1, 0]
    assert Pairs(Mixture([source, source])).groups.tolist() == [0, 1, 0, 1] * 2


def test_users_sequences_have_an_image_an_example():
    pairs = Pairs([{"image": b"1", "text": ["a", "b"]}, {"image": b"1", "text": None}])
    assert pairs.groups.tolist() == [0, 0, 1] and pairs.groups.dtype == np.int64
    assert [pairs[i]["text"] for i in range(3)] == ["a", "b", None]
