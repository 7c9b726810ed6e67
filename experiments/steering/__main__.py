"""Guidance and editing on the digits run, measured and shown on one page.

    python -m experiments.steering [--run runs/digits] [--split test]

Needs the run of `make demo`. Guidance methods are compared at equal evaluations of the network; then negative prompts,
composition, img2img, inpainting, inverse problems, interpolation, inversion, and bits per dimension. Writes
`report/steering.html`, `steering.png` and `steering.json` beside the run's own report. A weaker model for autoguidance (the
same config, 150 steps) is trained in RUN/weak on the first call, about half a minute.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from diffusion_jax import build
from diffusion_jax.config import apply_overrides
from diffusion_jax.files import write_atomic
from diffusion_jax.systems.diffusion.run import DiffusionRun
from diffusion_jax.systems.table import load_run
from diffusion_jax.training import train_run
from diffusion_jax.typing import UserError
from experiments.arguments import one_seed
from experiments.digits.reader import fit_reader
from experiments.progress import said_and_timed, say
from experiments.steering.measures import EVALUATIONS, INTERVAL, PARTS, Bench


def weaker(run_folder: Path, run: DiffusionRun) -> DiffusionRun:
    """The same config after 150 steps, trained on the first call."""
    folder = run_folder / "weak"
    config = apply_overrides(run.config.copy_and_resolve_references(), {"steps": "150", "workdir": str(folder)})
    with config.unlocked():
        for part in config.condition.get("parts", {"": config.condition}).values():
            part.encoder = str(run.clip.path)
    train_run(config, say=say)
    weak = load_run(folder)
    assert isinstance(weak, DiffusionRun)
    return weak


def main() -> int:
    """Measures everything and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/digits"), help="the run of make demo")
    parser.add_argument("--split", choices=("validation", "test"), default="test", help="scans that judge the result")
    parser.add_argument("--seed", type=int, default=0, help="seed of the samples")
    arguments = parser.parse_args()

    from diffusion_jax.cli import guarded

    return guarded(lambda: study(arguments.run, arguments.split, arguments.seed))


def study(folder: Path, split: str, seed: int) -> int:
    """Every part in turn, timed."""
    from diffusion_jax.parallel.accelerator import configure
    from experiments.steering.page import save_picture, write

    began = time.perf_counter()
    one_seed(seed)
    configure(say)
    run = load_run(folder)
    if not isinstance(run, DiffusionRun):
        raise UserError(f"the run in {str(folder)!r} is a CLIP run; this needs the run of make demo")
    train, scans = (build.source(run.config.data, name).columns() for name in ("train", split))
    reader = fit_reader(train["image"], train["label"])
    bench = Bench(run, weaker(folder, run), reader, train, scans, split, seed)
    out: dict[str, Any] = {"split": split, "seed": seed, "evaluations": EVALUATIONS, "interval": INTERVAL}
    pictures: dict[str, dict[str, Any]] = {}
    for part in PARTS:
        with said_and_timed(part.__name__):
            part(bench, out, pictures.setdefault(part.__name__, {}))
    out["seconds"] = time.perf_counter() - began
    write_atomic(folder / "report" / "steering.json", (json.dumps(out, indent=2) + "\n").encode())
    save_picture(folder / "report" / "steering.png", pictures)
    page = write(folder / "report" / "steering.html", out, pictures)
    say(f"look at {page} ({out['seconds']:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
