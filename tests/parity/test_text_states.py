"""The text encoders of Stable Diffusion's folders against transformers: ids, the states of several depths, embeddings."""

import numpy as np
import pytest

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default"), pytest.mark.timeout(900)]
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

import stable_folders as folders  # noqa: E402

from diffusion_jax.pipelines.text_encoder import load_text_encoder  # noqa: E402

WORDS = ["a cat", "a red dog", "", "cat " * 30]
CASES = [("sd1", ""), ("sd2", ""), ("xl", ""), ("xl", "_2"), ("refiner", "_2")]


@pytest.mark.parametrize(("kind", "ending"), CASES, ids=[kind + ending for kind, ending in CASES])
def test_states_and_embeddings(kind, ending, tmp_path):
    """clip_skip n of 1 and 2 is the state n blocks earlier through the last norm, which diffusers cannot show any more."""
    folder = folders.stable(tmp_path / kind, kind)
    ours = load_text_encoder(folder / f"text_encoder{ending}", folder / f"tokenizer{ending}")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / f"tokenizer{ending}")
    model = transformers.CLIPTextModelWithProjection if ending else transformers.CLIPTextModel
    peer = model.from_pretrained(folder / f"text_encoder{ending}").eval()
    ids = tokenizer(
        WORDS, padding="max_length", max_length=folders.CONTEXT, truncation=True, return_tensors="pt"
    ).input_ids
    np.testing.assert_array_equal(ours.tokens(WORDS), ids.numpy())
    inner = peer.text_model if hasattr(peer, "text_model") else peer
    with torch.no_grad():
        out = peer(ids, output_hidden_states=True)
        wanted = {(0, True): out.last_hidden_state} | {(n, False): out.hidden_states[-1 - n] for n in (1, 2)}
        wanted |= {(n, True): inner.final_layer_norm(out.hidden_states[-1 - n]) for n in (1, 2)}
    for (skip, normed), states in wanted.items():
        found, embedding = ours.encode(WORDS, skip=skip, normed=normed)
        assert np.abs(np.asarray(found) - states.numpy()).max() <= 1e-5
    if ending:
        assert np.abs(np.asarray(embedding) - out.text_embeds.numpy()).max() <= 1e-5
