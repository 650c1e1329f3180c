"""Samplers as the functions that packs call and bring: `sample_euler(model, x, sigmas, extra_args, callback, disable)`.

`model(x, sigma, **extra_args)` is the clean prediction, sigma one a row. Every built-in sampler is here under
`sample_NAME`, made when it is first asked for; a function that a pack puts here under such a name is a sampler of that
name from then on, and one that it puts in the place of a built-in is used instead.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from limner.errors import NotFound
from limner.sampling import noise as noise_sources
from limner.sampling.denoise import Inpaint, guided
from limner.sampling.model_sampling import ModelSampling, as_sampling, make_sampling
from limner.sampling.sampler import SamplerBase, consume
from limner.sampling.samplers import SAMPLERS, built_in
from limner.sampling.schedulers import exponential_sigmas, karras_sigmas
from limner.sampling.solver import ancestral
from limner.sampling.step import Noise

Function = Callable[..., Tensor]
ExtraArgs = dict[str, Any]


# -- a pack's function as a sampler -----------------------------------------------------------------------------------


class KSamplerX0Inpaint:
    """What a sampler's function calls: a guider, with an inpaint mask applied around it.

    inner_model: the guider. latent_image, noise: what is kept outside the mask, and the noise on it.
    """

    def __init__(self, model: Any, sigmas: Tensor) -> None:
        self.inner_model = model
        self.sigmas = sigmas
        self.latent_image: Tensor | None = None
        self.noise: Tensor | None = None

    def __call__(
        self,
        x: Tensor,
        sigma: Tensor,
        denoise_mask: Tensor | None = None,
        model_options: Mapping[str, Any] | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """The clean prediction."""
        kept = None
        if denoise_mask is not None and self.latent_image is not None and self.noise is not None:
            kept = Inpaint(self.latent_image, self.noise, denoise_mask, self.sigmas)
        return guided(self.inner_model, x, sigma, dict(model_options or {}), seed, kept)


class KSAMPLER(SamplerBase):
    """A sampler made of a function. extra_options: its keywords. inpaint_options: {"random": True} for fresh noise."""

    def __init__(
        self,
        sampler_function: Function,
        extra_options: Mapping[str, Any] | None = None,
        inpaint_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.sampler_function = sampler_function
        self.extra_options = dict(extra_options or {})
        self.inpaint_options = dict(inpaint_options or {})

    def with_options(self, **options: Any) -> KSAMPLER:
        """The same function with more keywords, as nodes set them."""
        return KSAMPLER(self.sampler_function, {**self.extra_options, **options}, self.inpaint_options)

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: ExtraArgs,
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """Run the function over `sigmas`, from noise added to the latent (model space) to the finished latent."""
        place = getattr(model_wrap.model, "place", lambda tensor: tensor)
        sigmas = place(sigmas)
        model = KSamplerX0Inpaint(model_wrap, sigmas)
        model.latent_image = torch.zeros_like(noise) if latent_image is None else latent_image
        model.noise = noise
        if self.inpaint_options.get("random", False):
            generator = torch.Generator().manual_seed(int(extra_args.get("seed") or 41) + 1)
            model.noise = place(torch.randn(noise.shape, generator=generator, dtype=noise.dtype))
        sampling = sampling_of(model)
        start = self.max_denoise(model_wrap, sigmas)
        x = sampling.noise_scaling(sigmas[0], noise, model.latent_image, start)
        total = len(sigmas) - 1

        def each_step(step: Mapping[str, Any]) -> None:
            if callback is not None:
                callback(step["i"], step["denoised"], step["x"], total)

        arguments = {**extra_args, "denoise_mask": denoise_mask}
        x = self.sampler_function(
            model, x, sigmas, extra_args=arguments, callback=each_step, disable=disable_pbar, **self.extra_options
        )
        return sampling.inverse_noise_scaling(sigmas[-1], x)


def sampling_of(model: Any) -> ModelSampling:
    """The noise levels of what a sampler's function was given; those of noise prediction where it does not say."""
    one: Any
    for one in (getattr(model, "inner_model", None), model):
        patcher: Any = getattr(one, "model_patcher", None)
        if patcher is not None and hasattr(patcher, "get_model_object"):
            return as_sampling(patcher.get_model_object("model_sampling"))
        inner: Any = getattr(one, "inner_model", None)
        holder: Any
        for holder in (patcher, inner, one):
            if hasattr(holder, "model_sampling"):
                return as_sampling(holder.model_sampling)
            if isinstance(getattr(holder, "sampling", None), ModelSampling):
                found: ModelSampling = holder.sampling
                return found
    return make_sampling("eps")


# -- a built-in sampler as a function ---------------------------------------------------------------------------------


class CalledDenoise:
    """`denoise(x, sigma)` over `model(x, sigmas, **extra_args)`."""

    def __init__(self, model: Any, extra_args: ExtraArgs) -> None:
        self.model = model
        self.extra_args = extra_args
        self.sampling = sampling_of(model)

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """The clean picture."""
        found: Tensor = self.model(x, x.new_full((x.shape[0],), sigma), **self.extra_args)
        return found

    def with_uncond(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """The same, and the prediction for the negative conditioning alone."""
        seen: list[Tensor] = []

        def probe(args: dict[str, Any]) -> Tensor:
            seen.append(args["uncond_denoised"])
            denoised: Tensor = args["denoised"]
            return denoised

        options = dict(self.extra_args.get("model_options") or {})
        options["sampler_post_cfg_function"] = [*options.get("sampler_post_cfg_function", ()), probe]
        options["disable_cfg1_optimization"] = True
        arguments = {**self.extra_args, "model_options": options}
        denoised: Tensor = self.model(x, x.new_full((x.shape[0],), sigma), **arguments)
        return denoised, seen[-1] if seen else denoised


def _noise_for(name: str, x: Tensor, levels: Sequence[float], seed: int | None, given: Any) -> Noise | None:
    sampler = built_in(name)
    if sampler.noise == "none":
        return None
    if given is not None:
        return lambda sigma, after: given(torch.tensor(sigma), torch.tensor(after))
    if sampler.noise == "brownian" and max(levels) > 0:
        place = None if sampler.on_device else lambda tensor: tensor.type_as(x)
        return noise_sources.brownian(x, levels, int(seed or 0), place)
    if seed is None:
        return lambda _sigma, _after: torch.randn_like(x)
    return noise_sources.gaussian(x, seed)


def _run(
    name: str,
    model: Any,
    x: Tensor,
    levels: list[float],
    extra_args: ExtraArgs | None,
    callback: Callable[[dict[str, Any]], Any] | None,
    options: dict[str, Any],
) -> Tensor:
    sampler = built_in(name)
    given = {key: value for key, value in {**sampler.options, **options}.items() if value is not None}
    source = given.pop("noise_sampler", None)
    arguments = dict(extra_args or {})
    noise = _noise_for(name, x, levels, arguments.get("seed"), source)
    denoise = CalledDenoise(model, arguments)
    steps = sampler.steps(denoise, x, levels, *(() if noise is None else (noise,)), **given)
    sigmas = torch.tensor(levels)

    def each_step(step: Any, index: int) -> None:
        if callback is not None:
            hat = step.sigma if step.sigma_hat is None else step.sigma_hat
            level = sigmas[min(index, len(levels) - 1)]
            callback({"x": step.x, "i": index, "sigma": level, "sigma_hat": hat, "denoised": step.denoised})

    return consume(steps, each=each_step)


def _sampler_function(name: str) -> Function:
    sampler = built_in(name)

    def function(
        model: Any,
        x: Tensor,
        sigmas: Tensor,
        extra_args: ExtraArgs | None = None,
        callback: Any = None,
        disable: bool | None = None,
        **options: Any,
    ) -> Tensor:
        del disable
        return _run(name, model, x, sigmas.tolist(), extra_args, callback, options)

    function.__name__ = function.__qualname__ = f"sample_{name}"
    function.__doc__ = f"The sampler {name} as a function of (model, x, sigmas)."
    function.__signature__ = _with_options(function, sampler)  # type: ignore[attr-defined]
    return function


def _with_options(function: Function, sampler: Any) -> inspect.Signature:
    """The signature with the sampler's own options in the place of `**options`."""
    kind = inspect.Parameter.KEYWORD_ONLY
    common = [one for one in inspect.signature(function).parameters.values() if one.kind is not one.VAR_KEYWORD]
    own = [
        one.replace(kind=kind, default=sampler.options.get(one.name, one.default))
        for one in inspect.signature(sampler.steps).parameters.values()
        if one.kind is kind
    ]
    if sampler.noise != "none":
        own.append(inspect.Parameter("noise_sampler", kind, default=None))
    return inspect.Signature([*common, *own])


_ALIASES = {
    "sample_euler_ancestral_RF": "euler_ancestral",
    "sample_dpm_2_ancestral_RF": "dpm_2_ancestral",
    "sample_dpmpp_2s_ancestral_RF": "dpmpp_2s_ancestral",
    "sample_unipc": "uni_pc",
    "sample_unipc_bh2": "uni_pc_bh2",
}


@cache
def _made(attribute: str) -> Function:
    return _sampler_function(_ALIASES.get(attribute, attribute.removeprefix("sample_")))


def __getattr__(attribute: str) -> Any:
    if attribute in _ALIASES or (attribute.startswith("sample_") and attribute[7:] in SAMPLERS):
        try:
            return _made(attribute)
        except NotFound:
            pass
    raise AttributeError(f"module {__name__!r} has no attribute {attribute!r}")


def brought(name: str) -> Function | None:
    """The function that a pack put here for a sampler of this name, or None."""
    found: Function | None = vars(sys.modules[__name__]).get(f"sample_{name}")
    return None if name in ("dpm_fast", "dpm_adaptive") and found in (sample_dpm_fast, sample_dpm_adaptive) else found


def sample_dpm_fast(
    model: Any,
    x: Tensor,
    sigma_min: Any,
    sigma_max: Any,
    n: int,
    extra_args: ExtraArgs | None = None,
    callback: Any = None,
    disable: bool | None = None,
    eta: float = 0.0,
    s_noise: float = 1.0,
    noise_sampler: Any = None,
) -> Tensor:
    """DPM-Solver-fast between two levels with n predictions."""
    del disable
    levels = [float(sigma_max), *[float(sigma_min)] * n]
    options = {"eta": eta, "s_noise": s_noise, "noise_sampler": noise_sampler}
    return _run("dpm_fast", model, x, levels, extra_args, callback, options)


def sample_dpm_adaptive(
    model: Any,
    x: Tensor,
    sigma_min: Any,
    sigma_max: Any,
    extra_args: ExtraArgs | None = None,
    callback: Any = None,
    disable: bool | None = None,
    return_info: bool = False,
    **options: Any,
) -> Any:
    """DPM-Solver with steps sized by the estimated error, between two levels."""
    del disable
    steps: list[Any] = []

    def each_step(step: dict[str, Any]) -> None:
        steps.append(step["i"])
        if callback is not None:
            callback(step)

    done = _run("dpm_adaptive", model, x, [float(sigma_max), float(sigma_min)], extra_args, each_step, options)
    count = len(steps)
    order = int(options.get("order", 3))
    return (done, {"steps": count, "nfe": count * order, "n_accept": count, "n_reject": 0}) if return_info else done


# -- schedules --------------------------------------------------------------------------------------------------------


def append_zero(x: Tensor) -> Tensor:
    """A schedule with 0 behind it."""
    return torch.cat([x, x.new_zeros(1)])


def get_sigmas_karras(n: int, sigma_min: Any, sigma_max: Any, rho: float = 7.0, device: Any = "cpu") -> Tensor:
    """Even in sigma^(1/rho), ending in 0."""
    return torch.tensor(karras_sigmas(float(sigma_min), float(sigma_max), n, rho), device=device)


def get_sigmas_exponential(n: int, sigma_min: Any, sigma_max: Any, device: Any = "cpu") -> Tensor:
    """Even in ln sigma, ending in 0."""
    return torch.tensor(exponential_sigmas(float(sigma_min), float(sigma_max), n), device=device)


def get_sigmas_polyexponential(n: int, sigma_min: Any, sigma_max: Any, rho: float = 1.0, device: Any = "cpu") -> Tensor:
    """A power of a ramp in ln sigma, ending in 0."""
    ramp = torch.linspace(1, 0, n, device=device) ** rho
    low, high = math.log(float(sigma_min)), math.log(float(sigma_max))
    return append_zero((ramp * (high - low) + low).exp())


def get_sigmas_vp(
    n: int, beta_d: float = 19.9, beta_min: float = 0.1, eps_s: float = 0.001, device: Any = "cpu"
) -> Tensor:
    """The levels of a continuous variance-preserving process at even times, ending in 0."""
    t = torch.linspace(1, eps_s, n, device=device)
    return append_zero(((beta_d * t**2 / 2 + beta_min * t).exp() - 1).sqrt())


def get_sigmas_laplace(
    n: int, sigma_min: float, sigma_max: float, mu: float = 0.0, beta: float = 0.5, device: Any = "cpu"
) -> Tensor:
    """Levels at the quantiles of a Laplace distribution of ln sigma; no 0 behind them."""
    x = torch.linspace(0, 1, n, device=device)
    spread = mu - beta * (0.5 - x).sign() * (1 - 2 * (0.5 - x).abs() + 1e-5).log()
    return spread.exp().clamp(min=sigma_min, max=sigma_max)


# -- formulas ---------------------------------------------------------------------------------------------------------


def append_dims(x: Tensor, target_dims: int) -> Tensor:
    """Axes of length 1 behind a tensor until it has so many. Raises ValueError when it has more."""
    missing = target_dims - x.ndim
    if missing < 0:
        raise ValueError(f"input has {x.ndim} dims but target_dims is {target_dims}, which is less")
    return x[(...,) + (None,) * missing]


def to_d(x: Tensor, sigma: Any, denoised: Tensor) -> Tensor:
    """dx/dσ of the probability-flow ODE.  Karras et al. 2022, eq. 1."""
    level = append_dims(sigma, x.ndim) if isinstance(sigma, Tensor) else sigma
    return (x - denoised) / level


def get_ancestral_step(sigma_from: Any, sigma_to: Any, eta: float = 1.0) -> tuple[Any, Any]:
    """(down, up): step to `down` without noise, then add `up` of it, to be at `sigma_to`."""
    if not isinstance(sigma_from, Tensor) and not isinstance(sigma_to, Tensor):
        return ancestral(float(sigma_from), float(sigma_to), eta)
    if not eta:
        return sigma_to, 0.0
    fresh = eta * (sigma_to**2 * (sigma_from**2 - sigma_to**2) / sigma_from**2) ** 0.5
    up = torch.minimum(torch.as_tensor(sigma_to), torch.as_tensor(fresh))
    return (sigma_to**2 - up**2) ** 0.5, up


def default_noise_sampler(x: Tensor, seed: int | None = None) -> Callable[[Any, Any], Tensor]:
    """Independent noise for every call, from one generator on the latent's device where there is a seed."""
    if seed is None:
        return lambda _sigma, _after: torch.randn_like(x)
    source = noise_sources.gaussian(x, seed)
    return lambda sigma, after: source(float(sigma), float(after))


class BrownianTreeNoiseSampler:
    """Increments of one Brownian path: the noise of a step from one level to another, of unit variance.

    seed: one for all rows, or a list of one a row. transform: of levels to the path's time. cpu: draw on the CPU.
    """

    def __init__(
        self,
        x: Tensor,
        sigma_min: Any,
        sigma_max: Any,
        seed: Any = None,
        transform: Callable[[Tensor], Tensor] = lambda sigma: sigma,
        cpu: bool = False,
    ) -> None:
        self.transform = transform
        ends = [float(transform(torch.as_tensor(sigma))) for sigma in (sigma_min, sigma_max)]
        if seed is None:
            seed = int(torch.randint(0, 2**63 - 1, ()).item())
        place = (lambda tensor: tensor.type_as(x)) if cpu and x.device.type != "cpu" else None
        if isinstance(seed, Sequence) and not isinstance(seed, str):
            rows = [noise_sources.brownian(x[i : i + 1], ends, int(one), place) for i, one in enumerate(seed)]
            self.tree: Noise = lambda sigma, after: torch.cat([row(sigma, after) for row in rows])
        else:
            self.tree = noise_sources.brownian(x, ends, int(seed), place)

    def __call__(self, sigma: Any, sigma_next: Any) -> Tensor:
        """The noise of a step."""
        start, end = (float(self.transform(torch.as_tensor(level))) for level in (sigma, sigma_next))
        return self.tree(start, end)


def sigma_to_half_log_snr(sigma: Tensor, model_sampling: Any) -> Tensor:
    """λ = ln(α/σ)."""
    return sigma.logit().neg() if as_sampling(model_sampling).is_flow else sigma.log().neg()


def half_log_snr_to_sigma(half_log_snr: Tensor, model_sampling: Any) -> Tensor:
    """The level of a λ."""
    return half_log_snr.neg().sigmoid() if as_sampling(model_sampling).is_flow else half_log_snr.neg().exp()


def offset_first_sigma_for_snr(sigmas: Tensor, model_sampling: Any, percent_offset: float = 1e-4) -> Tensor:
    """A flow's first level 1, whose λ is -∞, moved down a little."""
    sampling = as_sampling(model_sampling)
    if len(sigmas) > 1 and sampling.is_flow and sigmas[0] >= 1:
        sigmas = sigmas.clone()
        sigmas[0] = sampling.percent_to_sigma(percent_offset)
    return sigmas


def ei_h_phi_1(h: Tensor) -> Tensor:
    """h · φ₁(h) of an exponential integrator: e^h - 1."""
    return torch.expm1(h)


def ei_h_phi_2(h: Tensor) -> Tensor:
    """h · φ₂(h): (e^h - 1 - h) / h."""
    return (torch.expm1(h) - h) / h


def linear_multistep_coeff(order: int, t: Any, i: int, j: int) -> float:
    """The weight of the j-th last slope in an Adams-Bashforth step from t[i] to t[i + 1]. Raises ValueError."""
    from limner.sampling.solver import lagrange_integrals  # noqa: PLC0415 - one use

    if order - 1 > i:
        raise ValueError(f"Order {order} too high for step {i}")
    nodes = [float(t[i - k]) for k in range(order)]
    return lagrange_integrals(nodes, float(t[i]), float(t[i + 1]))[j]


def get_tau_interval_func(start_sigma: float, end_sigma: float, eta: float = 1.0) -> Callable[[Any], float]:
    """SA-Solver's τ: `eta` between two levels, 0 outside."""

    def tau(sigma: Any) -> float:
        return float(eta) if start_sigma >= float(sigma) >= end_sigma and eta > 0 else 0.0

    return tau
