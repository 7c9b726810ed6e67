"""What is refused before anything is written: values out of range, and config files written by hand with a mistake."""

import pytest
import smallruns as tiny

from diffusion_jax.cli import main


def test_help_shows_a_default_of_zero(capsys):
    with pytest.raises(SystemExit):
        main(["sample", "--help"])
    assert "--seed SEED image i is a function of the seed and of i (default: 0)" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["more"], "argument 'more' is not known"),
        (["--seed", "-1"], "--seed -1 is not from 0 to 4294967295"),
        (["--seed", str(2**70)], f"--seed {2**70} is not from 0"),
        (["--batch-size", "0"], "--batch-size 0 is not at least 1"),
        (["--scale", "0"], "--scale 0 is not at least 1"),
        (["--num-i", "0"], "--num-images 0 is not at least 1"),  # options may be abbreviated
    ],
    ids=lambda value: "".join(value) if isinstance(value, list) else "",
)
def test_values_out_of_range_are_one_line(extra, said, capsys):
    tiny.fails(capsys, ["sample", "--run", "x", "--prompt", "a", "--out", "a.png", *extra], said)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"stepz": 3}, "config key 'stepz' does not exist; did you mean 'steps'?"),
        ({"optimizer__learning_rat": 1}, "did you mean 'optimizer.learning_rate'?"),
        ({"optimizer": 1}, "'optimizer' is a group; set one of optimizer."),
        ({"steps": "many"}, "takes a value of type int, like 600; 'many' is not one"),
        ({"steps": 0}, "config key 'steps' is 0; it is a whole number of at least 1"),
        ({"seed": -1}, "config key 'seed' is -1; it is a whole number from 0 to 4294967295"),
        ({"batch_size": 12}, "batch_size 12 is not divided by the 8 devices of the mesh; nearest: 8 or 16"),
        ({"mesh__data": 3}, "mesh data=3"),
        ({"system": "clop"}, "system 'clop' is not known; did you mean 'clip'?"),
        ({"system": "diffusion"}, "'loss' is missing; a config of system 'diffusion' has one"),
        ({"model__name": "clib"}, "model 'clib' is not known; did you mean 'clip'?"),
        ({"model__dtype": "float16"}, "dtype 'float16' is not known"),
        ({"data__name": "digit"}, "data 'digit' is not known; did you mean 'digits'?"),
        ({"data__shift": -1}, "config key 'data.shift' is -1.0; it is a number of pixels from 0 to 8; nearest: 0.0"),
        ({"optimizer__name": "adam"}, "optimizer 'adam' is not known; did you mean 'adamw'?"),
        ({"optimizer__schedule": "cosin"}, "schedule 'cosin' is not known; did you mean 'cosine'?"),
        (
            {"optimizer__warmup_steps": 9},
            "'optimizer.warmup_steps' is 9, which is not below key 'steps', 6; nearest: 5",
        ),
        ({"optimizer__learning_rate": 0}, "config key 'optimizer.learning_rate' is 0.0; it is a number above 0"),
        ({"ema__decay": 1}, "config key 'ema.decay' is 1.0; it is a share in [0, 1); nearest: 0.999999"),
        ({"log_every": 0}, "config key 'log_every' is 0; it is a whole number of at least 1"),
        ({"seed": 2**32}, f"config key 'seed' is {2**32}; it is a whole number from 0 to {2**32 - 1}"),
        ({"model.name": "dit"}, "model 'dit' is not known (known: clip)"),
        ({"model.vision.heads": 3}, "width 16 is not divided by 3 heads"),
        ({"data.noise": -1}, "config key 'data.noise' is -1.0; it is a standard deviation from 0 to 10; nearest: 0.0"),
        ({"workdir": "b [1]/run"}, "no checkpoint can lie below [ ] in a path"),
        ({"optimizer.learning_rate": "1e999"}, "config key 'optimizer.learning_rate' is inf"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_clip_config_is_one_line_and_leaves_no_folder(tmp_path, capsys, changed, said):
    tiny.fails(capsys, tiny.clip_arguments(tmp_path, **changed), said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"prediction": "eps"}, "prediction 'eps' cannot represent t = 1.0 under Cosine"),
        ({"sigma_data": 0}, "config key 'sigma_data' is 0.0; it is a standard deviation above 0"),
        ({"prediction": "w"}, "prediction 'w' is not known"),
        ({"time": "t100"}, "time 't100' is not known; did you mean 't1000'?"),
        ({"loss__space": "veloc"}, "loss.space 'veloc' is not known; did you mean 'velocity'?"),
        ({"loss__weight": "simpel"}, "loss.weight 'simpel' is not known; did you mean 'simple'?"),
        ({"loss__times": "unifrom"}, "loss.times 'unifrom' is not known; did you mean 'uniform'?"),
        ({"condition__drop": 1.5}, "config key 'condition.drop' is 1.5; it is a share in [0, 1); nearest: 0.999999"),
        ({"schedule__name": "cosin"}, "schedule 'cosin' is not known; did you mean 'cosine'?"),
        ({"sampler__solver": "ddmp"}, "solver 'ddmp' is not known; did you mean 'ddpm'?"),
        ({"sampler__grid": "unifrom"}, "grid 'unifrom' is not known; did you mean 'uniform'?"),
        (
            {"sampler__num_steps": 0},
            "config key 'sampler.num_steps' is 0; it is a whole number of at least 1; nearest: 1",
        ),
        ({"sampler__guidance_scale": 1e999}, "takes a value of type float, like 3.0; 'inf' is not one"),
        ({"prediction": "score"}, "prediction 'score' cannot represent t = 1.0 under Cosine"),
        (
            {"sampler.guidance_scale": "1e999"},
            "config key 'sampler.guidance_scale' is inf; it is a number from 0 to 1e+06",
        ),
        ({"model.heads": 3}, "width 16 is not divided by 3 heads"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_diffusion_config_is_one_line_and_leaves_no_folder(run, tmp_path, capsys, changed, said):
    tiny.fails(capsys, tiny.diffusion_arguments(tmp_path, condition__encoder=run / "clip", **changed), said)
    assert list(tmp_path.iterdir()) == []


HAND_WRITTEN = """
import importlib.util

def get_config():
    spec = importlib.util.spec_from_file_location("base", {base!r})
    base = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(base)
    config = base.get_config()
    config.workdir = {workdir!r}
    {change}
    return config
"""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("del config.model.dtype", "config key 'model.dtype' is missing"),
        ("config.mesh = {'date': 1}", "mesh takes no 'date'; did you mean 'data'?"),
        ("del config.log_every", "config key 'log_every' is missing"),
        ("with config.unlocked(): config.bacth_size = 3", "'bacth_size' is not known; did you mean 'batch_size'?"),
        ("with config.ignore_type(): config.data = 'digits'", "config key 'data' is 'digits'; it is a group of keys"),
    ],
    ids=lambda value: value[:20],
)
def test_wrong_config_file_is_one_line(tmp_path, capsys, change, said):
    file, workdir = tmp_path / "mine.py", tmp_path / "run"
    file.write_text(HAND_WRITTEN.format(base=tiny.CLIP, workdir=str(workdir), change=change))
    tiny.fails(capsys, ["train", "--config", str(file)], said)
    assert not workdir.exists()
