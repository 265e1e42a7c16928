"""What the tests of data may ask for."""

import pytest


@pytest.fixture(autouse=True)
def index_folder(tmp_path_factory, monkeypatch):
    """The indices of a test in a folder of its own."""
    folder = tmp_path_factory.mktemp("index")
    monkeypatch.setenv("EQX_CLIP_CACHE", str(folder))
    return folder
