"""`python -m diffusion_jax.cli` is `diffusion-jax`."""

import sys

from diffusion_jax.cli import main

sys.exit(main())
