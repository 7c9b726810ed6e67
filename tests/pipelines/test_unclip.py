"""unCLIP of runs: what its stages draw, what is done in CLIP's space, and what does not go together."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "cli"))
import smallruns as tiny

from diffusion_jax import load_run
from diffusion_jax.data.sources.digits import load_digits
from diffusion_jax.pipelines.components import components_of
from diffusion_jax.pipelines.unclip import best, evenly, rotated, stage_seed
from diffusion_jax.pipelines.unclip_runs import load_unclip, unclip_of
from diffusion_jax.typing import UserError


@pytest.fixture(scope="module")
def folder(once):
    return once("unclip", tiny.make_unclip)


@pytest.fixture(scope="module")
def unclip(folder):
    return load_unclip(folder / "decoder", prior=folder / "prior")


@pytest.fixture(scope="module")
def scans():
    return load_digits("test").columns()["image"][:3]


def test_the_nearest_candidate_is_kept():
    found = np.array([[[1.0, 0.0], [0.0, 2.0]], [[3.0, 3.0], [1.0, 0.9]]])
    assert best(found, np.array([[0.0, 1.0], [1.0, 1.0]])).tolist() == [1, 0]


def test_places_at_equal_lengths_of_a_way_are_chosen():
    along = np.array([0.0, 0.1, 0.2, 0.3, 2.0, 2.1, 3.9, 4.0])
    assert evenly(along[:, None] * np.array([[0.6, 0.8]]), 3).tolist() == [0, 4, 7]
    assert evenly(np.linspace(0.0, 1.0, 17)[:, None], 5).tolist() == [0, 4, 8, 12, 16]
    angles = np.linspace(0.0, 1.0, 401) ** 3  # a way that is slow at first
    kept = angles[evenly(np.stack([np.cos(angles), np.sin(angles)], axis=1), 9)]
    np.testing.assert_allclose(kept, np.linspace(0, 1, 9), atol=0.004)  # half of the widest gap, 3 / 800


def test_a_text_diff_turns_by_a_share_of_the_angle():
    z, d = np.array([[2.0, 0.0]], np.float32), np.array([[0.0, 5.0]], np.float32)
    np.testing.assert_allclose(rotated(z, d, 0.5), [[2**0.5, 2**0.5]], rtol=1e-6)
    np.testing.assert_array_equal(rotated(z, d, 0.0), z)
    np.testing.assert_allclose(rotated(z, d, 1.0), [[0.0, 2.0]], atol=1e-6)


def test_all_components_are_all_of_an_embedding_and_none_the_mean():
    rng = np.random.default_rng(0)
    data = rng.normal(size=(50, 4)) * np.array([3.0, 2.0, 1.0, 0.1]) + 5.0
    space = components_of(data)
    z = data[:3]
    np.testing.assert_allclose(space.project(z, 4), z, rtol=1e-10)
    np.testing.assert_allclose(space.project(z, 0), np.tile(data.mean(axis=0), (3, 1)), rtol=1e-10)
    errors = [np.square(space.project(data, k) - data).sum(axis=1).mean() for k in range(5)]
    left = space.variances.sum() - np.concatenate([[0.0], np.cumsum(space.variances)])
    np.testing.assert_allclose(errors, left, atol=1e-10)
    assert space.share(4) == pytest.approx(1.0)
    with pytest.raises(UserError, match=r"count 5: there are 4 components; nearest: 4"):
        space.project(z, 5)


def test_stages_begin_with_other_numbers():
    assert len({stage_seed(0, stage) for stage in range(4)}) == 4 and 0 <= stage_seed(2**32 - 1, 3) < 2**32


def test_text_to_embedding_to_picture(unclip, scans):
    prompts = ["a bold seven", "a thin three"]
    z = unclip.embeddings(prompts, seed=1)
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1.0, rtol=1e-5)
    drawn = unclip.generate(prompts, seed=1)
    assert drawn.shape == (2, 8, 8, 1) and np.abs(drawn).max() <= 1.0
    np.testing.assert_array_equal(unclip.decode(z, prompts, seed=1), drawn)
    np.testing.assert_allclose(unclip.generate(prompts[1:], seed=1, start=1), drawn[1:], atol=1e-5)
    candidates = unclip.prior.draw([prompts[0]] * 2, seed=stage_seed(1, 1))
    kept = candidates[np.argmax(candidates @ unclip.decoder.texts(prompts)[0])]
    np.testing.assert_allclose(z[0], kept, atol=1e-6)
    alone = dataclasses.replace(unclip, prior=None)
    np.testing.assert_array_equal(alone.embeddings(prompts), unclip.decoder.texts(prompts))
    assert np.abs(unclip.generate(prompts, seed=1, told=False) - drawn).max() > 0


def test_what_is_done_with_pictures(unclip, scans):
    options, inversion = {"num_steps": 20, "guidance_scale": 1.0}, {"num_steps": 20, "refinements": 5}
    pictures = unclip.decoder.pictures(scans)
    same = unclip.variations(scans, 1, eta=0.0, options=options, inversion=inversion)
    assert same.shape == (3, 1, 8, 8, 1)
    assert np.abs(same[:, 0] - pictures).max() < 5e-3
    varied = unclip.variations(scans, 2, options=options, inversion=inversion)
    assert np.abs(varied[:, 0] - varied[:, 1]).max() > 0.05
    way = unclip.interpolate(scans[:1], scans[1:2], 3, options=options, inversion=inversion)
    np.testing.assert_allclose(way[[0, 2]], same[:2, 0], atol=1e-4)
    dense = unclip.interpolate(scans[:1], scans[1:2], 9, options=options, inversion=inversion)
    kept = unclip.interpolate(scans[:1], scans[1:2], 3, even=True, options=options, inversion=inversion)
    np.testing.assert_array_equal(kept, dense[evenly(unclip.decoder.embed(dense), 3)])
    fixed = unclip.interpolate(scans[:1], scans[1:2], 3, fixed=True, options=options)
    assert fixed.shape == (3, 8, 8, 1)
    moved = unclip.text_diffs(scans, "a thin digit", "a bold digit", (0.0, 0.5), options=options, inversion=inversion)
    np.testing.assert_allclose(moved[:, 0], same[:, 0], atol=1e-5)
    noise = unclip.decoder.invert(pictures, unclip.decoder.embed(scans), **inversion)
    given = {"options": options, "noise": noise}
    np.testing.assert_array_equal(unclip.variations(scans, 2, **given), varied)
    np.testing.assert_array_equal(unclip.text_diffs(scans, "a thin digit", "a bold digit", (0.0, 0.5), **given), moved)
    each = unclip.text_diffs(
        scans, ["a thin digit"] * 3, ["a bold digit", "a two", "a bold digit"], (0.0, 0.5), **given
    )
    np.testing.assert_array_equal(each[[0, 2]], moved[[0, 2]])
    other = unclip.text_diffs(scans, "a thin digit", "a two", (0.0, 0.5), **given)
    np.testing.assert_array_equal(each[1], other[1])
    assert (each[1, 1] != moved[1, 1]).any()
    space = components_of(unclip.decoder.embed(load_digits("train").columns()["image"][:50]))
    size = len(space.mean)
    parts = unclip.components(scans, space, (1, size), options=options)
    np.testing.assert_allclose(parts[:, 1], unclip.decode(unclip.decoder.embed(scans), options=options), atol=2e-4)
    order, cosines = unclip.rerank(["a two", "a six", "a nine"], varied)
    assert (np.diff(cosines, axis=1) <= 0).all() and sorted(order[0]) == [0, 1]


def test_an_upsampler_follows(folder, unclip):
    with pytest.raises(UserError, match=r"enlarges \(4, 4, 1\), and is given \(8, 8, 1\)"):
        unclip_of(unclip.decoder.run, upsamplers=[load_run(folder / "upsampler")])


def test_noise_is_the_drawings_own(unclip):
    run = unclip.decoder.run
    asked = [{"prompt": "a two"}, {"prompt": "a three"}]
    noise = np.random.default_rng(0).normal(size=(2, *run.shape)).astype(np.float32)
    found = run.generate(asked, noise=noise, num_steps=2)
    np.testing.assert_array_equal(run.generate(asked, noise=noise, num_steps=2, seed=5), found)
    np.testing.assert_allclose(run.generate(asked[1:], noise=noise[1:], num_steps=2), found[1:], atol=1e-5)
    steps = np.random.default_rng(1).normal(size=(3, 2, *run.shape)).astype(np.float32)
    drawn = run.generate(asked, noise=steps, num_steps=2, solver="ddpm")
    np.testing.assert_array_equal(run.generate(asked, noise=steps, num_steps=2, solver="ddpm", seed=5), drawn)
    with pytest.raises(UserError, match=r"noise has shape \(1, 8, 8, 1\): it is \(2, 8, 8, 1\)"):
        run.generate(asked, noise=noise[:1], num_steps=2)


def test_what_does_not_fit(folder, unclip, scans):
    decoder, prior = unclip.decoder.run, unclip.prior.run
    with pytest.raises(UserError, match=r"the prior in .* works in the space 'pixels'"):
        unclip_of(decoder, decoder)
    with pytest.raises(UserError, match=r"the decoder in .* is asked for prompt: a decoder is told the embedding"):
        unclip_of(prior)
    with pytest.raises(UserError, match=r"the upsampler in .* has the condition 'text'"):
        unclip_of(decoder, upsamplers=[prior])
    with pytest.raises(
        UserError, match=r"an embedding of shape \(3,\) float64: the run's image encoder gives 8 floats"
    ):
        unclip.decode(np.ones((1, 3)))
    noise = np.zeros((3, 8, 8, 1), np.float32)
    for said, how in {
        r"noise has shape \(2, 8, 8, 1\): it is \(3, 8, 8, 1\)": {"noise": noise[:2]},
        "nothing is inverted: leave out inversion": {"noise": noise, "inversion": {"num_steps": 2}},
        "inverted is False": {"noise": noise, "inverted": False},
    }.items():
        with pytest.raises(UserError, match=said):
            unclip.variations(scans, **how)
    with pytest.raises(UserError, match="an embedding of 8 numbers where a picture is wanted"):
        unclip.variations(unclip.decoder.embed(scans), options={"num_steps": 2})
    with pytest.raises(
        UserError, match=r"embeddings are floats \[n, 8\], not float32 \(3, 8, 8, 1\): embed pictures first"
    ):
        unclip.decode(scans)
    with pytest.raises(UserError, match="say the same to the encoder"):
        unclip.text_diffs(scans, "a two", "a two")
    with pytest.raises(UserError, match="source has 2 texts for 3 pictures: give one, or one a picture"):
        unclip.text_diffs(scans, ["a two", "a three"], "a two")
    other = dataclasses.replace(prior.space.encoder, file="other.json")
    other.__dict__["noted"] = dataclasses.replace(other.noted, weights={"w": np.zeros(1)})
    moved = dataclasses.replace(prior, space=dataclasses.replace(prior.space, encoder=other))
    with pytest.raises(
        UserError, match=r"the prior in .* was trained on the CLIP .* the decoder in .*: train both on one CLIP"
    ):
        unclip_of(decoder, moved)


def test_whitening_is_kept_with_the_run(folder):
    run = load_run(folder / "prior")
    train = load_digits("train").columns()["image"]
    x0 = np.asarray(run.space.scaled(run.space.encoder.clip.encode_image(train)))
    np.testing.assert_allclose(x0.mean(axis=0), 0.0, atol=1e-4)
    np.testing.assert_allclose(x0.std(axis=0), 1.0, atol=1e-4)
    assert (folder / "prior" / "embedding_scale.json").is_file()
