"""Files of torch's, read without torch: what is in them to the bit."""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from folders import CONFIG, NANO, WEIGHTS
from helpers import TINY_VIT, bitwise_equal, tiny
from oracle import open_clip, torch
from torch_files import module, read

import eqx_clip
from eqx_clip.checkpoints.files.torch_zip import TorchFile


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pt"


def bits(tensor):
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(jnp.bfloat16)
    return tensor.numpy()


def check_same(path, expected, part=None):
    ours = read(path, part)
    assert list(ours) == list(expected)
    for name, tensor in expected.items():
        theirs = bits(tensor)
        assert ours[name].dtype == theirs.dtype and ours[name].shape == theirs.shape, name
        assert ours[name].tobytes() == theirs.tobytes(), name


TYPES = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool".split()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_equal_to_torch_to_the_bit(path, protocol):
    torch.manual_seed(0)
    base = torch.randn(5, 7)
    tensors = {
        **{name: (10 * torch.randn(3, 4)).to(getattr(torch, name)) for name in TYPES},
        "view": base[1:3, 2:],
        "row": base[4],
        "transposed": base.T,
        "permuted": torch.randn(2, 3, 4).permute(2, 0, 1),
        "step": base[::2, ::3],
        "column": base[:, 3:4],
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "scalar": torch.tensor(2.7),
        "scalar of a view": base[1, 1],
        "tied": base,
        "empty": torch.zeros(0, 3),
        "expanded": torch.randn(3, 1).expand(3, 4),
        "nän": torch.tensor([float("nan"), -0.0, float("inf")]),
    }
    torch.save(tensors, path, pickle_protocol=protocol)
    # torch warns of every protocol but its own
    check_same(path, torch.load(path, weights_only=True) if protocol == 2 else tensors)


def test_reads_a_stream_of_another_folder_and_more_than_is_mapped_at_once(path, monkeypatch):
    monkeypatch.setattr("eqx_clip.checkpoints.files.torch_zip.MAPPED", 100)
    tensors = {f"block.{i}.weight": torch.randn(8, 8) for i in range(300)}
    with path.open("wb") as file:
        torch.save(tensors, file)
    check_same(path, tensors)


def test_arrays_cannot_be_written_to_and_outlive_the_file(path):
    torch.save({"x": torch.ones(3)}, path)
    with TorchFile(path) as tensors:
        x = tensors["x"]
        with pytest.raises(KeyError):
            tensors["y"]
        assert "x" in tensors and "y" not in tensors and len(tensors) == 1
    assert not x.flags.writeable and x.tolist() == [1, 1, 1]


def training_checkpoint():
    model = module()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 3)).sum().backward()
    optimizer.step()
    return {
        "epoch": 3,
        "name": "run",
        "args": argparse.Namespace(rate=0.1, names={("a", ("b",)): {1, 2}, 0.5: b"x"}),
        "metric": np.float64(3),
        "optimizer": optimizer.state_dict(),
        "state_dict": model.state_dict(),
    }


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", ["state_dict", "model", "model_state_dict"])
def test_reads_the_weights_of_a_training_checkpoint(path, name, protocol):
    checkpoint = training_checkpoint()
    weights = checkpoint.pop("state_dict")
    torch.save({**checkpoint, name: weights}, path, pickle_protocol=protocol)
    check_same(path, weights)
    torch.save({"model": {"state_dict": weights}}, path)
    check_same(path, weights)
    assert not TorchFile(path).note


def test_a_moving_average_is_told_and_chosen_by_its_name(path):
    weights = module().state_dict()
    average = {name: tensor + 1 for name, tensor in weights.items()}
    torch.save({**training_checkpoint(), "state_dict": weights, "state_dict_ema": average}, path)
    check_same(path, weights)
    assert "load(..., part='state_dict_ema')" in TorchFile(path).note
    check_same(path, average, "state_dict_ema")
    assert not TorchFile(path, "state_dict_ema").note
    torch.save({"ema": average}, path)
    check_same(path, average)
    assert "only a moving average, 'ema'" in TorchFile(path).note
    with pytest.raises(ValueError, match=r"no state dict 'model'; .*'ema'"):
        TorchFile(path, "model")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_reads_torchscript_archives(path):
    class Shapes(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.sizes = module(), [1, 2]
            self.parts = torch.nn.ModuleList([torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)])
            self.parts[1].weight = self.parts[0].weight

        def forward(self, x):
            return self.parts[1](self.parts[0](self.body(x)))

    model = Shapes().eval().half().float()
    torch.jit.save(torch.jit.trace(model, torch.zeros(2, 3)), path)
    weights = torch.jit.load(path).state_dict()
    ours = read(path)
    assert set(ours) == set(weights)
    for name, tensor in weights.items():
        assert ours[name].tobytes() == bits(tensor).tobytes(), name


# The same model in every form of torch's.


@pytest.fixture(scope="module")
def weights():
    tensors = eqx_clip.to_state_dict(tiny())
    return {name: torch.tensor(array) for name, array in tensors.items()}


@pytest.mark.parametrize("form", ["plain", "training", "half", "openai"])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
def test_loads_the_same_model_from_any_form(model, folder, weights, form, suffix):
    extra = {"input_resolution": torch.tensor(32), "transformer.attn_mask": torch.zeros(2, 2)}
    forms = {
        "plain": lambda: weights,
        "training": lambda: {
            "epoch": 1,
            "state_dict": {f"module.{k}": x for k, x in weights.items()},
        },
        "half": lambda: {name: tensor.half() for name, tensor in weights.items()},
        "openai": lambda: {**weights, **extra},
    }
    path = (folder / "open_clip_pytorch_model").with_suffix(suffix)
    torch.save(forms[form](), path)
    (folder / WEIGHTS).unlink()
    expected = model
    if form == "half":
        half = {name: np.asarray(x.half()) for name, x in weights.items()}
        expected = eqx_clip.from_state_dict(TINY_VIT_CONFIG, half, dtype=jnp.float32)
    assert bitwise_equal(eqx_clip.load(folder), expected)


TINY_VIT_CONFIG = {"model_cfg": TINY_VIT}


def test_safetensors_are_preferred(model, folder):
    torch.save({"x": torch.zeros(1)}, folder / "open_clip_pytorch_model.bin")
    assert bitwise_equal(eqx_clip.load(folder), model)


def test_loads_a_file_as_a_named_architecture(nano, tmp_path):
    path = tmp_path / "epoch_3.pt"
    torch.save({k: torch.tensor(x) for k, x in eqx_clip.to_state_dict(nano).items()}, path)
    assert bitwise_equal(eqx_clip.load(NANO, path), nano)
    assert bitwise_equal(eqx_clip.load(NANO, str(path)), nano)
    assert bitwise_equal(eqx_clip.load(path), nano)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_loads_a_traced_model_of_openclip(folder, model, weights):
    theirs = open_clip.model.CLIP(**TINY_VIT).eval()
    theirs.load_state_dict(weights)
    examples = torch.zeros(1, 3, 48, 32), torch.zeros(1, 13, dtype=torch.int64)
    traced = torch.jit.trace(theirs, examples, check_trace=False)
    (folder / WEIGHTS).unlink()
    torch.jit.save(traced, folder / "ViT.pt")
    assert (folder / CONFIG).exists()
    assert bitwise_equal(eqx_clip.load(folder), model)


def test_leaves_keep_their_place_on_a_device(nano, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({k: torch.tensor(x) for k, x in eqx_clip.to_state_dict(nano).items()}, path)
    device = jax.devices()[0]
    loaded = eqx_clip.load(NANO, path, dtype=jnp.bfloat16, device=device)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(loaded)} == {"bfloat16"}
