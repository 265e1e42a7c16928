"""How a step computes features: in which dtype, what it keeps for the gradient, from which mesh."""

import dataclasses
import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, NamedSharding
from jaxtyping import DTypeLike, Float, Int32, Key, PRNGKeyArray, PyTree

from ..._checks import check_choice, check_dtype
from ..._clip import CLIP
from ..._types import AnyArray, Remat
from ...nn.batch_norm import buffers
from ...nn.pooled_stack import block_at
from ...nn.stack import Index, Policy, Stack
from ...sharding import Rule, check_mesh, copies, shardings


Batch = Mapping[str, AnyArray]
FIELDS = ("image", "tokens")  # of a batch, those that features are made of
Features = tuple[Float[Array, "batch embed"], Float[Array, "batch embed"]]

_GATHERED = "gathered weights"
# What a block keeps of its forward pass for the gradient. Weights gathered from other devices are
# never kept: all layers' together would be the whole model.
_POLICIES: dict[str, Policy] = {
    "none": jax.checkpoint_policies.save_anything_except_these_names(_GATHERED),
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": None,
}

BlockT = TypeVar("BlockT", bound=eqx.Module)


@dataclasses.dataclass(frozen=True)
class Forward:
    """Unit features of a batch, (batch, embed) each, for a step.

    - `mesh`: over which parameters are spread, by `rules`, and gathered; None: one device.
    - `dtype`: what towers compute in; None: the dtype of their weights.
    - `remat`: what is kept of a block for the gradient; the rest is computed again. "none": what
      the block itself says (a transformer's: the outputs of its linear layers), otherwise all;
      "dots": the outputs of linear layers; "full": its input only.
    - `patch_dropout`: the share of an image's patches that is left out.
    - `trainable`: as `train.trainable` gives it; None: all parameters.
    """

    mesh: Mesh | None = None
    rules: Sequence[Rule] = ()
    dtype: DTypeLike | None = None
    remat: Remat = "none"
    patch_dropout: float = 0.0
    trainable: PyTree | None = None

    def __post_init__(self):
        check_choice("remat", self.remat, tuple(_POLICIES))
        if self.dtype is not None:
            check_dtype(self.dtype)
        if self.mesh is not None:
            check_mesh(self.mesh)

    @property
    def spread(self) -> bool:
        """Whether parameters lie on several devices."""
        return self.mesh is not None and self.mesh.shape["fsdp"] > 1

    def __call__(self, model: CLIP, batch: Batch, keys: Key[Array, " batch"] | None) -> Features:
        model = self._prepared(model)
        images = jnp.asarray(batch["image"])
        if images.dtype == jnp.uint8:
            images = model.preprocess.normalize(images)
        if self.patch_dropout:
            _check_patches(model.image)

        def encode_image(image: Array, key: PRNGKeyArray | None) -> Array:
            return self._dropping(model, key).encode_image(image)

        in_axes = 0, None if keys is None else 0
        image_features = jax.vmap(encode_image, in_axes)(images, keys)
        # Not the towers: a subclass may encode in another way.
        text_features = jax.vmap(lambda tokens: model.encode_text(tokens))(batch["tokens"])
        return image_features, text_features

    def _dropping(self, model: CLIP, key: PRNGKeyArray | None) -> CLIP:
        """The model, of whose images patches are left out."""
        if not self.patch_dropout:
            return model
        tower = _PatchDropout(model.image, key, self.patch_dropout)
        return eqx.tree_at(lambda model: model.image, model, tower)

    def _prepared(self, model: CLIP) -> CLIP:
        """The model as it is computed with: locked, cast, gathered, its blocks rematerialised."""
        if self.trainable is not None:
            _check_trainable(self.trainable, model)
            model = jax.tree.map(_locked, model, self.trainable)
        if self.dtype is not None:
            towers = model.image, model.text
            towers = jax.tree.map(self._cast, towers, buffers(towers))
            model = eqx.tree_at(lambda model: (model.image, model.text), model, towers)
        if not self.spread and self.remat == "none":
            return model
        placed = None
        if self.spread and self.mesh is not None:
            placed = shardings(model, self.mesh, self.rules)
        return self._wrapped(model, placed)

    def _cast(self, leaf: Array, is_buffer: bool) -> Array:
        casts = eqx.is_inexact_array(leaf) and not is_buffer
        return leaf.astype(self.dtype) if casts else leaf

    def _wrapped(self, model: CLIP, placed: PyTree[NamedSharding] | None) -> CLIP:
        def wrap(node: Any, places: Any = None) -> Any:
            if isinstance(node, Stack):
                block = _Rematerialised(node.block, self.remat, _of_layer(places))
                return eqx.tree_at(lambda stack: stack.block, node, block)
            return node if places is None else _gathered(node, places)

        trees = (model,) if placed is None else (model, placed)
        return jax.tree.map(wrap, *trees, is_leaf=lambda node: isinstance(node, Stack))


class _PatchDropout(eqx.Module):
    """An image tower that leaves out patches of its own accord."""

    tower: Any
    key: PRNGKeyArray | None
    share: float = eqx.field(static=True)

    @property
    def embed_dim(self) -> int:
        return self.tower.embed_dim

    def __call__(self, image: Array) -> Array:
        return self.tower(image, patch_dropout=self.share, key=self.key)


def _check_patches(tower: Any) -> None:
    if "patch_dropout" not in inspect.signature(tower).parameters:
        raise ValueError(
            f"The image tower, {type(tower).__name__}, has no patches to drop: leave "
            "`patch_dropout` at 0."
        )


def row_keys(key: PRNGKeyArray | None, rows: Int32[Array, " batch"]) -> Key[Array, " batch"] | None:
    """A key for each row of a global batch, whatever device computes it."""
    return None if key is None else jax.vmap(functools.partial(jr.fold_in, key))(rows)


def _check_trainable(trainable: PyTree, model: CLIP) -> None:
    given, expected = jax.tree.structure(trainable), jax.tree.structure(model)
    if given != expected:
        raise ValueError(
            f"`trainable` has {given.num_leaves} leaves in another structure than the model, of "
            f"{expected.num_leaves}: give what `train.trainable(model, ...)` returns."
        )


def _locked(leaf: Array, learns: np.ndarray) -> Array:
    if learns.all():
        return leaf
    if not learns.any():
        return jax.lax.stop_gradient(leaf)
    return jnp.where(learns, leaf, jax.lax.stop_gradient(leaf))


class _Rematerialised(eqx.Module, Generic[BlockT]):
    """A block that gathers its weights, and keeps for the gradient only what a policy says."""

    block: BlockT
    remat: Remat = eqx.field(static=True)
    places: tuple[NamedSharding, ...] | None = eqx.field(static=True)

    @property
    def policy(self) -> Policy:
        """By which a stack applies `jax.checkpoint`; "none" leaves it to the block."""
        own = _POLICIES[self.remat]
        return getattr(self.block, "policy", own) if self.remat == "none" else own

    def __call__(self, x: Array, *shared: PyTree) -> Array:
        block: Any = self._gathered(self.block)
        return block(x, *shared)

    def at(self, x: Array, i: Index, *shared: PyTree) -> Array:
        def gathered(block: BlockT, x: Array, i: Index, *shared: PyTree) -> Array:
            return block_at(self._gathered(block), x, i, *shared)

        return jax.checkpoint(gathered, policy=self.policy)(self.block, x, i, *shared)

    def _gathered(self, block: BlockT) -> BlockT:
        if self.places is None:
            return block
        leaves, structure = jax.tree.flatten(block)
        whole = [
            checkpoint_name(_gathered(leaf, place), _GATHERED)
            for leaf, place in zip(leaves, self.places, strict=True)
        ]
        return jax.tree.unflatten(structure, whole)


def _of_layer(stack: Any) -> tuple[NamedSharding, ...] | None:
    """Where the leaves of one layer lie, of those of a stack: all axes but the first."""
    if stack is None:
        return None
    places = jax.tree.leaves(stack.block, is_leaf=lambda x: isinstance(x, NamedSharding))
    return tuple(
        NamedSharding(place.mesh, jax.sharding.PartitionSpec(*place.spec[1:])) for place in places
    )


def _gathered(leaf: Array, place: NamedSharding) -> Array:
    """The whole of a leaf on every device."""
    whole = copies(place.mesh)
    if not eqx.is_inexact_array(leaf):
        return jax.lax.with_sharding_constraint(leaf, whole)
    return _gather(leaf, whole, place)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(leaf: Array, whole: NamedSharding, part: NamedSharding) -> Array:
    """The whole of a leaf on every device; of its gradient each device gets its part only."""
    return jax.lax.with_sharding_constraint(leaf, whole)


def _gather_forward(leaf: Array, whole: NamedSharding, part: NamedSharding) -> tuple[Array, None]:
    return _gather(leaf, whole, part), None


def _gather_backward(
    whole: NamedSharding, part: NamedSharding, kept: None, g: Array
) -> tuple[Array]:
    return (jax.lax.with_sharding_constraint(g, part),)


_gather.defvjp(_gather_forward, _gather_backward)
