"""LPIPS, by its formula in NumPy, and its weights from the files that people have."""

import shutil

import jax
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from safetensors.numpy import save_file

from diffusion_jax.convert.lpips import holds_lpips, load_lpips, lpips_entries
from diffusion_jax.metrics import lpips
from diffusion_jax.metrics.lpips import SCALE, SHIFT
from diffusion_jax.typing import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Random weights under the published names, in two files, with what else these hold."""
    place = tmp_path_factory.mktemp("lpips")
    rng = np.random.default_rng(0)
    vgg, weights = {"classifier.0.weight": np.zeros((2, 2), np.float32)}, {}
    for entry in lpips_entries():
        for name, shape in zip(entry.theirs, entry.shapes):
            if name.startswith("lin"):
                weights[name] = rng.uniform(0, 1, shape).astype(np.float32)
            elif name.endswith("bias"):
                vgg[name] = rng.normal(0, 0.1, shape).astype(np.float32)
            else:
                vgg[name] = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)
    save_file(vgg, place / "vgg16.safetensors")
    save_file(weights, place / "stages.safetensors")
    return place


def by_hand(params, image):
    x = (np.broadcast_to(image, (*image.shape[:2], 3)).astype(np.float64) - SHIFT) / SCALE
    found = []
    for stage in range(5):
        if stage:
            rows, columns = x.shape[0] // 2, x.shape[1] // 2
            x = x[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2, -1).max(axis=(1, 3))
        for place in sorted(params["features"][str(stage)]):
            layer = params["features"][str(stage)][place]
            wide = np.pad(x, ((1, 1), (1, 1), (0, 0)))
            windows = sliding_window_view(wide, (3, 3), axis=(0, 1))  # [rows, columns, channels, 3, 3]
            x = np.einsum("abcij,ijco->abo", windows, layer["kernel"].astype(float), optimize=True)
            x = np.maximum(x + layer["bias"], 0)
        found.append(x / np.sqrt((x**2).sum(-1, keepdims=True)))
    return found


def test_it_is_the_formula(folder):
    params = load_lpips(folder)
    rng = np.random.default_rng(1)
    x, y = rng.uniform(-1, 1, (2, 17, 19, 3)).astype(np.float32)
    wanted = sum(
        ((a - b) ** 2 @ params["weights"][str(stage)]).mean()
        for stage, (a, b) in enumerate(zip(by_hand(params, x), by_hand(params, y)))
    )
    found = lpips(params, np.stack([x, x]), np.stack([y, x]))
    np.testing.assert_allclose(found, [wanted, 0], rtol=1e-4, atol=1e-7)


def test_grey_pictures_dark_ones_and_gradients(folder):
    """One channel stands for three; where nothing is seen the gradient is a number."""
    params = load_lpips(folder)
    dark = jax.tree.map(lambda leaf: leaf * 0, params)
    x = np.linspace(-1, 1, 256, dtype=np.float32).reshape(1, 16, 16, 1)
    np.testing.assert_allclose(lpips(params, x, -x), lpips(params, x.repeat(3, -1), -x.repeat(3, -1)), rtol=1e-5)
    gradient = jax.jit(jax.grad(lambda weights, y: lpips(weights, x, y).sum(), argnums=1))
    assert np.isfinite(gradient(params, -x)).all() and np.isfinite(gradient(dark, -x)).all()
    np.testing.assert_allclose(gradient(params, x), 0, atol=1e-6)
    for wrong, said in ((x[:, :8], "8 x 16 is below 16"), (x.repeat(2, -1), "1 or 3 channels, not 2")):
        with pytest.raises(UserError, match=said):
            lpips(params, wrong, wrong)


def test_files_that_lack_something(folder, tmp_path):
    assert holds_lpips(folder) and not holds_lpips(tmp_path) and not holds_lpips(tmp_path / "none")
    (tmp_path / "stages.safetensors").write_bytes((folder / "stages.safetensors").read_bytes())
    (tmp_path / "gone.safetensors").symlink_to(tmp_path / "nowhere")  # as a cache leaves it
    assert holds_lpips(tmp_path)
    with pytest.raises(UserError, match="26 missing: features"):
        load_lpips(tmp_path)
    shutil.copytree(folder, tmp_path / "cut")
    cut = tmp_path / "cut" / "stages.safetensors"
    cut.write_bytes(cut.read_bytes()[:100])
    assert holds_lpips(tmp_path / "cut")
    with pytest.raises(UserError, match=r"stages\.safetensors"):
        load_lpips(tmp_path / "cut")
