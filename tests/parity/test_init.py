"""New models are initialised as OpenCLIP's: mean, spread and kind of distribution, by tensor."""

import jax
import numpy as np
import pytest
from oracle import open_clip, torch

import eqx_clip


# Wide enough that a standard deviation is known to a few per cent.
VIT = {
    "embed_dim": 96,
    "vision_cfg": {"image_size": 64, "layers": 3, "width": 128, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 40, "vocab_size": 1000, "width": 96, "heads": 4, "layers": 2},
}
CONVNEXT = {
    **VIT,
    "vision_cfg": {"timm_model_name": "convnext_tiny", "timm_pool": "", "timm_proj": "mlp"},
}


SIGLIP = {
    **VIT,
    "vision_cfg": {
        **{"timm_model_name": "vit_wide_patch16_siglip", "image_size": 32},
        **{"timm_pool": "map", "timm_proj": "none"},
    },
    "text_cfg": {**VIT["text_cfg"], "proj_bias": True},
}


@pytest.mark.parametrize("config", [VIT, CONVNEXT, SIGLIP], ids=["vit", "convnext", "siglip"])
def test_new_models_have_openclips_statistics(config):
    torch.manual_seed(0)
    theirs = open_clip.CLIP(**config).state_dict()
    ours = eqx_clip.to_state_dict(eqx_clip.create(config, key=jax.random.key(0)))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        expected = theirs[name].numpy()
        assert tensor.shape == expected.shape
        spread = expected.std()
        tolerance = 5 / np.sqrt(expected.size)  # five standard errors
        assert abs(tensor.std() - spread) <= tolerance * spread + 1e-7, name
        assert abs(tensor.mean() - expected.mean()) <= 2 * tolerance * spread + 1e-6, name
        # A normal reaches far beyond its spread, a uniform sqrt(3) times.
        if expected.size > 2000 and spread > 0:
            reach, their_reach = np.abs(tensor).max() / spread, np.abs(expected).max() / spread
            assert (reach > 2.5) == (their_reach > 2.5), name
