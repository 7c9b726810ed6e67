"""Writes tests/pipelines/golden/: small folders of Stable Diffusion, DiT and Karlo, and what diffusers draws with them.

Of DiT the noise is that of each step as well, [1 + steps, n, ...]: its scheduler here is DDPM. Karlo's is drawn from a seed,
and its peer computes in float64 (tests/parity/test_karlo.py says why).

python tests/parity/make_pipeline_goldens.py        # with the extra `parity`
"""

import json
import sys
import tempfile
from pathlib import Path

import dit_folders
import karlo_folders
import numpy as np
import pytest
import stable_folders as folders
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open

HERE = Path(__file__).parent.parent / "pipelines"
sys.path.insert(0, str(HERE))
from described import build  # noqa: E402

PROMPTS, NEGATIVE = ["a cat", "red dog"], ["dog", ""]


def described(folder: Path) -> dict:
    found: dict = {"files": {}, "tensors": {}}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix in (".json", ".txt"):
            found["files"][name] = path.read_text()
        elif path.suffix == ".safetensors":
            with safe_open(path, "np") as held:
                found["tensors"][name] = {key: held.get_slice(key).get_shape() for key in held.keys()}  # noqa: SIM118
    return found


def main() -> None:
    golden = HERE / "golden"
    golden.mkdir(parents=True, exist_ok=True)
    for kind, scheduler in (("sd1", "DDIMScheduler"), ("xl", "EulerDiscreteScheduler")):
        with tempfile.TemporaryDirectory() as place:
            first = folders.stable(Path(place) / "first", kind, half=True)
            folders.with_scheduler(first, scheduler)
            (golden / f"{kind}.json").write_text(json.dumps(described(first)) + "\n")
            folder = build(golden / f"{kind}.json", Path(place) / kind)
            pipe = DiffusionPipeline.from_pretrained(folder, variant="fp16", torch_dtype=torch.float32)
            noise = folders.noise(2)
            given = torch.from_numpy(np.ascontiguousarray(np.moveaxis(noise, -1, 1)))
            with torch.no_grad():
                latents = pipe(
                    PROMPTS, negative_prompt=NEGATIVE, num_inference_steps=4, guidance_scale=3.0, latents=given,
                    output_type="latent",
                ).images  # fmt: skip
                images = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample.clamp(-1, 1)
            found = {name: np.moveaxis(x.numpy(), 1, -1) for name, x in (("latents", latents), ("images", images))}
            np.savez_compressed(golden / f"{kind}.npz", noise=noise, **found)
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        first = dit_folders.dit(Path(place) / "first", half=True)
        folders.with_scheduler(first, "DDPMScheduler", **dit_folders.PUBLISHED)
        (golden / "dit.json").write_text(json.dumps(described(first)) + "\n")
        folder = build(golden / "dit.json", Path(place) / "dit")
        pipe = DiffusionPipeline.from_pretrained(folder, variant="fp16", torch_dtype=torch.float32)
        noise = np.random.default_rng(0).standard_normal((5, 2, 8, 8, 4)).astype(np.float32)
        latents, images = dit_folders.drawn(pipe, [207, 1], noise, steps=4, scale=3.0, monkeypatch=patch)
        np.savez_compressed(golden / "dit.npz", noise=noise, latents=latents, images=images)
    with tempfile.TemporaryDirectory() as place:
        first = karlo_folders.karlo(Path(place) / "first")
        (golden / "karlo.json").write_text(json.dumps(described(first)) + "\n")
        folder = build(golden / "karlo.json", Path(place) / "karlo")
        steps = np.array([4, 3, 2])
        z, small, large, _ = karlo_folders.staged(karlo_folders.peer(folder), PROMPTS, tuple(steps.tolist()))
        found = {"embedding": z, "small": small, "large": large}
        found = {name: np.asarray(x, np.float32) for name, x in found.items()}
        np.savez_compressed(golden / "karlo.npz", steps=steps, **found)


if __name__ == "__main__":
    main()
