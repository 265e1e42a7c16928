"""Files of torch's that are damaged, hostile, or no state dict: what is said of each."""

import os
import pickle
import zipfile

import pytest
from oracle import torch
from torch_files import module, mutants, read, small_files

from eqx_clip.checkpoints.files.torch_zip import TorchFile


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pt"


class Bomb:
    """What opens its pickle makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_is_run(path, tmp_path):
    bomb = Bomb(tmp_path / "exploded")
    for content in (bomb, {"x": torch.ones(2), "y": bomb}, {"state_dict": bomb}, [bomb]):
        torch.save(content, path)
        with pytest.raises(ValueError, match=r"mkdir|a list, and no state dict"):
            TorchFile(path)
    torch.save({"args": bomb, "state_dict": {"x": torch.ones(2)}}, path)
    assert read(path)["x"].tolist() == [1, 1]
    assert not (tmp_path / "exploded").exists()


def quantized():
    return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "content, words",
    [
        (module, r"whole object, 'torch\.nn\.modules\.container\.Sequential'.*state_dict\(\)"),
        (lambda: {"model": module()}, "whole object, 'torch.nn"),
        (lambda: torch.ones(2), "a tensor without a name, and no state dict"),
        (lambda: {"visual": {"x": torch.ones(1)}}, "'visual' is a dictionary of 1: 'x'"),
        (lambda: {"epoch": 1}, "holds no tensors by their names"),
        (lambda: {0: torch.ones(1)}, "0 is a tensor without a name"),
        (lambda: {"x": torch.ones(2).to_sparse()}, "_rebuild_sparse_tensor"),
        (quantized, "_rebuild_qtensor"),
        (lambda: {"x": torch.ones(2).to(torch.float8_e4m3fn)}, r"_rebuild_tensor_v3.*state_dict"),
        (lambda: {"x": torch.ones(2, dtype=torch.complex64)}, "ComplexFloatStorage.*convert it"),
        (lambda: {"x": torch.ones(2, dtype=torch.complex64).conj().imag}, "_rebuild_tensor_v2"),
        (lambda: {"x": torch.ones(1).expand(10**12)}, r"more elements than the file\. `tensor.cl"),
    ],
)
def test_what_is_no_plain_state_dict_is_refused_with_the_remedy(path, content, words):
    torch.save(content(), path)
    with pytest.raises(ValueError, match=words):
        TorchFile(path)


def test_old_formats_are_refused(path):
    torch.save({"x": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"before 1\.6\. Where torch is, write it again: `torch\."):
        TorchFile(path)
    path.write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises(ValueError, match="a bare pickle, which is never run"):
        TorchFile(path)
    path.write_bytes(b"\0" * 257 + b"ustar")
    with pytest.raises(ValueError, match="torch's first format, a tar"):
        TorchFile(path)
    for content in (b"", b"x" * 999):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"not the zip archive that torch\.save writes"):
            TorchFile(path)
    path.unlink()
    with pytest.raises(OSError):
        TorchFile(path)


def rewrite(path, edit, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    edit(members)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    "edit, words",
    [
        (lambda x: x.pop("weights/data/0"), "numbers, 'weights/data/0', are missing"),
        (lambda x: x.update({"weights/data/0": b"1234567"}), "2 elements, and its member 7 bytes"),
        (lambda x: x.update({"weights/byteorder": b"big"}), "another byte order, b'big'"),
        (lambda x: x.pop("weights/data.pkl"), "0 `data.pkl`"),
        (lambda x: x.update({"b/data.pkl": b""}), "2 `data.pkl`"),
        (lambda x: x.update({"weights/data.pkl": b"\x80\x02}"}), "ends early, at byte 3 .*again"),
        (lambda x: x.update({"weights/data.pkl": b"}" * 2**12}), "more than 3,000 steps"),
    ],
)
def test_damaged_archives_are_refused(path, edit, words, monkeypatch):
    monkeypatch.setattr("eqx_clip.checkpoints.files.torch_pickle.MOST_STEPS", 3000)
    torch.save({"x": torch.ones(2)}, path)
    rewrite(path, lambda members: None)
    assert read(path)["x"].tolist() == [1, 1]
    rewrite(path, edit)
    with pytest.raises(ValueError, match=words):
        TorchFile(path)


def test_compressed_and_encrypted_members_are_refused(path):
    torch.save({"x": torch.ones(2)}, path)
    plain = path.read_bytes()
    rewrite(path, lambda members: None, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"is compressed: unpack it, and zip it by `zip -0"):
        TorchFile(path)
    at = plain.index(b"PK\1\2") + 8
    path.write_bytes(plain[:at] + b"\1" + plain[at + 1 :])
    with pytest.raises(ValueError, match="is encrypted"):
        TorchFile(path)


def test_a_file_that_is_cut_short_is_refused(path):
    torch.save({"x": torch.ones(2), "y": torch.ones(3).half()}, path)
    plain = path.read_bytes()
    for size in range(0, len(plain), 7):
        path.write_bytes(plain[:size])
        with pytest.raises(ValueError):
            TorchFile(path)


def test_a_file_that_is_replaced_while_it_is_read_is_refused(path, monkeypatch):
    monkeypatch.setattr("eqx_clip.checkpoints.files.torch_zip.MAPPED", 0)
    torch.save({"x": torch.ones(2)}, path)
    with TorchFile(path) as tensors:
        assert tensors["x"].tolist() == [1, 1]
        path.unlink()
        torch.save({"x": torch.ones(200)}, path)
        with pytest.raises(ValueError, match="was replaced while it was read"):
            tensors["x"]


def test_names_that_repeat_without_end_are_refused(path):
    """Modules that each hold the next one twice, which stand for 2^60 tensors."""
    program = b"c__torch__\nM\n)\x81}(X\1\0\0\0xNub"
    for _ in range(60):
        program = b"c__torch__\nM\n)\x81}(X\1\0\0\0aVALUEX\1\0\0\0bh\0ub".replace(
            b"VALUE", program + b"q\0"
        )
    torch.save({"x": torch.ones(2)}, path)
    rewrite(path, lambda members: members.update({"weights/data.pkl": b"\x80\2" + program + b"."}))
    with pytest.raises(ValueError, match="nested without end"):
        TorchFile(path)


_MODULE = b"c__torch__\nM\n)\x81}"


@pytest.mark.parametrize(
    "program",
    [
        b"N" + b"\x85" * 3000,
        b"]" * 3000 + b"a" * 2999,
        b"}K\1" * 3000 + b"N" + b"s" * 3000,
        b"}N" + b"\x85" * 3000 + b"Ns",  # a tuple of tuples as a key, whose hash would recur
        (_MODULE + b"X\1\0\0\0a") * 3000 + b"N" + b"sb" * 3000,
        b"}X\5\0\0\0model" * 3000 + b"N" + b"s" * 3000,
        b"}q\0X\5\0\0\0modelh\0s",  # which holds itself
        b"c__torch__\nM\n)\x81q\0}X\1\0\0\0ah\0sb",
    ],
)
def test_what_is_nested_without_end_is_refused(path, program):
    torch.save({"x": torch.ones(2)}, path)
    rewrite(path, lambda members: members.update({"weights/data.pkl": b"\x80\2" + program + b"."}))
    with pytest.raises(ValueError, match=r"no state dict|nested without end"):
        TorchFile(path)


def test_mutated_files_are_read_or_refused(tmp_path):
    counts = {"read": 0, "refused": 0}
    for i, content in enumerate(mutants(small_files(tmp_path), seed=0, count=2000)):
        path = tmp_path / "mutant.pt"
        path.write_bytes(content)
        try:
            read(path)
            counts["read"] += 1
        except (ValueError, OSError) as error:
            counts["refused"] += 1
            assert len(str(error)) < 2000, i
    assert min(counts.values()) > 300
