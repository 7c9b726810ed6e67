"""Karlo's pipelines of small width and random weights, stage by stage beside diffusers' with the same noise.

The peer computes in float64, on the tables of its schedulers as they are: its first step divides by an alpha of 5e-5, and takes
1 - (1 - beta) of a beta of 1 - 4e-8, so that its own float32 is 3e-4 (decoder) and 6e-4 (upsampler) away from that.
"""

from unittest import mock

import numpy as np
import pytest

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default"), pytest.mark.timeout(900)]
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

import karlo_folders as folders  # noqa: E402

from diffusion_jax.pipelines import load_pipeline  # noqa: E402

PROMPTS = ["a cat", "a red dog do"]
STEPS = (12, 10, 7)
BOUND = 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folders.karlo(tmp_path_factory.mktemp("karlo") / "karlo")


def close(found, wanted, bound=BOUND):
    assert np.abs(found - wanted).max() <= bound * np.abs(wanted).max()


def test_every_stage_of_text_to_image(folder):
    peer, unclip = folders.peer(folder), load_pipeline(folder)
    z, small, large, (of_prior, of_decoder, of_upsampler) = folders.staged(peer, PROMPTS, STEPS)
    close(unclip.prior.draw(PROMPTS, num_steps=STEPS[0], noise=of_prior), z)
    close(unclip.decoder.draw(z, PROMPTS, num_steps=STEPS[1], noise=of_decoder), small)
    (upsampler,) = unclip.upsamplers
    close(upsampler.draw(small, num_steps=STEPS[2], noise=of_upsampler), large)
    found = unclip.generate(
        PROMPTS, candidates=1, prior={"num_steps": STEPS[0], "noise": of_prior},
        options={"num_steps": STEPS[1], "noise": of_decoder}, upsampling={"num_steps": STEPS[2], "noise": of_upsampler},
    )  # fmt: skip
    close(found, large, 1e-3)


def test_variations_of_a_picture(tmp_path):
    folder = folders.karlo(tmp_path / "karlo", variations=True, seed=1)
    peer, unclip = folders.peer(folder), load_pipeline(folder)
    assert unclip.prior is None
    rng = np.random.default_rng(2)
    pictures = [rng.integers(0, 256, (20, 30, 3), dtype=np.uint8) for _ in range(2)]
    encoder = unclip.decoder.image_encoder
    with torch.no_grad():
        wanted = peer.image_encoder(
            folders.first(np.stack([encoder.preprocess(picture) for picture in pictures]))
        ).image_embeds
    z = unclip.decoder.embed(pictures)
    close(z, wanted.numpy(), 1e-5)
    edges = [(edge, edge, 3) for edge in (folders.SMALL, folders.LARGE)]
    of_decoder, of_upsampler = folders.noises(3, *zip(STEPS[1:], edges))
    rows = iter([row for stage in (of_decoder, of_upsampler) for row in stage[:-1]])
    names = ["diffusers.schedulers.scheduling_unclip.randn_tensor", f"{type(peer).__module__}.randn_tensor"]
    with mock.patch(names[0]) as one, mock.patch(names[1]) as two:
        one.side_effect = two.side_effect = lambda *_, **__: folders.first(next(rows))
        images = peer(
            image_embeddings=torch.tensor(z, dtype=torch.float64), decoder_num_inference_steps=STEPS[1],
            super_res_num_inference_steps=STEPS[2], output_type="np",
        ).images  # fmt: skip
    small = unclip.decoder.draw(z, num_steps=STEPS[1], noise=of_decoder)
    found = unclip.upsamplers[0].draw(small, num_steps=STEPS[2], noise=of_upsampler)
    close(found, 2.0 * images - 1.0, 1e-3)
    varied = unclip.variations(
        pictures, 2, options={"num_steps": 3}, inversion={"num_steps": 3}, upsampling={"num_steps": 2}
    )
    assert varied.shape == (2, 2, folders.LARGE, folders.LARGE, 3) and np.isfinite(varied).all()
