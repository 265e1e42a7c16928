"""What tests anywhere below may ask for."""

import jax
import pytest


@pytest.fixture
def x64():
    """JAX in 64-bit mode, which tells a wrong formula from rounding."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)
