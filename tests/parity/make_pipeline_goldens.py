"""Writes tests/pipelines/golden/: descriptions of two small folders of Stable Diffusion, and what diffusers draws with them.

python tests/parity/make_pipeline_goldens.py        # with the extra `parity`
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
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


if __name__ == "__main__":
    main()
