"""Unit-norm rows and one-line refusals, for the tests of measures."""

import numpy as np
import pytest
from hypothesis import strategies as st

from diffusion_jax.typing import UserError

SEEDS = st.integers(0, 10**6)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def random_rows(rng, count, width=8):
    return unit(rng.normal(size=(count, width)))


def refused(call, *parts):
    """One line of UserError that has every part."""
    with pytest.raises(UserError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    assert all(part in line for part in parts), line
