"""The registry against a table written by hand from OpenCLIP's, and the names that it goes by."""

import re

import equinox as eqx
import jax
import numpy as np
import pytest

import eqx_clip
from eqx_clip import ConvNeXtConfig, ViTConfig
from eqx_clip.checkpoints.format import OPEN_CLIP
from eqx_clip.checkpoints.rows.state_dict import entries, fill
from eqx_clip.zoo.architectures import ALIASES, MODELS, find_model, is_model, model_config
from eqx_clip.zoo.pairs import open_clip_pairs
from eqx_clip.zoo.pretrained import PRETRAINED, find_pretrained


OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

# name, tag, OpenCLIP's name, OpenCLIP's tag, repository, quick GELU, mean and std, pixels; in the
# order of the predecessor's README, with the pair that only its code has after `dfn2b`.
TABLE = [
    line.split()
    for line in """
convnext-base laion400m-s13b-b51k convnext_base laion400m_s13b_b51k laion/CLIP-convnext_base-laion400M-s13B-b51K exact openai 224
convnext-base-w laion-aesthetic-s13b-b82k convnext_base_w laion_aesthetic_s13b_b82k laion/CLIP-convnext_base_w-laion_aesthetic-s13B-b82K exact openai 256
convnext-base-w laion-aesthetic-s13b-b82k-320 convnext_base_w_320 laion_aesthetic_s13b_b82k laion/CLIP-convnext_base_w_320-laion_aesthetic-s13B-b82K exact openai 320
convnext-base-w laion-aesthetic-s13b-b82k-augreg-320 convnext_base_w_320 laion_aesthetic_s13b_b82k_augreg laion/CLIP-convnext_base_w_320-laion_aesthetic-s13B-b82K-augreg exact openai 320
convnext-base-w laion2b-s13b-b82k convnext_base_w laion2b_s13b_b82k laion/CLIP-convnext_base_w-laion2B-s13B-b82K exact openai 256
convnext-base-w laion2b-s13b-b82k-augreg convnext_base_w laion2b_s13b_b82k_augreg laion/CLIP-convnext_base_w-laion2B-s13B-b82K-augreg exact openai 256
convnext-large-d laion2b-s26b-b102k-augreg convnext_large_d laion2b_s26b_b102k_augreg laion/CLIP-convnext_large_d.laion2B-s26B-b102K-augreg exact openai 256
convnext-large-d laion2b-s29b-b131k-ft-320 convnext_large_d_320 laion2b_s29b_b131k_ft laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft exact openai 320
convnext-large-d laion2b-s29b-b131k-ft-soup-320 convnext_large_d_320 laion2b_s29b_b131k_ft_soup laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup exact openai 320
vit-base-patch32 laion400m-e31 ViT-B-32 laion400m_e31 timm/vit_base_patch32_clip_224.laion400m_e31 quick openai 224
vit-base-patch32 laion400m-e32 ViT-B-32 laion400m_e32 timm/vit_base_patch32_clip_224.laion400m_e32 quick openai 224
vit-base-patch32 laion2b-e16 ViT-B-32 laion2b_e16 timm/vit_base_patch32_clip_224.laion2b_e16 exact openai 224
vit-base-patch32 laion2b-s34b-b79k ViT-B-32 laion2b_s34b_b79k laion/CLIP-ViT-B-32-laion2B-s34B-b79K exact openai 224
vit-base-patch32 datacomp-m-s128m-b4k ViT-B-32 datacomp_m_s128m_b4k laion/CLIP-ViT-B-32-DataComp.M-s128M-b4K exact openai 224
vit-base-patch32 datacomp-xl-s13b-b90k ViT-B-32 datacomp_xl_s13b_b90k laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K exact openai 224
vit-base-patch16 laion400m-e31 ViT-B-16 laion400m_e31 timm/vit_base_patch16_clip_224.laion400m_e31 exact openai 224
vit-base-patch16 laion400m-e32 ViT-B-16 laion400m_e32 timm/vit_base_patch16_clip_224.laion400m_e32 exact openai 224
vit-base-patch16 laion2b-s34b-b88k ViT-B-16 laion2b_s34b_b88k laion/CLIP-ViT-B-16-laion2B-s34B-b88K exact openai 224
vit-base-patch16 dfn2b ViT-B-16 dfn2b apple/DFN2B-CLIP-ViT-B-16 quick openai 224
vit-base-patch16 datacomp-xl-s13b-b90k ViT-B-16 datacomp_xl_s13b_b90k laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K exact openai 224
vit-large-patch14 laion400m-e31 ViT-L-14 laion400m_e31 timm/vit_large_patch14_clip_224.laion400m_e31 exact openai 224
vit-large-patch14 laion400m-e32 ViT-L-14 laion400m_e32 timm/vit_large_patch14_clip_224.laion400m_e32 exact openai 224
vit-large-patch14 laion2b-s32b-b82k ViT-L-14 laion2b_s32b_b82k laion/CLIP-ViT-L-14-laion2B-s32B-b82K exact half 224
vit-huge-patch14 laion2b-s32b-b79k ViT-H-14 laion2b_s32b_b79k laion/CLIP-ViT-H-14-laion2B-s32B-b79K exact openai 224
""".strip().splitlines()  # noqa: E501
]

# Parameters of the model, its image tower and its text tower.
PARAMETERS = {
    "convnext-base-w": (179_385_345, 88_221_824, 91_163_520),
    "convnext-base": (151_518_849, 88_090_752, 63_428_096),
    "convnext-large-d": (351_772_609, 199_770_816, 152_001_792),
    "vit-base-patch16": (149_620_737, 86_192_640, 63_428_096),
    "vit-base-patch32": (151_277_313, 87_849_216, 63_428_096),
    "vit-huge-patch14": (986_109_441, 632_076_800, 354_032_640),
    "vit-huge-patch16": (986_263_041, 632_230_400, 354_032_640),
    "vit-large-patch14": (427_616_513, 303_966_208, 123_650_304),
    "vit-large-patch16": (427_739_393, 304_089_088, 123_650_304),
    "vit-nano-patch32": (3_575_425, 304_192, 3_271_232),
    "vit-small-patch16": (62_257_537, 21_813_504, 40_444_032),
    "vit-small-patch32": (63_085_825, 22_641_792, 40_444_032),
}


def skeleton(config):
    return eqx.filter_eval_shape(config.build, key=jax.random.key(0))


def activations(config):
    """Of the transformers; a ConvNeXt has no choice."""
    towers = [config.text, config.image]
    return {tower.activation for tower in towers if not isinstance(tower, ConvNeXtConfig)}


def _pair(row):
    return f"{row.model}:{row.tag}"


@pytest.mark.parametrize(
    "row", [row for row in PRETRAINED if "SigLIP" in row.model or "CLIPA" in row.model], ids=_pair
)
def test_new_models_are_preprocessed_as_the_weights_of_their_name(row):
    assert model_config(row.model).preprocess == row.preprocess


@pytest.mark.parametrize("line", TABLE, ids=lambda line: f"{line[0]}:{line[1]}")
def test_row(line):
    name, tag, theirs, their_tag, repo, activation, statistics, size = line
    for spelling in ((name, tag), (theirs, their_tag), (name.upper(), their_tag), (theirs, tag)):
        if spelling[0] != name and tag.endswith("-320") and spelling[1] == tag:
            continue  # OpenCLIP says 320 in the model's name, we in the tag
        if spelling[0] == name.upper() and tag.endswith("-320"):
            continue
        assert find_pretrained(*spelling).tag == tag
    row = find_pretrained(name, tag)
    assert row.open_clip == (theirs, their_tag)
    assert row.repos == (repo,)
    config = row.config
    assert config.image.image_size == config.preprocess.image_size == int(size)
    assert (config.preprocess.mean, config.preprocess.std) == {"openai": OPENAI, "half": HALF}[
        statistics
    ]
    assert config.preprocess.interpolation == "bicubic"
    assert config.preprocess.resize_mode == "shortest"
    assert activations(config) == {{"exact": "gelu", "quick": "quick_gelu"}[activation]}
    assert (config.text.context_length, config.text.vocab_size) == (77, 49408)
    assert config.init_logit_bias is None


def test_lists_are_in_the_predecessors_order():
    assert len(TABLE) == 24 and len(eqx_clip.list_pretrained()) == 119
    predecessors = [(line[0], line[1]) for line in TABLE]
    assert [pair for pair in eqx_clip.list_pretrained() if pair in predecessors] == predecessors
    assert eqx_clip.list_models()[:12] == (
        "convnext-base-w",
        "convnext-base",
        "convnext-large-d",
        "vit-base-patch16",
        "vit-base-patch32",
        "vit-huge-patch14",
        "vit-huge-patch16",
        "vit-large-patch14",
        "vit-large-patch16",
        "vit-nano-patch32",
        "vit-small-patch16",
        "vit-small-patch32",
    )
    for name in {line[0] for line in TABLE}:  # the last is what `load` takes without a tag
        tags = tuple(line[1] for line in TABLE if line[0] == name)
        assert eqx_clip.list_pretrained_by_model(name)[-len(tags) :] == tags


def test_the_three_traps_of_the_predecessors_pairs():
    rows = [find_pretrained(line[0], line[1]) for line in TABLE]
    quick = {(row.model, row.tag) for row in rows if row.quick_gelu}
    assert quick == {
        ("vit-base-patch32", "laion400m-e31"),
        ("vit-base-patch32", "laion400m-e32"),
        ("vit-base-patch16", "dfn2b"),
    }
    half = {(row.model, row.tag) for row in PRETRAINED if row.preprocess.mean == (0.5, 0.5, 0.5)}
    siglip = {(row.model, row.tag) for row in PRETRAINED if "SigLIP" in row.model}
    assert len(siglip) == 26 and half == {("vit-large-patch14", "laion2b-s32b-b82k"), *siglip}
    for row in rows:
        wide = row.model in ("convnext-base-w", "convnext-large-d")
        size = (320 if row.tag.endswith("-320") else 256) if wide else 224
        assert row.preprocess.image_size == size


# Names


@pytest.mark.parametrize(
    "spelling, name",
    [
        ("ViT-B/32", "vit-base-patch32"),
        ("ViT-B-32", "vit-base-patch32"),
        ("vit_b_32", "vit-base-patch32"),
        ("vit_base_patch32", "vit-base-patch32"),
        (" ViT-Base-Patch32 ", "vit-base-patch32"),
        ("ViT-S-16", "vit-small-patch16"),
        ("ViT-L-14", "vit-large-patch14"),
        ("ViT-H-16", "vit-huge-patch16"),
        ("convnext_base", "convnext-base"),
        ("convnext_base_w", "convnext-base-w"),
        ("vit-eps-patch32", "vit-nano-patch32"),
    ],
)
def test_other_spellings(spelling, name):
    assert find_model(spelling).model == name
    assert model_config(spelling) == MODELS[name]


def test_spellings_that_change_the_model():
    quick = model_config("ViT-B-32-quickgelu")
    assert quick == MODELS["vit-base-patch32"].with_quick_gelu()
    assert activations(quick) == {"quick_gelu"}
    for name, size in (("convnext_base_w_320", 320), ("convnext_large_d_320", 320)):
        config = model_config(name)
        assert config.image.image_size == config.preprocess.image_size == size
        assert config == MODELS[find_model(name).model].resize(size)


def test_every_alias_is_of_a_model_and_every_model_has_its_own_name():
    assert {alias.model for alias in ALIASES.values()} <= set(MODELS)
    assert all(find_model(name).model == name for name in MODELS)


def test_weights_under_openclips_names():
    # OpenCLIP builds `ViT-B-32` of these with the wrong activation; ours follows the weights.
    for name in ("ViT-B-32", "ViT-B-32-quickgelu", "vit-base-patch32"):
        assert find_pretrained(name, "laion400m_e32").quick_gelu
    assert not find_pretrained("ViT-B-32", "laion2b_s34b_b79k").quick_gelu
    assert eqx_clip.list_pretrained_by_model("ViT-B-32-quickgelu") == (
        *("openai", "metaclip-400m", "metaclip-fullcc", "laion400m-e31", "laion400m-e32"),
    )
    # One tag of OpenCLIP's is two sets of weights, told apart by the name.
    for name, tag in (
        ("convnext_base_w", "laion-aesthetic-s13b-b82k"),
        ("convnext_base_w_320", "laion-aesthetic-s13b-b82k-320"),
    ):
        assert find_pretrained(name, "laion_aesthetic_s13b_b82k").tag == tag


def test_without_a_tag_the_last_listed():
    for name, tag in (
        ("vit-base-patch32", "datacomp-xl-s13b-b90k"),
        ("vit-base-patch16", "datacomp-xl-s13b-b90k"),
        ("ViT-B-16-quickgelu", "dfn2b"),
        ("vit-large-patch14", "laion2b-s32b-b82k"),
        ("convnext_base_w_320", "laion-aesthetic-s13b-b82k-augreg-320"),
    ):
        assert find_pretrained(name).tag == tag == eqx_clip.list_pretrained_by_model(name)[-1]


@pytest.mark.parametrize(
    "name, tag, words",
    [
        ("vit-base-patch23", None, r"Unknown model 'vit-base-patch23'\. Did you mean 'vit-base-pa"),
        ("ViT-B-23", None, r"Did you mean 'ViT-B-\d+'\?"),
        (
            "resnet",
            None,
            r"Unknown model 'resnet'\..*`eqx_clip\.list_models\(\)` lists the \d+ models",
        ),
        ("vit-base-patch32", "laion2b_s34b_b79", r"Did you mean 'laion2b-s34b-b79k'\?"),
        (
            "vit-base-patch32",
            "opnai",
            r"Unknown weights 'opnai' of 'vit-base-patch32'\. Did you mean 'openai'\?",
        ),
        ("vit-base-patch16", "laion2b-s34b-b79k", r"Did you mean 'laion2b-s34b-b88k'\?"),
        (
            "ViT-B-32-quickgelu",
            "laion2b_s34b_b79k",
            r"Weights of this model: openai, metaclip-400m",
        ),
    ],
)
def test_unknown_names_and_tags_are_refused_with_the_nearest(name, tag, words):
    with pytest.raises(ValueError, match=words):
        find_pretrained(name, tag)


@pytest.mark.parametrize("name", ["vit-small-patch32", "vit-nano-patch32", "ViT-e-14"])
def test_a_model_without_weights(name):
    words = rf"no pretrained weights of {name!r}.*`eqx_clip\.create\(name, key=\.\.\.\)`"
    with pytest.raises(ValueError, match=words):
        eqx_clip.load(name)
    assert eqx_clip.list_pretrained_by_model(name) == ()


def test_list_of_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match="Did you mean"):
        eqx_clip.list_pretrained_by_model("vit-base-patch23")


# What OpenCLIP has and eqx_clip has not, yet

NOT_LISTED = [pair for pair in open_clip_pairs() if not is_model(pair.model)]


def test_every_pair_that_openclip_lists_and_we_do_not_is_said_to_be_so():
    assert len(open_clip_pairs()) == 196 and len(NOT_LISTED) == 196 - 146
    for pair in NOT_LISTED:
        for spelling in (pair.model, pair.model.lower().replace("-", "_")):
            with pytest.raises(ValueError) as info:
                eqx_clip.load(spelling, pair.tag)
            words = str(info.value)
            assert f"OpenCLIP has the pair {pair.model!r}, {pair.tag!r}" in words
            assert "Unknown" not in words and "Did you mean" not in words
            assert f"does not build its family, {pair.family}, yet" in words


@pytest.mark.parametrize(
    "name, tag, pair",
    [
        ("EVA02-B-16", None, "'EVA02-B-16', 'merged2b_s8b_b131k'"),
        ("coca_ViT-B-32", "mscoco_finetuned_laion2b_s13b_b90k", "'coca_ViT-B-32', 'mscoco_finetun"),
        ("MobileCLIP-S1", None, "'MobileCLIP-S1', 'datacompdr'"),
        ("ViTamin-B", "datacomp", "'ViTamin-B', 'datacomp1b'"),
    ],
)
def test_other_spellings_of_openclips_pairs(name, tag, pair):
    with pytest.raises(ValueError, match=f"OpenCLIP has the pair {pair}"):
        eqx_clip.load(name, tag)


def test_a_model_of_openclips_is_said_to_be_so_wherever_a_name_is_taken():
    for call in (
        lambda: eqx_clip.create("PE-Core-B-16", key=jax.random.key(0)),
        lambda: eqx_clip.list_pretrained_by_model("PE-Core-B-16"),
        lambda: eqx_clip.from_state_dict("PE-Core-B-16", {}),
        lambda: eqx_clip.CLIPInference("PE-Core-B-16"),
        lambda: eqx_clip.load("PE-Core-B-16", "weights.safetensors"),
    ):
        with pytest.raises(ValueError, match="does not build its family, PE-Core, yet"):
            call()


@pytest.mark.parametrize(
    "name",
    [
        *("siglip-base-patch16-224", "vit_base_patch16_siglip_224"),
        *("deit-base-patch16", "beit_base_patch16_224", "dinov2-base", "resnet50", "swin_base"),
        *("EVA03-B-16", "ViTamin-B-32", "MobileCLIP-B-16", "coca-ViT-B-16", "xlm-vit-base-patch32"),
        *("", "32", "???", "x" * 10_000),
    ],
)
def test_no_name_of_another_family_is_suggested(name):
    with pytest.raises(ValueError) as info:
        eqx_clip.load(name)
    assert "Did you mean" not in str(info.value) and len(str(info.value)) < 1500


@pytest.mark.parametrize(
    "name, nearest",
    [
        ("vti-base-patch32", "vit-base-patch32"),
        ("vit-bsae-patch-16", "vit-base-patch16"),
        ("VIT_BASE_PATCH32x", "vit-base-patch32"),
        ("convnxt-base", "convnext.base"),
        ("ViT-B-16-SigLIP3", "ViT-B-16-SigLIP"),
        ("ViT-H-14-wordwide", "ViT-H-14-worldwide"),
        ("ConvNeXt_Large_e", "convnext.large.d"),
    ],
)
def test_the_nearest_name_of_the_same_family_is_suggested(name, nearest):
    with pytest.raises(ValueError, match=rf"Did you mean '{nearest}'\?"):
        eqx_clip.load(name)


@pytest.mark.parametrize(
    "source, words",
    [
        (
            "openai/clip-vit-base-patch32",
            r"`eqx_clip\.load\('hf-hub:openai/clip-vit-base-patch32'\)` loads a repository",
        ),
        (
            "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
            r"`eqx_clip\.load\('vit-base-patch32', 'laion2b-s34b-b79k'\)`.*"
            r"`eqx_clip\.load\('hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K'\)`",
        ),
        (
            "laion/CLIP-ViT-g-14-laion2B-s12B-b42K",
            r"repository of the hub, and registered: .*'ViT-g-14', 'laion2b-s12b-b42k'",
        ),
        ("timm/ViT-B-16-SigLIP", r"registered: .*eqx_clip\.load\('ViT-B-16-SigLIP', 'webli'\)"),
        (
            "jienengchen/ViTamin-B",
            "repository of the hub.* does not build its family, ViTamin, yet",
        ),
        (
            "me/my-clip",
            r"no registered model and no folder.*`eqx_clip\.load\('hf-hub:me/my-clip'\)` loads a "
            "repository in OpenCLIP's format, or in that of transformers",
        ),
    ],
)
def test_a_repository_is_answered_with_what_loads_it(no_network, source, words):
    for tag in (None, "main"):
        with pytest.raises(ValueError, match=words):
            eqx_clip.load(source, tag)


# Architectures, without weights


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_and_names_of_every_leaf(name):
    model = skeleton(MODELS[name])
    counts = [
        sum(leaf.size for leaf in jax.tree.leaves(tree))
        for tree in (model, model.image, model.text)
    ]
    assert tuple(counts) == PARAMETERS[name]
    rows = list(entries(model, OPEN_CLIP.table(model)))
    assert [row.leaf for row in rows] == jax.tree.leaves(model)
    tensors = [tensor for row in rows for tensor in row.tensors]
    assert len(tensors) == len(set(tensors))
    assert not any("{" in tensor for tensor in tensors)
    # A name in the table that no leaf uses stands for one that this model does without.
    used = {re.sub(r"\.resblocks\.\d+|\.blocks\.\d+", "", tensor) for tensor in tensors}
    spare = {
        theirs
        for row in OPEN_CLIP.table(model).values()
        for theirs in row.tensors
        if re.sub(r"\.resblocks\.\{i\}|\.blocks\.\{i\}", "", theirs) not in used
    }
    spare -= {"logit_bias"}
    image = MODELS[name].image
    if isinstance(image, ViTConfig):
        assert not spare
    else:
        linear, mlp = (
            {"visual.head.proj.weight"},
            {f"visual.head.mlp.{part}" for part in ("fc1.weight", "fc1.bias", "fc2.weight")},
        )
        first = {
            f"visual.trunk.stages.0.downsample.{part}"
            for part in ("0.weight", "0.bias", "1.weight", "1.bias")
        }
        assert spare == first | (mlp if image.head == "linear" else linear)


@pytest.mark.parametrize("name", PARAMETERS)
def test_nothing_fits_but_every_tensor(name):
    model = skeleton(MODELS[name])
    zero = np.zeros((), np.float32)  # of every shape, and of no size
    tensors = {
        tensor: np.broadcast_to(zero, shape)
        for row in entries(model, OPEN_CLIP.table(model))
        for tensor, shape in row.shapes.items()
    }
    first = sorted(tensors)[0]
    without_first = {tensor: value for tensor, value in tensors.items() if tensor != first}
    for wrong in (without_first, {**tensors, "other": zero}, {}):
        with pytest.raises(ValueError, match="does not fit"):
            fill(model, OPEN_CLIP.table(model), wrong)
