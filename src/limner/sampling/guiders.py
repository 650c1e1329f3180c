"""Guidance: predictions of several conditionings made one; and the object a run is started from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from limner.sampling import conditions, preparing
from limner.sampling.prepare import Condition, Conditions, convert_conditioning, prepare_mask, process_conditions
from limner.sampling.preparing import inner
from limner.sampling.wrappers import WrapperExecutor, WrappersMP, get_all_wrappers

if TYPE_CHECKING:
    from limner.sampling.sampler import Callback

Options = Mapping[str, Any]


def cfg_function(
    model: Any,
    cond_pred: Tensor,
    uncond_pred: Tensor,
    cond_scale: float,
    x: Tensor,
    timestep: Tensor,
    model_options: Options | None = None,
    cond: list[Condition] | None = None,
    uncond: list[Condition] | None = None,
) -> Tensor:
    """uncond + (cond - uncond) · scale, or what `sampler_cfg_function` makes of them; then the post-CFG functions.

    Ho & Salimans 2022. A custom function works on noise: it is given x - prediction and returns x - result.
    """
    sigma, model_options = timestep, model_options or {}
    shared = {
        "cond_scale": cond_scale,
        "timestep": sigma,
        "input": x,
        "sigma": sigma,
        "cond_denoised": cond_pred,
        "uncond_denoised": uncond_pred,
        "model": model,
        "model_options": model_options,
        "input_cond": cond,
        "input_uncond": uncond,
    }
    custom = model_options.get("sampler_cfg_function")
    if custom is not None:
        result: Tensor = x - custom({"cond": x - cond_pred, "uncond": x - uncond_pred, **shared})
    else:
        result = uncond_pred + (cond_pred - uncond_pred) * cond_scale
    for function in model_options.get("sampler_post_cfg_function", ()):
        result = function({**shared, "denoised": result, "cond": cond, "uncond": uncond})
    return result


def predict_branches(
    model: Any,
    conds: Sequence[list[Condition] | None],
    x: Tensor,
    sigma: Tensor,
    model_options: Options,
    cond_scale: float = 1.0,
) -> list[Tensor]:
    """The branches' predictions, through `sampler_calc_cond_batch_function` and the pre-CFG functions if any."""
    override = model_options.get("sampler_calc_cond_batch_function")
    if override is not None:
        outputs: list[Tensor] = override(
            {"conds": conds, "input": x, "sigma": sigma, "model": model, "model_options": model_options}
        )
    else:
        outputs = conditions.calc_cond_batch(model, conds, x, sigma, model_options)
    for function in model_options.get("sampler_pre_cfg_function", ()):
        outputs = function(
            {
                "conds": conds,
                "conds_out": outputs,
                "cond_scale": cond_scale,
                "timestep": sigma,
                "input": x,
                "sigma": sigma,
                "model": model,
                "model_options": model_options,
            }
        )
    return outputs


def sampling_function(
    model: Any,
    x: Tensor,
    timestep: Tensor,
    uncond: list[Condition] | None,
    cond: list[Condition] | None,
    cond_scale: float,
    model_options: Options | None = None,
    seed: int | None = None,  # noqa: ARG001 - part of the form that packs replace
) -> Tensor:
    """One guided prediction. At scale 1 the negative is not predicted unless disable_cfg1_optimization asks for it."""
    options = model_options or {}
    if _is_one(cond_scale) and not options.get("disable_cfg1_optimization", False):
        uncond = None
    outputs = predict_branches(model, [cond, uncond], x, timestep, options, cond_scale)
    return cfg_function(model, outputs[0], outputs[1], cond_scale, x, timestep, options, cond=cond, uncond=uncond)


def _is_one(scale: float) -> bool:
    return math.isclose(scale, 1.0)


class CFGGuider:
    """A model with its conditionings: what GUIDER sockets carry. Subclasses override `predict_noise`.

    model_patcher: the model. inner_model: its network and facts while a run goes on. conds: the conditions of the run.
    """

    def __init__(self, model_patcher: Any) -> None:
        self.model_patcher = model_patcher
        self.inner_model: Any = inner(model_patcher)
        self.model_options: dict[str, Any] = dict(model_patcher.options)
        self.original_conds: Conditions = {}
        self.conds: Conditions = {}
        self.cfg = 1.0

    @property
    def model(self) -> Any:
        """The model being guided."""
        return self.model_patcher

    def set_conds(self, positive: Sequence[Sequence[Any]], negative: Sequence[Sequence[Any]]) -> None:
        """The positive and the negative conditioning, as nodes pass them."""
        self.inner_set_conds({"positive": positive, "negative": negative})

    def set_cfg(self, cfg: float) -> None:
        """The guidance scale."""
        self.cfg = cfg

    def inner_set_conds(self, conds: Mapping[str, Sequence[Sequence[Any]]]) -> None:
        """Conditionings by any branch names."""
        self.original_conds.update({name: convert_conditioning(branch) for name, branch in conds.items()})

    def __call__(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None
    ) -> Tensor:
        """The guided prediction: `predict_noise` inside the wrappers of that kind."""
        return self.outer_predict_noise(x, timestep, model_options or {}, seed)

    def outer_predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None
    ) -> Tensor:
        """`predict_noise` inside the wrappers of that kind."""
        wrappers = get_all_wrappers(WrappersMP.PREDICT_NOISE, self.model_options, is_model_options=True)
        executor = WrapperExecutor.new_class_executor(self.predict_noise, self, wrappers)
        found: Tensor = executor.execute(x, timestep, model_options or {}, seed)
        return found

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None
    ) -> Tensor:
        """The clean latent predicted from x at sigmas `timestep` (one a row)."""
        return sampling_function(
            self.inner_model,
            x,
            timestep,
            self.conds.get("negative"),
            self.conds.get("positive"),
            self.cfg,
            model_options=model_options or {},
            seed=seed,
        )

    def sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Tensor | None = None,
        callback: Callback | None = None,
        disable_pbar: bool = False,
        seed: int | None = None,
    ) -> Tensor:
        """Run the sampler; latents in autoencoder space, in and out, on the CPU. No sigmas: the latent unchanged."""
        if sigmas.shape[-1] == 0:
            return latent_image
        before = self.model_options
        self.conds = {name: [dict(one) for one in branch] for name, branch in self.original_conds.items()}
        self.model_options = preparing.options_for_run(self.model_patcher, before)
        try:
            with preparing.hooks_of(self.model_patcher, self.conds, self.model_options):
                wrappers = get_all_wrappers(WrappersMP.OUTER_SAMPLE, self.model_options, is_model_options=True)
                executor = WrapperExecutor.new_class_executor(self.outer_sample, self, wrappers)
                output: Tensor = executor.execute(
                    noise,
                    latent_image,
                    sampler,
                    sigmas,
                    denoise_mask,
                    callback,
                    disable_pbar,
                    seed,
                    latent_shapes=[latent_image.shape],
                )
        finally:
            self.model_options = before
            self.conds = {}
        return output

    def outer_sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Tensor | None = None,
        callback: Callback | None = None,
        disable_pbar: bool = False,
        seed: int | None = None,
        latent_shapes: Sequence[Any] | None = None,
    ) -> Tensor:
        """The model in memory, tensors on its device, sigmas on the CPU."""
        patcher = self.model_patcher
        found = preparing.prepare_sampling(patcher, noise.shape, self.conds, self.model_options)
        self.inner_model, self.conds, others = found
        with preparing.loaded(patcher, noise.shape, others, len(sigmas) - 1, self.conds):
            place = patcher.place
            if denoise_mask is not None:
                denoise_mask = place(prepare_mask(denoise_mask, noise.shape))
            noise, latent_image = place(noise).float(), place(latent_image).float()
            preparing.tell(patcher, "pre_run")
            try:
                output = self.inner_sample(
                    noise,
                    latent_image,
                    noise.device,
                    sampler,
                    sigmas.cpu().float(),
                    denoise_mask,
                    callback,
                    disable_pbar,
                    seed,
                    latent_shapes=latent_shapes,
                )
            finally:
                preparing.tell(patcher, "cleanup")
                preparing.cleanup_models(self.conds, others)
        return output.cpu()

    @torch.inference_mode()
    def inner_sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        device: torch.device,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Tensor | None,
        callback: Callback | None,
        disable_pbar: bool,
        seed: int | None,
        latent_shapes: Sequence[Any] | None = None,
    ) -> Tensor:
        """To model space and back, around the sampler."""
        del device, latent_shapes
        model = self.inner_model
        if latent_image.any():
            latent_image = model.latent_format.process_in(latent_image)
        self.conds = process_conditions(model, noise, self.conds, latent_image, denoise_mask, seed)
        options = dict(self.model_options)
        options["transformer_options"] = {**options.get("transformer_options", {}), "sample_sigmas": sigmas}
        extra_args = {"model_options": options, "seed": seed}
        wrappers = get_all_wrappers(WrappersMP.SAMPLER_SAMPLE, options, is_model_options=True)
        executor = WrapperExecutor.new_class_executor(sampler.sample, sampler, wrappers)
        samples: Tensor = executor.execute(
            self, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar
        )
        done: Tensor = model.latent_format.process_out(samples.float())
        return done


class BasicGuider(CFGGuider):
    """One conditioning, no guidance."""

    def set_cond(self, positive: Sequence[Sequence[Any]]) -> None:
        """The conditioning."""
        self.inner_set_conds({"positive": positive})


class DualCFGGuider(CFGGuider):
    """Two conditionings and a negative. regular: cfg(middle, negative, cfg2) + (positive - middle) · cfg1."""

    def __init__(self, model_patcher: Any) -> None:
        super().__init__(model_patcher)
        self.cfg2 = 1.0
        self.nested = False

    def set_dual_cfg(self, cfg1: float, cfg2: float, nested: bool = False) -> None:
        """cfg1: positive against middle; cfg2: against the negative; nested: guide the guided."""
        self.cfg, self.cfg2, self.nested = cfg1, cfg2, nested

    def set_dual_conds(
        self,
        positive: Sequence[Sequence[Any]],
        middle: Sequence[Sequence[Any]],
        negative: Sequence[Sequence[Any]],
    ) -> None:
        """The three conditionings; the middle one is prepared as a negative prompt."""
        marked = [[tokens, {**values, "prompt_type": "negative"}] for tokens, values in middle]
        self.inner_set_conds({"positive": positive, "middle": marked, "negative": negative})

    def predict_noise(
        self,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] | None = None,
        seed: int | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Both guidances in one batch of predictions."""
        model_options, conds = model_options or {}, self.conds
        positive, middle = conds.get("positive"), conds.get("middle")
        negative: list[Condition] | None = conds.get("negative")
        if not model_options.get("disable_cfg1_optimization", False) and not self.nested and _is_one(self.cfg2):
            negative = None
            middle = None if _is_one(self.cfg) else middle
        out = predict_branches(self.inner_model, [negative, middle, positive], x, timestep, model_options, self.cfg)
        if self.nested:
            guided = cfg_function(
                self.inner_model, out[2], out[1], self.cfg, x, timestep, model_options, cond=positive, uncond=middle
            )
            return out[0] + self.cfg2 * (guided - out[0])
        against = cfg_function(
            self.inner_model, out[1], out[0], self.cfg2, x, timestep, model_options, cond=middle, uncond=negative
        )
        return against + (out[2] - out[1]) * self.cfg


def perp_neg(positive: Tensor, negative: Tensor, empty: Tensor, neg_scale: float, scale: float) -> Tensor:
    """Guidance away from what of the negative is perpendicular to the positive.  Armandpour et al. 2023."""
    wanted, unwanted = positive - empty, negative - empty
    perpendicular = unwanted - ((unwanted * wanted).sum() / wanted.norm() ** 2) * wanted
    guided: Tensor = empty + scale * (wanted - neg_scale * perpendicular)
    return guided


class PerpNegGuider(CFGGuider):
    """Positive, negative and an empty prompt."""

    def __init__(self, model_patcher: Any) -> None:
        super().__init__(model_patcher)
        self.neg_scale = 1.0

    def set_perp_conds(
        self, positive: Sequence[Sequence[Any]], negative: Sequence[Sequence[Any]], empty: Sequence[Sequence[Any]]
    ) -> None:
        """The three conditionings; the empty one is prepared as a negative prompt."""
        marked = [[tokens, {**values, "prompt_type": "negative"}] for tokens, values in empty]
        self.inner_set_conds({"positive": positive, "empty_negative_prompt": marked, "negative": negative})

    def set_perp_cfg(self, cfg: float, neg_scale: float) -> None:
        """The guidance scale, and the negative's part in it."""
        self.cfg, self.neg_scale = cfg, neg_scale

    def predict_noise(
        self,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] | None = None,
        seed: int | None = None,  # noqa: ARG002
    ) -> Tensor:
        """The three predictions in one batch; post-CFG functions see the empty prompt as the unconditional."""
        model_options = model_options or {}
        positive = self.conds.get("positive")
        negative: list[Condition] | None = self.conds.get("negative")
        empty: list[Condition] | None = self.conds.get("empty_negative_prompt")
        if not model_options.get("disable_cfg1_optimization", False) and math.isclose(self.neg_scale, 0.0):
            negative = None
            empty = None if _is_one(self.cfg) else empty
        out = predict_branches(self.inner_model, [positive, negative, empty], x, timestep, model_options, self.cfg)
        guided = perp_neg(out[0], out[1], out[2], self.neg_scale, self.cfg)
        fixed = {**model_options, "sampler_cfg_function": lambda args: args["input"] - guided}
        return cfg_function(self.inner_model, out[0], out[2], self.cfg, x, timestep, fixed, cond=positive, uncond=empty)
