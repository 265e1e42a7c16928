"""SigLIP in the format of transformers, compared with transformers itself."""

import json

import numpy as np
import pytest
import small_tokenizers
from helpers import TINY_SIGLIP, TINY_SIGLIP2, bitwise_equal, tiny
from oracle import open_clip, torch
from test_json_tokenizers import ODD
from test_tokenizer import fuzzed_captions
from transformers_models import error, load_strictly, picture, preprocess_of, with_noise

import eqx_clip
from eqx_clip import Preprocess


transformers = pytest.importorskip("transformers")

SPREAD = 0.35  # with less, attention is flat, and little would be compared
VOCABULARY = 900


def part(width, hidden, depth, heads, act, eps, **others):
    return {
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "hidden_act": act,
        "layer_norm_eps": eps,
        **others,
    }


# Of images and texts: their towers are not equally wide, but where one has no size of its own.
SIZES = {
    "small": (
        part(40, 135, 3, 4, "gelu_pytorch_tanh", 1e-6, image_size=48, patch_size=8),
        part(24, 64, 2, 3, "gelu_pytorch_tanh", 1e-6, max_position_embeddings=13),
    ),
    "odd": (  # four pixels are not seen
        part(24, 97, 2, 3, "gelu", 1e-3, image_size=60, patch_size=14),
        part(40, 101, 1, 5, "gelu_pytorch_tanh", 1e-5, max_position_embeddings=7),
    ),
    "one": (
        part(64, 96, 1, 1, "gelu_pytorch_tanh", 1e-6, image_size=16, patch_size=16),
        part(64, 256, 3, 2, "gelu", 1e-6, max_position_embeddings=64),
    ),
}


def oracle_model(name, dtype=torch.float32):
    vision, text = SIZES[name]
    if text["hidden_size"] != vision["hidden_size"]:
        text = {**text, "projection_size": vision["hidden_size"]}
    torch.manual_seed(0)
    ids = {"bos_token_id": None, "eos_token_id": 1}
    config = transformers.SiglipConfig(
        vision_config=vision, text_config={**text, **ids, "vocab_size": VOCABULARY}
    )
    return with_noise(transformers.SiglipModel(config), dtype, SPREAD)


def save_oracle(model, folder, **options):
    model.save_pretrained(folder, **options)
    size = model.config.vision_config.image_size
    processor = transformers.models.siglip.SiglipImageProcessorPil(
        size={"height": size, "width": size}
    )
    processor.save_pretrained(folder)
    return folder


def error_of(ours, oracle):
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (4, ours.text.config.context_length))
    ids[:2, 3:] = 1  # padding counts
    return error(ours, oracle, ids.astype(np.int32))


@pytest.mark.parametrize("name", SIZES)
def test_features_are_those_of_transformers_in_float64(name, tmp_path, x64):
    oracle = oracle_model(name, torch.float64)
    ours = eqx_clip.load(save_oracle(oracle, tmp_path), dtype="float64")
    assert error_of(ours, oracle) < 1e-10


@pytest.mark.parametrize("name", SIZES)
def test_features_are_those_of_transformers_in_float32(name, tmp_path):
    oracle = oracle_model(name)
    assert error_of(eqx_clip.load(save_oracle(oracle, tmp_path)), oracle) < 2e-5


@pytest.mark.parametrize("name", SIZES)
def test_what_is_saved_transformers_loads_to_the_same_bits(name, tmp_path):
    oracle = oracle_model(name)
    ours = eqx_clip.load(save_oracle(oracle, tmp_path / "theirs"))
    eqx_clip.save(ours, tmp_path / "ours", format="transformers")
    assert bitwise_equal(eqx_clip.load(tmp_path / "ours"), ours)
    again = load_strictly(transformers.SiglipModel, tmp_path / "ours", oracle.state_dict())
    assert error_of(ours, again) < 2e-5


@pytest.mark.parametrize("config", [TINY_SIGLIP, TINY_SIGLIP2], ids=["siglip", "siglip 2"])
def test_openclip_and_transformers_read_one_model_alike(config, tmp_path):
    text = {**config["text_cfg"], "vocab_size": VOCABULARY}
    model = tiny({**config, "text_cfg": text})
    eqx_clip.save(model, tmp_path, format="transformers")
    oracle = transformers.SiglipModel.from_pretrained(tmp_path).eval()
    assert error_of(model, oracle) < 2e-5


@pytest.mark.parametrize("shards", [1, 2])
def test_files_of_torchs_are_read_where_there_are_no_safetensors(shards, tmp_path):
    oracle = oracle_model("small")
    folder = save_oracle(oracle, tmp_path)
    expected = eqx_clip.load(folder)
    (folder / "model.safetensors").unlink()
    tensors = [*oracle.state_dict().items()]
    # Of old files: numbers that are no weights.
    tensors.append(("text_model.embeddings.position_ids", torch.arange(13)[None]))
    names = {}
    for number in range(shards):
        shard = dict(tensors[number::shards])
        file = "pytorch_model.bin" if shards == 1 else f"pytorch_model-{number}.bin"
        torch.save(shard, folder / file)
        names |= dict.fromkeys(shard, file)
    if shards > 1:
        index = json.dumps({"metadata": {}, "weight_map": names})
        (folder / "pytorch_model.bin.index.json").write_text(index)
    assert bitwise_equal(eqx_clip.load(folder), expected)
    (folder / "model.safetensors").write_bytes(b"")  # which come first
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        eqx_clip.load(folder)


# Images


@pytest.mark.parametrize("resample", [2, 3])
@pytest.mark.parametrize("size", [(64, 48), (33, 32), (100, 37), (32, 32), (20, 25), (7, 90)])
def test_pixels_are_those_of_transformers_processor(size, resample, tmp_path):
    theirs = transformers.models.siglip.SiglipImageProcessorPil(
        size={"height": 32, "width": 32}, resample=resample
    )
    theirs.save_pretrained(tmp_path)
    ours, image = preprocess_of(tmp_path, "siglip", 32), picture(*size)
    expected = theirs(image, return_tensors="np")["pixel_values"][0]
    assert np.abs(ours(image) - expected).max() < 1e-6


@pytest.mark.parametrize(
    "ours",
    [
        Preprocess(48, 0.5, 0.5, resize_mode="squash"),
        Preprocess(48, (0.4, 0.5, 0.6), 0.3, "bilinear", "squash"),
        Preprocess(48),
    ],
)
def test_the_image_processor_that_is_written_gives_our_pixels(ours, tmp_path):
    model = tiny(TINY_SIGLIP)
    object.__setattr__(model, "preprocess", ours)
    eqx_clip.save(model, tmp_path, format="transformers")
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    image = picture(100, 52)
    expected = theirs(image, return_tensors="np")["pixel_values"][0]
    assert np.abs(ours(image) - expected).max() < 1e-6


# Texts


@pytest.mark.parametrize("kind", ["t5", "gemma"])
def test_ids_are_those_of_openclip_and_of_transformers(kind, tmp_path):
    """Of both on any text; of transformers where it has nothing to clean."""
    oracle = oracle_model("small")
    folder = small_tokenizers.write(kind, save_oracle(oracle, tmp_path))
    model = eqx_clip.load(folder)
    texts = [*fuzzed_captions(21, 100), *small_tokenizers.corpus(3, 100), *ODD]
    openclip = open_clip.tokenizer.HFTokenizer(str(folder), context_length=13, clean="canonicalize")
    assert (model.tokenize(texts) == openclip(texts).numpy()).all()
    plain = ["a photo of the small red cat", "two dogs", "word " * 40]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(plain, padding="max_length", max_length=13, truncation=True)["input_ids"]
    assert model.tokenize(plain).tolist() == ids
