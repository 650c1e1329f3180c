"""Sampling: schedulers, samplers, noise, guidance, conditioning and previews, as functions of `denoise(x, sigma)`."""

from limner.sampling.condition_values import (
    ConditionValue,
    ConstantCond,
    CrossAttnCond,
    ListCond,
    NoiseShapeCond,
    RegularCond,
)
from limner.sampling.guiders import BasicGuider, CFGGuider, DualCFGGuider, PerpNegGuider
from limner.sampling.latent import LatentFormat
from limner.sampling.model_sampling import ModelSampling, make_sampling
from limner.sampling.noise import prepare_noise
from limner.sampling.previews import make_previewer
from limner.sampling.protocols import Control, DiffusionModel
from limner.sampling.run import ksample, sample, steps_sigmas
from limner.sampling.sampler import Callback, Sampler
from limner.sampling.samplers import SAMPLERS, get_sampler
from limner.sampling.schedulers import SCHEDULERS, calculate_sigmas
from limner.sampling.step import Denoise, Noise, Step, Steps

__all__ = [
    "SAMPLERS",
    "SCHEDULERS",
    "BasicGuider",
    "CFGGuider",
    "Callback",
    "ConditionValue",
    "ConstantCond",
    "Control",
    "CrossAttnCond",
    "Denoise",
    "DiffusionModel",
    "DualCFGGuider",
    "LatentFormat",
    "ListCond",
    "ModelSampling",
    "Noise",
    "NoiseShapeCond",
    "PerpNegGuider",
    "RegularCond",
    "Sampler",
    "Step",
    "Steps",
    "calculate_sigmas",
    "get_sampler",
    "ksample",
    "make_previewer",
    "make_sampling",
    "prepare_noise",
    "sample",
    "steps_sigmas",
]
