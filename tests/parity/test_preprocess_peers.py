"""Preprocessing against open_clip's transforms and torchvision's, on files of every mode that both treat alike."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data.pictures.preprocess import HALF, OPENAI_MEAN, OPENAI_STD, SIGLIP, Preprocess

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

SIZES = ((333, 500), (500, 333), (480, 640), (224, 224), (97, 101), (1000, 230), (31, 700), (1, 1))


@pytest.fixture(scope="module")
def transform() -> Any:
    """open_clip.transform.image_transform.

    torchvision that was built for another torch has no compiled operators; the transforms need none, but importing
    asks for two of them by name.
    """
    torch = pytest.importorskip("torch")
    try:
        import torchvision  # noqa: F401
    except ImportError:
        pytest.skip("torchvision is not installed")
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    return pytest.importorskip("open_clip.transform").image_transform


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize", ["shortest", "squash"])
def test_every_value_is_open_clips(transform, size, interpolation, resize):
    peer = transform(224, is_train=False, resize_mode=resize, interpolation=interpolation)
    array = noise(*size, 3)
    wanted = peer(Image.fromarray(array)).numpy().transpose(1, 2, 0)
    pre = Preprocess(224, OPENAI_MEAN, OPENAI_STD, resize, interpolation=interpolation)
    np.testing.assert_array_equal(pre(array), wanted)
    np.testing.assert_allclose(pre.on_device(array[None])[0], wanted, atol=1e-6)


def test_siglips_is_open_clips(transform):
    peer = transform(224, is_train=False, mean=HALF, std=HALF, resize_mode="squash")
    array = noise(300, 200, 3)
    np.testing.assert_array_equal(SIGLIP(array), peer(Image.fromarray(array)).numpy().transpose(1, 2, 0))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "YCbCr"])
def test_modes_are_resized_and_converted_in_open_clips_order(transform, mode):
    array = noise(61, 83, 3)
    if mode == "RGBA":
        picture = Image.fromarray(np.concatenate([array, noise(61, 83, 1, seed=1)], axis=-1))
    else:
        picture = Image.fromarray(array).convert(mode)
    wanted = transform(32, is_train=False)(picture).numpy().transpose(1, 2, 0)
    np.testing.assert_array_equal(Preprocess(32)(picture), wanted)


def test_exif_is_ignored_as_open_clip_ignores_it(transform):
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    Image.fromarray(noise(40, 60, 3)).save(out, "JPEG", exif=exif)
    wanted = transform(32, is_train=False)(Image.open(io.BytesIO(out.getvalue()))).numpy().transpose(1, 2, 0)
    np.testing.assert_array_equal(Preprocess(32)(out.getvalue()), wanted)
    assert np.abs(Preprocess(32, exif=True)(out.getvalue()) - wanted).max() > 0.1


def test_a_training_crop_is_torchvisions_for_the_same_box(transform, monkeypatch):
    """The draws are of different generators; the same box gives the same values."""
    from torchvision.transforms import RandomResizedCrop

    from diffusion_jax.data.pictures import preprocess

    array, box = noise(70, 90, 3), (11, 5, 60, 50)  # left, top, width, height
    left, top, width, height = box
    monkeypatch.setattr(RandomResizedCrop, "get_params", staticmethod(lambda *_: (top, left, height, width)))
    monkeypatch.setattr(preprocess, "random_box", lambda *_: box)
    wanted = transform(32, is_train=True)(Image.fromarray(array)).numpy().transpose(1, 2, 0)
    np.testing.assert_array_equal(Preprocess(32).random_resized_crop(array, np.random.default_rng(0)), wanted)


def test_the_fallback_box_is_torchvisions(transform):
    """No box of 90% of the area fits an aspect of 10: both fall back to the largest central one."""
    import torch
    from torchvision.transforms import RandomResizedCrop

    from diffusion_jax.data.pictures.preprocess import random_box

    for width, height in ((100, 10), (10, 100), (7, 300)):
        wanted = RandomResizedCrop.get_params(torch.zeros(3, height, width), [0.9, 1.0], [3 / 4, 4 / 3])
        left, top, wide, high = random_box(width, height, np.random.default_rng(0), (0.9, 1.0), (3 / 4, 4 / 3))
        assert (top, left, high, wide) == wanted
