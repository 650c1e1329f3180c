"""Sampling: schedulers, samplers, noise, guidance and conditioning as functions of `denoise(x, sigma)`."""
