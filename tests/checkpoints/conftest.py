"""Models and folders for the tests of checkpoints."""

import pytest
from folders import NANO
from helpers import TINY_CONVNEXT, random_model, tiny

import eqx_clip
from eqx_clip.zoo.architectures import MODELS


@pytest.fixture(scope="session")
def model():
    return tiny()


@pytest.fixture(scope="session")
def nano():
    return random_model(MODELS[NANO])


@pytest.fixture(scope="session")
def convnext_folder(tmp_path_factory):
    """A saved ConvNeXt, to be left as it is."""
    folder = tmp_path_factory.mktemp("convnext")
    eqx_clip.save(tiny(TINY_CONVNEXT), folder)
    return folder


@pytest.fixture
def folder(model, tmp_path):
    """A saved model; each test may damage its own."""
    eqx_clip.save(model, tmp_path / "model")
    return tmp_path / "model"
