"""npz files: what is read, when, and what is refused."""

import io
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest

from eqx_clip.checkpoints.files.npz import NpzFile


RNG = np.random.default_rng(0)
ARRAYS = {
    "a/kernel": RNG.standard_normal((3, 4), np.float32),
    "a/columns": np.asfortranarray(RNG.standard_normal((5, 2), np.float32)),
    "half": RNG.standard_normal(7, np.float32).astype(np.float16),
    "brain": RNG.standard_normal((2, 3), np.float32).astype(ml_dtypes.bfloat16),
    "scalar": np.float64(3.5),
    "empty": np.zeros((0, 3), np.float32),
    "count": np.arange(3),
}


@pytest.fixture(params=[np.savez, np.savez_compressed], ids=["stored", "deflated"])
def path(request, tmp_path):
    request.param(tmp_path / "arrays.npz", **ARRAYS)
    return tmp_path / "arrays.npz"


def test_arrays_are_those_that_were_saved(path):
    with NpzFile(path) as tensors:
        assert list(tensors) == list(ARRAYS) and len(tensors) == len(ARRAYS)
        assert "half" in tensors and "missing" not in tensors
        for name, array in ARRAYS.items():
            assert tensors.shape(name) == array.shape
            assert tensors[name].dtype == array.dtype
            assert np.array_equal(tensors[name], array)


def test_an_array_is_read_when_it_is_asked_for(tmp_path):
    arrays = {f"{i}": np.full(2**20, i, np.float32) for i in range(8)}
    np.savez_compressed(tmp_path / "large.npz", **arrays)
    tracemalloc.start()
    try:
        with NpzFile(tmp_path / "large.npz") as tensors:
            assert all(tensors.shape(name) == (2**20,) for name in tensors)
            assert tracemalloc.get_traced_memory()[1] < 2**20
            assert all(tensors[name][-1] == float(name) for name in tensors)
            assert tracemalloc.get_traced_memory()[1] < 2.5 * 2**22
    finally:
        tracemalloc.stop()


def test_a_file_that_is_cut_short_is_refused_at_once(path):
    data = path.read_bytes()
    for size in (0, 10, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"not a whole npz file: .* fetch it again"):
            NpzFile(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damage_within_an_array_is_found_when_it_is_read(save, tmp_path):
    path = tmp_path / "arrays.npz"
    save(path, a=RNG.standard_normal(10_000, np.float32), b=np.zeros(3))
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        data[file.getinfo("b.npy").header_offset - 5] ^= 4  # the last but three of `a`
    path.write_bytes(data)
    with NpzFile(path) as tensors:
        assert not tensors["b"].any()
        with pytest.raises(ValueError, match="'a' cannot be read"):
            tensors["a"]


def npy(array, **options):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asanyarray(array), **options)
    return file.getvalue()


def header(shape):
    file = io.BytesIO()
    facts = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, facts)
    return file.getvalue()


@pytest.mark.parametrize(
    "members, words",
    [
        ([("a.npy", npy(np.array([{}], object)))], "pickled objects, 'a.npy', which are never run"),
        ([("a.txt", b"words")], "its member 'a.txt' is no array"),
        ([("a.npy", b"words and more")], "the header of 'a.npy' cannot be read"),
        ([("a.npy", npy(np.zeros(3), version=(3, 0)))], "the header of 'a.npy' cannot be read"),
        ([("a.npy", header((10**15,)))], "'a.npy' is not as large as its header says"),
        ([("a.npy", npy(np.zeros(3))[:-8])], "'a.npy' is not as large as its header says"),
    ],
    ids=["objects", "text", "no header", "version 3", "huge", "too short"],
)
def test_what_is_no_plain_array_is_refused(members, words, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        for name, data in members:
            file.writestr(name, data)
    with pytest.raises(ValueError, match=words):
        NpzFile(tmp_path / "x.npz")


def test_a_name_twice_is_refused(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "x.npz", "w") as file,
        pytest.warns(UserWarning, match="Duplicate"),
    ):
        for _ in range(2):
            file.writestr("a.npy", npy(np.zeros(3)))
    with pytest.raises(ValueError, match="it holds a name twice"):
        NpzFile(tmp_path / "x.npz")


def test_a_small_file_cannot_ask_for_much_memory(tmp_path):
    count = 10**12
    content = header((count,))
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.npy", content)
        # As the archive's directory would say it of so many zeros.
        file.getinfo("a.npy").file_size = len(content) + 4 * count
    with pytest.raises(ValueError, match=r"'a\.npy' is not as large as its header says"):
        NpzFile(tmp_path / "x.npz")
