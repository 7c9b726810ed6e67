"""diffusers' schedulers, run as its pipelines run them, on the cases of tests/pipelines/scheduler_cases.py."""

import sys
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines"))

from scheduler_cases import DRAWN, PICTURE, START, network


def theirs(config, num_steps, strength=1.0, eta=0.0):
    """(x0, timesteps), from noise in float64: diffusers' x / alpha may begin at 4096 times it, and would lose three digits."""
    import diffusers
    import torch

    config = dict(config)
    kind = getattr(diffusers, config.pop("_class_name"))
    scheduler = kind.from_config(config)
    scheduler.set_timesteps(num_steps)
    skipped = num_steps - min(int(num_steps * strength), num_steps)
    timesteps = scheduler.timesteps[skipped * getattr(scheduler, "order", 1) :]
    x = torch.tensor(START, dtype=torch.float64)
    if strength < 1:
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(skipped * getattr(scheduler, "order", 1))
        x = scheduler.add_noise(torch.tensor(PICTURE, dtype=torch.float64), x, timesteps[:1])
    else:
        x = x * scheduler.init_noise_sigma
    more = {"eta": eta} if kind is diffusers.DDIMScheduler else {}
    learned = config.get("variance_type") in ("learned", "learned_range")
    drawn = iter(DRAWN)
    with mock.patch(f"{kind.__module__}.randn_tensor", create=True) as draw:
        draw.side_effect = lambda *_, **__: torch.tensor(next(drawn), dtype=torch.float64)
        for place, t in enumerate(timesteps):
            if kind is diffusers.UnCLIPScheduler:  # as its pipelines call it
                more = {"prev_timestep": timesteps[place + 1] if place + 1 < len(timesteps) else None}
            output = network(scheduler.scale_model_input(x, t), t.to(torch.float32), torch.sin)
            if learned:
                output = torch.cat([output, 0.1 * output], dim=1)
            x = scheduler.step(output, t, x, **more).prev_sample
    return x.numpy(), timesteps.numpy()
