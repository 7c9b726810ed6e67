"""DiT against diffusers' DiTPipeline, and Meta's file against its sampling written by hand: the same noise on both sides."""

import numpy as np
import pytest

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default"), pytest.mark.timeout(900)]
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import dit_folders as folders  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from meta_dit import MetaDiT  # noqa: E402
from stable_folders import spread, with_scheduler  # noqa: E402

from diffusion_jax import load_pretrained  # noqa: E402
from diffusion_jax.convert.dit import save_dit  # noqa: E402
from diffusion_jax.nets import DIT_MODELS, DiT, Network  # noqa: E402
from diffusion_jax.nets.layers import sincos_positions  # noqa: E402
from diffusion_jax.pipelines import load_pipeline  # noqa: E402

LABELS = [207, 1]
# DiTPipeline draws nothing sensible with schedulers that scale what the network sees, such as Euler's: it steps from the scaled
# state, and begins at unit noise. They are compared in test_pipeline_schedulers.
SCHEDULERS = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "ddpm_large": ("DDPMScheduler", {"variance_type": "fixed_large"}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
SMALL = {"patch": 2, "width": 32, "layers": 2, "heads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folders.dit(tmp_path_factory.mktemp("dit") / "learned")


def noise_of(steps, seed=0):
    return np.random.default_rng(seed).standard_normal((1 + steps, 2, 8, 8, 4)).astype(np.float32)


def close(ours, theirs, bound=1e-4):
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= bound * np.abs(theirs).max()


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("steps", [12, 20])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_pipeline(folder, name, steps, scale, monkeypatch):
    kind, fields = SCHEDULERS[name]
    with_scheduler(folder, kind, **folders.PUBLISHED, **fields)
    noise = noise_of(steps)
    pipe = diffusers.DiTPipeline.from_pretrained(folder)
    latents, images = folders.drawn(pipe, LABELS, noise, steps=steps, scale=scale, monkeypatch=monkeypatch)
    pipeline = load_pipeline(folder)
    given = noise if "ddpm" in name else noise[0]
    ours = pipeline.generate(LABELS, num_steps=steps, guidance_scale=scale, noise=given, output="latent")
    close(ours, latents)
    assert np.abs(pipeline.decode(ours) - images).max() <= 1e-3


def test_names(folder):
    pipe, pipeline = diffusers.DiTPipeline.from_pretrained(folder), load_pipeline(folder)
    names = ["tench", "Tinca tinca", "goldfish", "golden retriever"]
    assert pipeline.label_ids(names).tolist() == pipe.get_label_ids(names) == [0, 0, 1, 207]


def by_hand(network, noise, steps, scale, channels, fields=()):
    """Ancestral sampling with the learned variance: the classes' rows first, guided in the first channels."""
    scheduler = diffusers.DDPMScheduler(
        **folders.PUBLISHED, **{"variance_type": "learned_range", "timestep_spacing": "linspace", **dict(fields)}
    )
    scheduler.set_timesteps(steps)
    labels = torch.tensor([*LABELS, 1000, 1000])
    given = iter(map(folders.nchw, noise))
    x = next(given)
    for t in scheduler.timesteps:
        with torch.no_grad():
            out = network(torch.cat([x, x]), t.expand(4), labels)
        towards, away = out[:2], out[2:]
        guided = towards.clone()
        guided[:, :channels] = away[:, :channels] + scale * (towards - away)[:, :channels]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(folders.scheduling_ddpm, "randn_tensor", lambda *_, **__: next(given))
            x = scheduler.step(guided, t, x).prev_sample
    return np.moveaxis(x.numpy(), 1, -1)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("steps", [12, 20])
def test_a_folder_with_the_learned_variance(folder, steps, channels):
    fields = {"variance_type": "learned_range", "timestep_spacing": "leading"}
    with_scheduler(folder, "DDPMScheduler", **folders.PUBLISHED, **fields)
    model = diffusers.DiTTransformer2DModel.from_pretrained(folder / "transformer")
    noise, pipeline = noise_of(steps, 1), load_pipeline(folder)
    wanted = by_hand(lambda x, t, y: model(x, t, y).sample, noise, steps, 4.0, channels, fields)
    guidance = {"channels": channels} if channels < 4 else None
    close(pipeline.generate(LABELS, num_steps=steps, guidance=guidance, noise=noise, output="latent"), wanted)


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(3)
    model = MetaDiT(side=8, classes=1000, **SMALL)
    kept = model.pos_embed.clone()
    spread(model, 0.15)
    with torch.no_grad():
        model.pos_embed.copy_(kept)
    return model.eval()


@pytest.fixture
def named(monkeypatch):
    monkeypatch.setitem(DIT_MODELS, "dit-small", {**DIT_MODELS["dit-xl-2-256"], **SMALL, "image_size": 8})


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_metas_file(small, named, ending, tmp_path):
    file = tmp_path / f"DiT.{ending}"
    if ending == "pt":
        torch.save(small.state_dict(), file)
    else:
        from safetensors.torch import save_file

        save_file(small.state_dict(), file)
    found = load_pretrained(file, model="dit-small")
    x, t, label = noise_of(0)[0], np.array([17, 803]), np.array([3, 1000])
    with torch.no_grad():
        wanted = np.moveaxis(small(folders.nchw(x), torch.tensor(t), torch.tensor(label)).numpy(), 1, -1)
    ours = found.network.apply(found.params, jnp.asarray(x), jnp.asarray(t, jnp.float32), {"label": jnp.asarray(label)})
    assert np.abs(np.asarray(ours) - wanted).max() <= 2e-5 * np.abs(wanted).max()
    # The other library's time and norm are another network.
    network = Network(lambda rngs: DiT(rngs, **{**found.config, "time_shift": 1.0, "eps": 1e-5}))
    moved = network.apply(found.params, jnp.asarray(x), jnp.asarray(t, jnp.float32), {"label": jnp.asarray(label)})
    assert np.abs(np.asarray(moved) - wanted).max() > 1e-3 * np.abs(wanted).max()
    back = tmp_path / "back.pt"
    arrays = jax.tree.map(np.asarray, found.params)
    save_dit(back, found.config, arrays, layout="meta", positions=sincos_positions(4, 4, SMALL["width"]))
    again = MetaDiT(side=8, classes=1000, **SMALL)
    again.load_state_dict(torch.load(back, weights_only=True))
    for name, value in small.state_dict().items():
        bound = 1e-6 if name == "pos_embed" else 0.0
        assert (again.state_dict()[name] - value).abs().max() <= bound, name


@pytest.mark.parametrize("steps", [12, 20])
def test_metas_file_is_drawn_from_as_its_authors_do(small, named, folder, steps, tmp_path):
    torch.save(small.state_dict(), tmp_path / "DiT.pt")
    pipeline = load_pipeline(tmp_path / "DiT.pt", model="dit-small", vae=folder / "vae")
    noise = noise_of(steps, 2)
    ours = pipeline.generate(LABELS, num_steps=steps, guidance_scale=4.0, noise=noise, output="latent")
    close(ours, by_hand(small, noise, steps, 4.0, 3))


@pytest.mark.parametrize("steps", [10, 12, 20, 50, 100, 250])
def test_the_authors_steps(small, named, folder, steps, tmp_path):
    """Every (1000 - 1) / (steps - 1)-th of the table, to the nearest (their respacing)."""
    torch.save(small.state_dict(), tmp_path / "DiT.pt")
    pipeline = load_pipeline(tmp_path / "DiT.pt", model="dit-small", vae=folder / "vae")
    wanted = {round(i * 999 / (steps - 1)) for i in range(steps)}
    assert set(pipeline.scheduler.plan(steps).timesteps.astype(int).tolist()) == wanted
