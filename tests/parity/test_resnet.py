"""`ModifiedResNet` against OpenCLIP's own: the same parameters and statistics on both sides."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import relative_error
from oracle import open_clip, torch

from eqx_clip.towers.resnet import ModifiedResNet, ResNetConfig


RENAMED = {
    ".first": ".0",
    ".stack.block": ".{}",
    "downsample.conv": "downsample.0",
    "downsample.bn": "downsample.1",
}


def oracle_tower(config: ResNetConfig, side: int, dtype):
    """OpenCLIP's tower, with noise on every parameter and every statistic."""
    torch.manual_seed(0)
    theirs = open_clip.modified_resnet.ModifiedResNet(
        config.depths, config.embed_dim, config.num_heads, side, config.width
    )
    theirs = theirs.to(dtype).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        for module in theirs.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 2)
                module.num_batches_tracked.random_(1000)
    return theirs


def copied(config: ResNetConfig, theirs) -> ModifiedResNet:
    """Our tower of these weights: each leaf is found by its path, each tensor is used once."""
    tensors = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}

    def fill(path, leaf):
        name = jax.tree_util.keystr(path).removeprefix(".")
        for ours, others in RENAMED.items():
            name = name.replace(ours, others)
        names = [name.format(i + 1) for i in range(leaf.shape[0])] if "{}" in name else [name]
        values = [tensors.pop(name) for name in names]
        value = np.stack(values) if "{}" in name else values[0]
        assert value.shape == leaf.shape
        return jnp.asarray(value.astype(np.int32) if value.dtype == np.int64 else value)

    skeleton = eqx.filter_eval_shape(ModifiedResNet, config, key=jax.random.key(0))
    ours = jax.tree_util.tree_map_with_path(fill, skeleton)
    assert not tensors
    return ours


@eqx.filter_jit
def run(tower, images):
    def one(image):
        return tower(image), tower.features(image), tower.intermediates(image)

    return jax.vmap(one)(images)


def check(config: ResNetConfig, side: int, dtype, tolerance: float, batch: int = 2):
    theirs = oracle_tower(config, side, dtype)
    ours = copied(config, theirs)
    height, width = np.broadcast_to(config.image_size, 2)
    images = torch.randn(batch, 3, height, width, dtype=dtype)
    with torch.no_grad():
        output = theirs.forward_intermediates(images)

    projection, features, intermediates = run(ours, jnp.asarray(images.numpy()))
    expected = [x.numpy() for x in output["image_intermediates"]]
    assert len(intermediates) == len(expected) == 5
    for y, other in zip(intermediates, expected, strict=True):
        assert relative_error(y, other) < tolerance
    assert relative_error(features, expected[-1]) < tolerance
    assert projection.dtype == images.numpy().dtype
    assert relative_error(projection, output["image_features"].numpy()) < tolerance


def test_rn50_in_float32():
    config = ResNetConfig(depths=(3, 4, 6, 3), embed_dim=1024, num_heads=32)
    check(config, 224, torch.float32, 2e-5)


@pytest.mark.parametrize(
    "image_size, side, depths, width, num_heads",
    [
        ((64, 256), 128, (1, 2, 3, 1), 6, 3),  # 2 x 8 positions, of which OpenCLIP has 4 x 4
        (75, 75, (2, 1, 1, 2), 7, 4),  # odd maps, and an odd width
    ],
)
def test_small_sizes_in_float64(x64, image_size, side, depths, width, num_heads):
    config = ResNetConfig(
        image_size=image_size, depths=depths, width=width, embed_dim=10, num_heads=num_heads
    )
    check(config, side, torch.float64, 1e-10, batch=3)
