"""Every published family of dual encoders beside open_clip and transformers: each layer and both embeddings to 1e-5."""

import pytest

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default"), pytest.mark.timeout(900)]

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")

from families import LARGE, compare  # noqa: E402


@pytest.mark.parametrize("family", LARGE, ids=lambda family: family.name)
def test_every_layer_is_the_peers(family):
    found = compare(family)
    assert max(found.values()) <= 1e-5, found
