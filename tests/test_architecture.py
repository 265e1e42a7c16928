"""What `import eqx_clip` brings along, and which file may import which."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import eqx_clip


SOURCE = Path(eqx_clip.__file__).parent

# From the ground up: a room imports rooms before it, and files of its own without a circle. A room
# is a folder without those in it, or a file beside them.
ROOMS = [
    "_types",
    "_checks",
    "nn",
    "sharding",
    "tokenizers",
    "images",
    "losses",
    "checkpoints.files",
    "checkpoints.rows",
    "towers",
    "_clip",
    "checkpoints.open_clip",
    "checkpoints.big_vision",
    "checkpoints.transformers",
    "zoo",
    "checkpoints",
    "inference",
    "train.step",
    "train.evaluate",
    "train.run",
    "train.log",
    "train",
    "data",
]


def imports_of(path: Path) -> set[str]:
    """The files of the package that a file imports, as dotted names below the package."""
    package = path.relative_to(SOURCE).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            path = SOURCE.joinpath(*base)
            files = [alias.name for alias in node.names] if path.is_dir() else [""]
            found.update(".".join(part for part in (*base, file) if part) for file in files)
    return found


def room_of(name: str) -> str:
    """The room of a file, both by dotted names."""
    return name.rpartition(".")[0] or name


def test_imports_point_downwards():
    files = [path for path in SOURCE.rglob("*.py") if path.name != "__init__.py"]
    names = {".".join(path.relative_to(SOURCE).with_suffix("").parts): path for path in files}
    assert {room_of(name) for name in names} == set(ROOMS), "give every room its place"
    graph = {name: imports_of(path) for name, path in names.items()}
    for name, imported in graph.items():
        for other in imported:
            low, high = ROOMS.index(room_of(other)), ROOMS.index(room_of(name))
            assert low <= high, f"{name} must not import {other}"
    tuple(graphlib.TopologicalSorter(graph).static_order())  # refuses a circle, and names it


def test_import_brings_neither_torch_nor_tensorflow():
    code = (
        "import sys, eqx_clip; "
        "names = ('torch', 'tensorflow', 'tensorflow_datasets', 'open_clip', 'huggingface_hub', "
        "'tiktoken', 'tokenizers', 'ftfy'); "
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
