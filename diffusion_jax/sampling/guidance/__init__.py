"""What steers a denoiser: guidance rules, limits, gradients, compositions of conditions."""
