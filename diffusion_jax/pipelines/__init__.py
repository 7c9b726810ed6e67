"""Published folders and runs joined for sampling."""

from diffusion_jax.pipelines.scheduler import Plan, Scheduler, read_scheduler

__all__ = ["Plan", "Scheduler", "read_scheduler"]
