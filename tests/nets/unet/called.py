"""A layer that takes no key as a network of two functions."""

from flax import nnx

from diffusion_jax.nets import Network


class Called(nnx.Module):
    """The layer, which ignores what all networks are called with."""

    def __init__(self, layer):
        self.layer = layer

    def __call__(self, *inputs, key=None, train=False):
        return self.layer(*inputs)


class Layer:
    """`init(key)` and `apply(params, *inputs)` of what `make(rngs)` builds."""

    def __init__(self, make):
        self.network = Network(lambda rngs: Called(make(rngs)))

    def init(self, key):
        return self.network.init(key)["layer"]

    def apply(self, params, *inputs):
        return self.network.apply({"layer": params}, *inputs)
