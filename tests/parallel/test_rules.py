import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import PartitionSpec as P

from diffusion_jax.parallel.mesh import make_mesh
from diffusion_jax.parallel.rules import parameter_path, path_of, shardings, split_over_mesh
from diffusion_jax.train.ema import Ema
from diffusion_jax.train.state import init_state
from diffusion_jax.typing import UserError

PARAMS = {"blocks": {"kernel": jnp.ones((2, 6, 8)), "bias": jnp.ones((2, 8))}, "kernel": jnp.ones((3, 5))}


def test_paths_of_every_kind_of_node():
    state = init_state(PARAMS, optax.adam(1e-3), Ema())
    paths = {path_of(p): parameter_path(p) for p, _ in jax.tree_util.tree_leaves_with_path(state)}
    assert paths["params/blocks/kernel"] == "blocks/kernel"
    assert paths["ema/kernel"] == "kernel"
    assert paths["opt_state/0/mu/blocks/bias"] == "blocks/bias"
    assert paths["opt_state/0/count"] == "opt_state/0/count"
    assert paths["step"] == "step"


def test_first_match_wins_and_moments_follow_their_parameter():
    mesh = make_mesh(4, 2)
    rules = (("^blocks/kernel$", P(None, None, "fsdp")), ("kernel", P("data")))
    state = init_state(PARAMS, optax.adam(1e-3), Ema(), mesh=mesh, rules=rules)
    for tree in (state.params, state.ema, state.opt_state[0].mu, state.opt_state[0].nu):
        assert tree["blocks"]["kernel"].sharding.spec == P(None, None, "fsdp")
        assert tree["blocks"]["kernel"].addressable_shards[0].data.shape == (2, 6, 4)
        assert tree["blocks"]["bias"].sharding.is_fully_replicated
        assert tree["kernel"].sharding.is_fully_replicated  # 4 does not divide 3
    assert len(state.opt_state[0].mu["kernel"].sharding.device_set) == 8


def test_spec_is_trimmed_to_the_leaf():
    mesh = make_mesh(4, 2)
    where = shardings({"w": jnp.ones((8,)), "s": jnp.ones(())}, ((".", P(("data", "fsdp"), "fsdp")),), mesh)
    assert where["w"].spec == P(("data", "fsdp"))
    assert where["s"].spec == P()


@pytest.mark.parametrize(
    ("rule", "says"),
    [(("(", P()), "not a regular expression"), (("w", P("fsdb")), "'fsdb' is not known; did you mean 'fsdp'")],
)
def test_bad_rules(rule, says):
    with pytest.raises(UserError, match=says):
        shardings(PARAMS, (rule,), make_mesh())


def test_fsdp_splits_large_parameters_along_the_longest_axis_it_divides():
    params = {
        "stack": {"kernel": jnp.ones((2, 64, 96)), "bias": jnp.ones((2, 96))},
        "table": jnp.ones((4097, 10)),
        "odd": jnp.ones((101, 103)),
    }
    rules = split_over_mesh(params, make_mesh(4, 2))
    assert dict(rules) == {"^stack/kernel$": P(None, None, "fsdp"), "^table$": P(None, "fsdp")}
    assert split_over_mesh(params, make_mesh(8, 1)) == ()
    mesh = make_mesh(2, 4)
    state = init_state(params, optax.adam(1e-3), Ema(), mesh=mesh, rules=split_over_mesh(params, mesh))
    for tree in (state.params, state.ema, state.opt_state[0].mu):
        assert tree["stack"]["kernel"].addressable_shards[0].data.shape == (2, 64, 24)
        assert tree["table"].sharding.is_fully_replicated  # 4 divides neither axis


def test_tensor_splits_layers_by_outputs_and_those_that_end_a_pair_by_inputs():
    params = {
        "conv1": {"kernel": jnp.ones((3, 3, 64, 96)), "bias": jnp.ones((96,))},
        "conv2": {"kernel": jnp.ones((3, 3, 96, 64))},
        "qkv": {"unit_kernel": jnp.ones((1, 1, 64, 191))},
        "table": jnp.ones((4096, 10)),
    }
    whole = {"^conv1/kernel$": P(None, None, None, "tensor"), "^conv2/kernel$": P(None, None, "tensor")}
    assert dict(split_over_mesh(params, make_mesh(4, 1, 2))) == whole
    assert split_over_mesh(params, make_mesh(8)) == ()
