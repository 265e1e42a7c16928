"""Rows of name tables: what one loads from tensors, it saves as the same tensors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqx_clip.checkpoints.convert import skeleton
from eqx_clip.checkpoints.format import OPEN_CLIP
from eqx_clip.checkpoints.rows import row as rows
from eqx_clip.checkpoints.rows.row import Entry
from eqx_clip.checkpoints.rows.state_dict import entries, fill, tensors_of
from eqx_clip.zoo.architectures import MODELS


ROWS = {
    "as it is": rows.tensor("a"),
    "transposed": rows.transposed("a"),
    "with an axis": rows.with_axis("a"),
    "with an axis behind": rows.with_axis("a", -1),
    "joined": rows.joined("q", "k", "v"),
    "joined of unequal sizes": rows.joined("q", "kv", sizes=(1, 2)),
    "with heads": rows.with_heads("a", heads=3),
    "several with heads": rows.with_heads("q", "k", heads=3),
    "of a stack": rows.nested({"leaf": rows.joined("q", "k", "v")}, "", "blocks.{i}.", 2)["leaf"],
}
SHAPES = [(6, 5), (12, 1), (6, 2, 3)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_its_own_inverse(name, shape):
    row = ROWS[name]
    leaf = jax.ShapeDtypeStruct((4, *shape) if row.stacked else shape, jnp.float32)
    entry, rng = Entry("leaf", leaf, row), np.random.default_rng(0)
    tensors = {key: rng.standard_normal(size, np.float32) for key, size in entry.shapes.items()}
    assert sum(tensor.size for tensor in tensors.values()) == leaf.size
    model = fill({"leaf": leaf}, {"leaf": row}, tensors)
    assert model["leaf"].shape == leaf.shape and np.asarray(model["leaf"]).all()
    saved = tensors_of(model, {"leaf": row})
    assert list(saved) == list(tensors)
    assert all(np.array_equal(saved[key], tensors[key]) for key in tensors)
    assert all(saved[key].flags["C_CONTIGUOUS"] for key in tensors)


def test_heads_are_those_of_the_product():
    weight = np.arange(24.0, dtype=np.float32).reshape(6, 4)  # 3 heads of 2, 4 in
    (view,) = rows.with_heads("a", heads=3).views(weight)
    x = np.arange(4.0)
    np.testing.assert_array_equal(np.einsum("i,ihd->hd", x, view), (weight @ x).reshape(3, 2))


def test_a_leaf_that_a_format_has_not_is_zero_or_refused():
    table = {"bias": rows.absent()}
    leaf = jax.ShapeDtypeStruct((3,), jnp.bfloat16)
    model = fill({"bias": leaf}, table, {})
    assert model["bias"].dtype == jnp.bfloat16 and not np.asarray(model["bias"]).any()
    assert tensors_of(model, table) == {}
    with pytest.raises(ValueError, match="'bias' has no form in this format, and is not zero"):
        tensors_of({"bias": jnp.ones(3)}, table)


@pytest.mark.parametrize("stacked", [False, True])
def test_two_leaves_may_be_parts_of_one_tensor(stacked):
    name, layers = ("blocks.{i}.qkv", (4,)) if stacked else ("qkv", ())
    table = {"q": rows.part_of(name, 0, 1, 3), "kv": rows.part_of(name, 1, 3, 3)}
    q, kv = (
        jax.ShapeDtypeStruct((*layers, size, 5), dtype)
        for size, dtype in ((2, jnp.float16), (4, jnp.float32))
    )
    shapes = {key: (6, 5) for key in table["q"].names(0)}
    assert Entry("q", q, table["q"]).shapes | shapes == Entry("kv", kv, table["kv"]).shapes
    names = Entry("q", q, table["q"]).tensors
    tensors = {key: np.random.default_rng(i).standard_normal((6, 5)) for i, key in enumerate(names)}
    model = fill({"q": q, "kv": kv}, table, tensors, jnp.float32)
    layer = jax.tree.map(lambda leaf: leaf[3] if stacked else leaf, model)
    whole = np.concatenate([layer["q"], layer["kv"]])
    np.testing.assert_array_equal(whole, tensors[names[-1]].astype(np.float32))
    mixed = {**model, "q": model["q"].astype(jnp.float16)}  # what holds both
    for given in (model, mixed):
        saved = tensors_of(given, table)
        assert list(saved) == list(names) and saved[names[0]].dtype == np.float32
        again = fill({"q": q, "kv": kv}, table, saved, jnp.float32)
        assert all((again[key] == given[key]).all() for key in given)
    with pytest.raises(ValueError, match="must have shape"):
        fill({"q": q, "kv": kv}, table, {key: np.zeros((7, 5)) for key in names}, jnp.float32)


def test_integers_stay_integers():
    table, leaf = {"n": rows.tensor("count")}, jax.ShapeDtypeStruct((), jnp.int32)
    model = fill({"n": leaf}, table, {"count": np.asarray(7, np.int64)}, jnp.bfloat16)
    assert model["n"].dtype == jnp.int32 and model["n"] == 7
    assert tensors_of(model, table)["count"].dtype == np.int64
    with pytest.raises(ValueError, match="'count' must be of integers; it is of float32"):
        fill({"n": leaf}, table, {"count": np.asarray(7, np.float32)})
    with pytest.raises(ValueError, match="'count' must be of floats; it is of int64"):
        fill(
            {"n": jax.ShapeDtypeStruct((), jnp.float32)}, table, {"count": np.asarray(7, np.int64)}
        )


@pytest.mark.parametrize("name", ["RN50", "convnext_tiny", "vit-nano-patch32", "ViT-L-14-CLIPA"])
def test_the_tables_name_every_element_once(name):
    model = skeleton(MODELS[name])
    found = list(entries(model, OPEN_CLIP.table(model)))
    names = [key for entry in found for key in entry.tensors]
    assert len(names) == len(set(names))
    sizes = [int(np.prod(shape)) for entry in found for shape in entry.shapes.values()]
    assert sum(sizes) == sum(leaf.size for leaf in jax.tree.leaves(model))
