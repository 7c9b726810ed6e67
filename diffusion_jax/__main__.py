"""`python -m diffusion_jax` is `diffusion-jax`."""

import sys

from diffusion_jax.cli import main

sys.exit(main())
