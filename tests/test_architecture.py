"""What `import eqx_clip` brings along, and which file may import which."""

import ast
import subprocess
import sys
from pathlib import Path

import eqx_clip


SOURCE = Path(eqx_clip.__file__).parent

# Downwards only: a file imports files of lower layers, never of its own.
LAYERS = [
    {"_mesh_axes", "_module", "_types", "train._facts"},
    {"_repr", "_stack", "data._captions", "data._files", "data._order"},
    {"data._class_names", "data._fields", "data._index"},
    {"_checks", "_image", "_layers", "_positions", "_ring", "_safetensors"},
    {"_loss", "_openclip_pairs", "_tokenizer", "sharding"},
    {"_preprocess", "_convnext", "_text", "_vision"},
    {"_augment", "_clip", "data._source"},
    {
        "data._csv",
        "data._jsonl",
        "data._parquet",
        "data._loader",
        "data._shards",
        "data._folder",
        "data._paths",
    },
    {"data._table", "data._parquet_pages"},
    {"data._parquet_images"},
    {"data._tfrecord", "data._webdataset", "data._workers"},
    {"data._batches", "data._builders", "data._tfds", "data._write"},
    {"data._classes", "data._fingerprint", "data._open", "data._pairs", "data._report"},
    {"data._show"},
    {"data.__main__"},
    {"_embed", "_models", "_openclip_config"},
    {"_openclip_names", "_registry", "_hub", "_zero_shot"},
    {"_openclip"},
    {"_find", "_save"},
    {"_load"},
    {"_inference"},
    {
        "train._accumulate",
        "train._flops",
        "train._groups",
        "train._objective",
        "train._precision",
        "train._schedule",
        "train._waiting",
    },
    {
        "train._distributed",
        "train._leaves",
        "train._orbax",
        "train._preemption",
    },
    {"train._forward", "train._optimizer", "train._state"},
    {"train._checkpoint", "train._save_schedule", "train._step", "train._watchdog"},
    {
        "train._finite",
        "train._log",
        "train._meter",
        "train._plan",
        "train._prefetch",
        "train._retrieval",
        "train._run_folder",
    },
    {"train._console", "train._curves", "train._evaluate", "train._zero_shot_accuracy"},
    {"train.__main__", "train._export"},
]


def imports_of(path: Path) -> set[str]:
    """The files of the package that a file imports, as dotted names below the package."""
    package = path.relative_to(SOURCE).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            modules = [node.module] if node.module else [alias.name for alias in node.names]
            found.update(".".join((*base, module)) for module in modules)
    return found


def test_imports_point_downwards():
    height = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    files = [path for path in SOURCE.rglob("*.py") if path.name != "__init__.py"]
    names = {".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in files}
    assert names == set(height), "give every file its layer"
    for path in files:
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        for imported in imports_of(path):
            assert height[imported] < height[name], f"{name} must not import {imported}"


def test_import_brings_neither_torch_nor_tensorflow():
    code = (
        "import sys, eqx_clip; "
        "names = ('torch', 'tensorflow', 'tensorflow_datasets', 'open_clip', 'huggingface_hub', "
        "'tiktoken', 'ftfy'); "
        "print([name for name in names if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def test_every_public_name_has_a_docstring():
    public = [getattr(eqx_clip, name) for name in dir(eqx_clip) if not name.startswith("_")]
    public += [getattr(eqx_clip.train, name) for name in dir(eqx_clip.train) if name[0] != "_"]
    ours = [thing for thing in public if getattr(thing, "__module__", "").startswith("eqx_clip")]
    assert len(ours) > 25
    assert [thing for thing in ours if not thing.__doc__] == []
