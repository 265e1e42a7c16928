"""SigLIP and MetaCLIP 2 against OpenCLIP and timm, with matrices of which attention is not flat."""

import copy
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    SMALL_TIMM_VITS,
    TINY_SIGLIP,
    TINY_SIGLIP2,
    TINY_WORLDWIDE,
    features,
    images_for,
    relative_error,
    tiny,
)
from models import oracle_features, oracle_model, state_dict, tokens_for
from oracle import open_clip, timm, torch
from PIL import Image

import eqx_clip
from eqx_clip.checkpoints.open_clip.timm_vit import TIMM_VITS
from eqx_clip.nn.initializers import normal
from eqx_clip.nn.map_head import MAPHead


SPREAD = 0.35  # of the noise on all parameters
TEXTS = {
    "gelu": {},
    "gelu_tanh": {"act_kwargs": {"approximate": "tanh"}},
    "no projection": {"proj_bias": False, "proj_type": "none"},
}


def config_of(name, text):
    """A SigLIP of a small trunk of timm's, with a text tower as `TEXTS` has it."""
    trunk = SMALL_TIMM_VITS[name]
    config = copy.deepcopy(TINY_SIGLIP)
    config["embed_dim"] = trunk.width
    config["vision_cfg"] |= {"timm_model_name": name, "image_size": trunk.image_size}
    config["text_cfg"] |= {"width": trunk.width, "heads": 2, **TEXTS[text]}
    return config


def both(config, dtype=torch.float64) -> tuple[Any, Any]:
    theirs = oracle_model(config, dtype=dtype, spread=SPREAD)
    return eqx_clip.from_state_dict(config, state_dict(theirs)), theirs


def largest_error(ours, theirs, tokens):
    images = images_for(ours, 3)
    return max(
        relative_error(mine, other)
        for mine, other in zip(
            features(ours, images, tokens), oracle_features(theirs, images, tokens), strict=True
        )
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *((name, "gelu_tanh" if i % 2 else "gelu") for i, name in enumerate(SMALL_TIMM_VITS)),
        ("vit_tiny_patch8_siglip", "gelu_tanh"),  # as SigLIP 2 of base size has them
        ("vit_tiny_patch8_siglip_tanh", "no projection"),
    ],
)
def test_siglip_in_float64(name, text, x64):
    ours, theirs = both(config_of(name, text))
    assert largest_error(ours, theirs, tokens_for(ours)) < 1e-10


@pytest.mark.parametrize("name", SMALL_TIMM_VITS)
def test_siglip_in_float32(name):
    ours, theirs = both(config_of(name, "gelu_tanh"), torch.float32)
    assert largest_error(ours, theirs, tokens_for(ours)) < 2e-5


def test_attention_is_not_flat(x64):
    # Of weights so small that each token sees all alike, little would be compared.
    _, theirs = both(TINY_SIGLIP)
    pool = theirs.visual.trunk.attn_pool
    x = theirs.visual.trunk.forward_features(
        torch.tensor(images_for(tiny(TINY_SIGLIP), 1)).double()
    )
    q = pool.q(pool.latent).reshape(4, 10)
    k = pool.kv(x)[0, :, :40].reshape(-1, 4, 10)
    weights = torch.softmax(torch.einsum("hd,thd->ht", q, k) / 10**0.5, -1)
    assert weights.max(-1).values.mean() > 3 / len(x[0])


def test_blocks_and_tokens_are_timms(x64):
    ours, theirs = both(TINY_SIGLIP2)
    images = images_for(ours, 2).astype(np.float64)
    output = theirs.visual.forward_intermediates(torch.tensor(images), output_fmt="NLC")
    tokens = theirs.visual.trunk.forward_features(torch.tensor(images))

    @eqx.filter_jit
    def run(tower, images):
        return jax.vmap(lambda x: (tower(x), tower.features(x), tower.intermediates(x)))(images)

    pooled, mine, blocks = run(ours.image, images)
    assert blocks.shape == (2, 3, 36, 40)
    for i, block in enumerate(output["image_intermediates"]):
        assert relative_error(blocks[:, i], block.detach().numpy()) < 1e-10
    assert relative_error(mine, tokens.detach().numpy()) < 1e-10
    assert relative_error(pooled, theirs.visual(torch.tensor(images)).detach().numpy()) < 1e-10


@pytest.mark.parametrize(("tokens", "width", "num_heads", "ratio"), [(5, 24, 3, 3.7), (1, 8, 1, 4)])
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
def test_the_head_is_timms_attention_pool(tokens, width, num_heads, ratio, activation, x64):
    torch.manual_seed(0)
    act_layer = timm.layers.get_act_layer(activation)
    norm_layer = timm.layers.LayerNorm
    theirs = timm.layers.AttentionPoolLatent(
        width, num_heads=num_heads, mlp_ratio=ratio, norm_layer=norm_layer, act_layer=act_layer
    ).double()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    ours = MAPHead(
        width,
        num_heads,
        int(width * ratio),
        activation=activation,
        norm_eps=1e-6,
        init=normal(1.0),
        key=jax.random.key(0),
    )
    tensors = [parameter.detach().numpy() for parameter in theirs.parameters()]
    # timm's parameters stand in the order of our fields.
    leaves, structure = jax.tree.flatten(ours)
    filled = [jnp.asarray(x.reshape(leaf.shape)) for leaf, x in zip(leaves, tensors, strict=True)]
    x = np.random.default_rng(0).standard_normal((3, tokens, width))
    with torch.no_grad():
        expected = theirs(torch.tensor(x)).numpy()
    assert relative_error(jax.vmap(jax.tree.unflatten(structure, filled))(x), expected) < 1e-12


@pytest.mark.parametrize("name", [name for name in TIMM_VITS if name not in SMALL_TIMM_VITS])
def test_trunks_are_timms(name):
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0, global_pool="map")
    trunk, block = TIMM_VITS[name], model.blocks[0]
    assert model.patch_embed.img_size == (trunk.image_size,) * 2
    assert model.patch_embed.patch_size == (trunk.patch_size,) * 2
    assert (model.embed_dim, len(model.blocks)) == (trunk.width, trunk.depth)
    assert block.attn.num_heads == model.attn_pool.num_heads == trunk.num_heads
    assert block.mlp.fc1.out_features == int(trunk.width * trunk.mlp_ratio)
    for activation in (block.mlp.act, model.attn_pool.mlp.act):
        assert ("tanh" in f"{type(activation).__name__}{activation}".lower()) is (
            trunk.activation == "gelu_tanh"
        )
    assert {norm.eps for norm in (block.norm1, model.norm, model.attn_pool.norm)} == {1e-6}


@pytest.mark.parametrize("image_size", [96, 24, (64, 40), (24, 56), 51])
def test_images_of_another_size(image_size, tmp_path):
    eqx_clip.save(tiny(TINY_SIGLIP), tmp_path)
    ours: Any = eqx_clip.load(tmp_path, image_size=image_size)
    created: Any = open_clip.create_model_and_transforms(
        f"local-dir:{tmp_path}", force_image_size=image_size
    )
    theirs, _, transform = created
    assert largest_error(ours, theirs.eval(), tokens_for(ours)) < 2e-5
    pixels = np.random.default_rng(0).integers(0, 256, (61, 90, 3), np.uint8)
    image = Image.fromarray(pixels)
    assert np.array_equal(transform(image).numpy(), ours.preprocess(image))


ROWS = [
    [0, 7, 8, 2, *[1] * 9],
    [0, 2, 9, 2, *[1] * 9],  # the first of two
    [0, 499, 9, 2, *[1] * 9],  # not the highest
    [*range(100, 113)],  # none: the first token's
    [2, *range(200, 212)],
    [*range(300, 312), 2],
]


@pytest.mark.parametrize("custom_text", [False, True], ids=["clip", "custom_text"])
def test_metaclip2_reads_the_first_end_of_text(custom_text, x64):
    ours, theirs = both({**TINY_WORLDWIDE, "quick_gelu": True, "custom_text": custom_text})
    tokens = np.asarray(ROWS, np.int32)
    assert largest_error(ours, theirs, tokens) < 1e-10
    assert ours.text.used_lengths(tokens).tolist() == [4, 2, 4, 1, 1, 13]
    whole = jax.vmap(ours.text)(tokens)
    for row, used, feature in zip(tokens, ours.text.used_lengths(tokens), whole, strict=True):
        assert relative_error(ours.text(row[:used])[None], feature[None]) < 1e-10


@pytest.mark.parametrize("config", [TINY_SIGLIP, TINY_SIGLIP2], ids=["siglip", "siglip2"])
def test_texts_of_siglip_are_never_cut(config):
    ours = tiny(config)
    assert ours.text.used_lengths(tokens_for(ours)).tolist() == [13] * len(tokens_for(ours))
