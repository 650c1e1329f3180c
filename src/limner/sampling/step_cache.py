"""Steps whose prediction is not made but guessed from the last one made: EasyCache.  Zhou et al. 2025.

How much an output changes for a change of the input hardly varies from step to step. From that rate the change of the
output is foretold; while the foretold changes add up to less than a threshold, the output is the input plus what the
last prediction had added to its input.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from limner.sampling.model_sampling import ModelSampling

_log = logging.getLogger(__name__)


class StepCache:
    """The state of one run.

    threshold: of the foretold relative changes. start, end: sigmas between which steps may be guessed.
    """

    def __init__(self, threshold: float, start: float, end: float) -> None:
        self.threshold, self.start, self.end = threshold, start, end
        self.reset()

    def reset(self) -> None:
        """A run begins."""
        self.added: dict[Any, Tensor] = {}
        self.last: Tensor | None = None  # input of the step before
        self.made: tuple[Tensor, Tensor] | None = None  # input and output of the last prediction
        self.rate: float | None = None
        self.foretold = 0.0
        self.level: float | None = None
        self.guessing = False
        self.steps = self.guessed = 0

    def predict(self, make: Callable[[], Tensor], x: Tensor, sigma: float, parts: Sequence[Any]) -> Tensor:
        """The output for x: made, or guessed. parts: what each equal part of the batch is called, from step to step.

        All calls at one noise level do the same; the first of them decides.
        """
        shown = len(x) // len(parts)
        leads = sigma != self.level
        if leads:
            self.level, self.steps = sigma, self.steps + 1
            self.guessing = self._decide(x[:shown], sigma)
            self.guessed += self.guessing
        if self.guessing and all(part in self.added for part in parts):
            added = torch.cat([self.added[part] for part in parts])
            if added.shape[0] == x.shape[0] and added.shape[2:] == x.shape[2:]:
                return x[:, : added.shape[1]] + added
        output = make()
        for part, given, made in zip(parts, torch.split(x, shown), torch.split(output, shown), strict=True):
            self.added[part] = made - given[:, : made.shape[1]]
        if leads:
            self._learn(x[:shown], output[:shown])
        return output

    def _decide(self, x: Tensor, sigma: float) -> bool:
        last, self.last = self.last, x
        if last is None or self.made is None or not self.end <= sigma <= self.start:
            return False
        size = _size(self.made[1])
        if self.rate is None or size == 0 or x.shape != last.shape:
            return False
        self.foretold += self.rate * _size(x - last) / size
        return self.foretold < self.threshold

    def _learn(self, x: Tensor, output: Tensor) -> None:
        if self.made is not None and self.made[0].shape == x.shape:
            change = _size(x - self.made[0])
            self.rate = _size(output - self.made[1]) / change if change else None
        self.made, self.foretold = (x, output), 0.0


def _size(x: Tensor) -> float:
    return float(x.abs().float().mean())


def around_run(cache: StepCache, verbose: bool, name: str) -> Callable[..., Any]:
    """A wrapper of `outer_sample`: a fresh state for each run, and in the end a word on what was saved."""

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        cache.reset()
        try:
            return executor(*args, **kwargs)
        finally:
            if verbose:
                _log.info("%s: %d of %d steps were guessed.", name, cache.guessed, cache.steps)
            cache.reset()

    return wrapper


def around_network(cache: StepCache) -> Callable[..., Tensor]:
    """A wrapper of `diffusion_model`: each condition's rows are guessed from its own."""

    def wrapper(executor: Any, x: Tensor, timesteps: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        options = next((one for one in reversed(args) if isinstance(one, dict) and "sigmas" in one), None)
        if options is None:
            options = kwargs.get("transformer_options") or {}
        sigma = float(options["sigmas"][0])
        parts = options.get("uuids") or ["all"]
        return cache.predict(lambda: executor(x, timesteps, *args, **kwargs), x, sigma, parts)

    return wrapper


def around_guidance(cache: StepCache, sampling: ModelSampling) -> Callable[..., Tensor]:
    """A wrapper of `predict_noise`: the guided prediction as a whole is guessed, told as the network tells it.

    The direction (x - clean) / σ and the input scaled for the network change slowly; the clean picture does not.
    """

    def wrapper(executor: Any, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        sigma = float(timestep[0])
        if sigma <= 0:
            clean: Tensor = executor(x, timestep, *args, **kwargs)
            return clean

        def direction() -> Tensor:
            found: Tensor = (x - executor(x, timestep, *args, **kwargs)) / sigma
            return found

        return x - cache.predict(direction, sampling.calculate_input(timestep, x), sigma, ["guided"]) * sigma

    return wrapper
