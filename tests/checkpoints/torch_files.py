"""Small files of torch's, and what chance makes of them."""

import argparse
import io
import random
import warnings
import zipfile

from oracle import torch

from eqx_clip.checkpoints.files.torch_zip import TorchFile


# What a hostile pickle would hold in the place of something else.
GRAFTS = (
    b"cos\nsystem\n",
    b"cbuiltins\neval\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ccollections\nOrderedDict\n",
    b"c__torch__.x\nM\n",
    b"X\4\0\0\0echo\x85R",
    b"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x8a\xff",
    b"J\xff\xff\xff\xff",
    b"X\xff\xff\xff\x7f",
    b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"r\xff\xff\xff\xff",
    b"(((((((",
    b"\x85" * 50,
    b"2\x86" * 50,
    *(bytes([code]) for code in b"()}]tNRbQ.h2sueloi0\x81\x85\x86\x87\x88\x93\x94"),
)


def read(path, part=None):
    with TorchFile(path, part) as tensors:
        assert all(tensors.shape(name) == tensors[name].shape for name in tensors)
        return {name: tensors[name].copy() for name in tensors}


def module():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Tanh())


def small_files(folder) -> list[bytes]:
    """A state dict, a training checkpoint, and a TorchScript archive."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    views = {"a": torch.randn(3, 4).T, "b": torch.randn(4).bfloat16()[1:], "c": torch.tensor(True)}
    training = {
        "args": argparse.Namespace(a=1),
        "state_dict": model.state_dict(),
        "optimizer": torch.optim.AdamW(model.parameters()).state_dict(),
    }
    files = []
    for content, protocol in ((views, 2), (views, 4), (training, 2)):
        file = io.BytesIO()
        torch.save(content, file, pickle_protocol=protocol)
        files.append(file.getvalue())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model.eval(), torch.zeros(1, 3))
        torch.jit.save(traced, folder / "traced.pt")
    return [*files, (folder / "traced.pt").read_bytes()]


def mutants(files: list[bytes], *, seed: int, count: int):
    """Files with some bytes changed, in the pickle, the zip's own fields, or anywhere."""
    rng = random.Random(seed)
    kinds = [(file, _pickle(file)) for file in files]
    for _ in range(count):
        file, (start, end) = rng.choice(kinds)
        where = rng.random()
        if where < 0.6:  # the pickle at its own length, so that the archive stays whole
            changed = _mutated(file[start:end], rng)
            changed = changed[: end - start].ljust(end - start, b".")
            yield file[:start] + changed + file[end:]
        elif where < 0.8:  # the directory
            at = file.index(b"PK\1\2")
            yield file[:at] + _mutated(file[at:], rng)
        else:
            yield _mutated(file, rng)


def _pickle(file: bytes) -> tuple[int, int]:
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        content = archive.read(name)
    start = file.index(content)
    return start, start + len(content)


def _mutated(data: bytes, rng: random.Random) -> bytes:
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        at = rng.randrange(len(result) or 1)
        change = rng.randrange(7)
        if change == 0:
            result[at : at + 1] = bytes([rng.randrange(256)])
        elif change == 1:
            result[at : at + rng.choice((1, 4, 50))] = b""
        elif change == 2:  # something else in its place
            graft = rng.choice(GRAFTS)
            result[at : at + len(graft)] = graft
        elif change == 3:
            result[at:at] = rng.choice(GRAFTS)
        elif change == 4:  # of another place
            size, other = rng.randrange(1, 40), rng.randrange(len(result) or 1)
            result[at : at + size] = result[other : other + size]
        elif change == 5:
            size = rng.choice((1, 2, 4, 8))
            result[at : at + size] = rng.choice((b"\xff", b"\0", b"\x7f", b"\x80")) * size
        elif rng.random() < 0.1:
            del result[at:]
    return bytes(result)
