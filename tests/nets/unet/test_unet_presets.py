"""Parameter counts of the published U-Nets, to the last one."""

import math

import jax
import pytest

from diffusion_jax.nets import GLIDE, EDM2UNet, Network, UNet, unet_model
from diffusion_jax.nets.unet.presets import UNET_MODELS

COUNTS = {
    "ddpm-cifar10": 35_746_307,
    "ddpm-256": 113_673_219,
    "adm-64": 295_904_454,
    "adm-128": 421_529_606,
    "adm-256": 553_838_086,
    "adm-256-uncond": 552_814_086,
    "adm-512": 558_997_638,
    "adm-64-256": 311_795_910,
    "adm-128-512": 308_835_270,
    "ddpm++-cifar10": 55_735_299,
    "ncsn++-cifar10": 56_400_643,
    "glide": 385_030_726,
    "glide-upsampler": 398_361_286,
    "karlo-decoder": 885_439_686,
    "karlo-upsampler": 691_579_523,
    "sd-1.5": 859_520_964,
    "sd-2.1": 865_910_724,
    "sdxl": 2_567_463_684,
    "sdxl-refiner": 2_259_526_660,
}
MILLIONS = {"edm2-xs": 124.7, "edm2-s": 280.2, "edm2-m": 497.8, "edm2-l": 777.5, "edm2-xl": 1119.3, "edm2-xxl": 1523.2}
"""As their paper rounds them."""


def parameters(name):
    make = {"edm2": EDM2UNet, "glid": GLIDE}.get(name[:4], UNet)
    network = Network(lambda rngs: make(rngs, **unet_model(name)))
    return jax.eval_shape(network.init, jax.random.key(0))


def count(tree):
    """All but the random frequencies of a time, which are drawn and not trained."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    drawn = ("frequencies", "phases")
    return sum(math.prod(leaf.shape) for path, leaf in leaves if path[-1].key not in drawn)


QUICK = ("ddpm-cifar10", "adm-64", "edm2-xs")
"""One of each kind; the others take a minute or two."""


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in UNET_MODELS]
)
def test_the_parameters_of_every_preset(name):
    tree = parameters(name)
    if name in COUNTS:
        assert count(tree) == COUNTS[name]
    else:
        assert round(count(tree) / 1e6, 1) == MILLIONS[name]
