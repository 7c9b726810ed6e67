"""`evaluate --bits-per-dim`: the numbers are those of the library, and lie where they must."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smallruns import fails

from diffusion_jax import build
from diffusion_jax.cli import main
from diffusion_jax.process import from_noise_level
from diffusion_jax.sampling import bits_per_dimension
from diffusion_jax.systems.diffusion.likelihood import bits_per_dim
from diffusion_jax.systems.table import load_run
from diffusion_jax.typing import UserError


@pytest.mark.slow
def test_the_command_writes_what_the_library_measures(run, tmp_path, capsys):
    arguments = ["evaluate", "--run", str(run), "--bits-per-dim", "--scans", "5", "--split", "validation"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "bits_per_dim.json").read_text())
    out, err = capsys.readouterr()
    assert "given its caption: ODE" in out and "given nothing" in out and "5 of 5 scans" in err
    assert found["scans"] == 5 and found["grey_levels"] == 17 and found["uniform"] == pytest.approx(math.log2(17))
    for name in ("captioned", "null"):
        part = found[name]
        assert all(np.isfinite(value) for value in part.values()) and part["nfe"] > 6
        assert part["vlb"] > part["ode"] - 4 * (part["vlb_error"] + part["ode_error"])
    loaded = load_run(run)
    data = build.source(loaded.config.data, "validation")
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(jnp.arange(5))
    schedule = from_noise_level(loaded.schedule, 0.125 / math.sqrt(12))
    cond = loaded.encode_text([data[i]["captions"][0] for i in range(5)])
    images = jnp.asarray(data.columns()["image"][:5])
    bits = bits_per_dimension(loaded.denoise, schedule, images, keys[0], levels=17, cond=cond, rtol=1e-4, atol=1e-4)
    assert found["captioned"]["ode"] == pytest.approx(float(bits.mean()), abs=0.1)  # other draws of the dequantisation


def test_what_cannot_be_scored_is_one_line(run, tmp_path, capsys):
    arguments = ["evaluate", "--run", str(run), "--bits-per-dim", "--out", str(tmp_path)]
    fails(capsys, [*arguments, "--scans", "0"], "scans 0 are not from 1 to the 360")
    fails(capsys, [*arguments, "--divergence", "rademaker"], "'rademaker'", "did you mean 'rademacher'")
    fails(
        capsys,
        ["evaluate", "--run", str(run / "clip"), "--bits-per-dim"],
        "is no diffusion run; a likelihood needs one",
    )
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="batch_size 0"):
        bits_per_dim(load_run(run), batch_size=0)
