"""Before and after a run: its options, the models it needs, and the hooks on its conditions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from limner.sampling.conditions import SPARE
from limner.sampling.hooks import EnumHookMode, EnumWeightTarget, HookGroup, create_target_dict
from limner.sampling.prepare import Conditions
from limner.sampling.wrappers import WrapperExecutor, WrappersMP, get_all_wrappers


def inner(model: Any) -> Any:
    """A model's network and facts, or the model itself where it makes no difference."""
    return getattr(model, "model", model)


def tell(model: Any, what: str) -> None:
    """Call a method of a model that has it: `pre_run`, `cleanup`."""
    method = getattr(model, what, None)
    if method is not None:
        method()


def options_for_run(model: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a guider's options with the model's wrappers and callbacks."""
    make = getattr(model, "options_for_run", None)
    return dict(options) if make is None else dict(make(options))


def values_of(conds: Mapping[str, Any], name: str) -> list[Any]:
    """The values under a key of all conditions, each once."""
    found: list[Any] = []
    for branch in conds.values():
        for condition in branch:
            value = condition.get(name)
            if value is not None and not any(value is one for one in found):
                found.append(value)
    return found


def get_additional_models(conds: Mapping[str, Any], dtype: Any = None) -> tuple[list[Any], float]:
    """Models that conditions bring (controls, GLIGEN, their own), and the bytes that they compute with."""
    models: list[Any] = []
    needed = 0.0
    for control in values_of(conds, "control"):
        needed += float(getattr(control, "inference_memory_requirements", lambda _: 0)(dtype))
        models += getattr(control, "get_models", list)()
    models += [gligen[1] for gligen in values_of(conds, "gligen")]
    for several in values_of(conds, "additional_models"):
        models += several
    unique = [model for number, model in enumerate(models) if not any(model is one for one in models[:number])]
    return [model for model in unique if hasattr(model, "loaded")], needed


def get_additional_models_from_model_options(model_options: Mapping[str, Any] | None = None) -> list[Any]:
    """Models that were registered by hooks."""
    registered: list[Any] = []
    for hook in (model_options or {}).get("registered_hooks") or ():
        registered += getattr(hook, "models", None) or ()
    return registered


def prepare_sampling(
    model: Any, noise_shape: Sequence[int], conds: Conditions, model_options: Mapping[str, Any] | None = None
) -> tuple[Any, Conditions, list[Any]]:
    """Load what a run needs, inside the wrappers of that kind: the inner model, the conditions, the other models."""
    options = dict(model_options or {})
    wrappers = get_all_wrappers(WrappersMP.PREPARE_SAMPLING, options, is_model_options=True)
    executor = WrapperExecutor.new_executor(_prepare_sampling, wrappers)
    found: tuple[Any, Conditions, list[Any]] = executor.execute(model, noise_shape, conds, options)
    return found


def _prepare_sampling(
    model: Any, noise_shape: Sequence[int], conds: Conditions, model_options: Mapping[str, Any] | None = None
) -> tuple[Any, Conditions, list[Any]]:
    del noise_shape
    others, _ = get_additional_models(conds)
    others += get_additional_models_from_model_options(model_options)
    return inner(model), conds, others


def needed(model: Any, shape: Sequence[int], conds: Mapping[str, Any]) -> float:
    """Bytes of one pass over a latent of this shape, with that of the conditions which takes most, and all controls."""
    whole = inner(model)
    say = getattr(whole, "extra_conds_shapes", None)
    told = [say(**condition) for branch in conds.values() for condition in branch] if say is not None else []
    batched = [{name: [(shape[0], *one[1:]) for one in several] for name, several in each.items()} for each in told]
    own = max((model.memory_required(tuple(shape), cond_shapes=each) for each in batched if each), default=None)
    controls = 0.0
    for control in values_of(conds, "control"):
        dtype = whole.get_dtype() if hasattr(whole, "get_dtype") else None
        controls += float(getattr(control, "inference_memory_requirements", lambda _: 0)(dtype))
        if dtype is not None:
            controls += float(getattr(control, "residual_bytes", lambda *_: 0)(shape, dtype))
    return float(model.memory_required(tuple(shape)) if own is None else own) + controls


@contextmanager
def loaded(
    model: Any, noise_shape: Sequence[int], others: Sequence[Any], steps: int = 0, conds: Conditions | None = None
) -> Iterator[None]:
    """A model and those that conditions bring, in memory for as long as the block lasts.

    Room is asked for as much as positive and negative conditions take at once; one after the other will do.
    """
    least = needed(model, noise_shape, conds or {})
    working = needed(model, (2 * noise_shape[0], *noise_shape[1:]), conds or {}) * SPARE
    with ExitStack() as stack:
        for other in others:
            stack.enter_context(other.loaded())
        stack.enter_context(model.loaded(int(working), least=int(least), passes=steps or None))
        yield


def cleanup_models(conds: Mapping[str, Any], models: Sequence[Any]) -> None:
    """Tell the other models, and the controls of conditions, that the run has ended."""
    cleanup_additional_models([*models, *values_of(conds, "control")])


def cleanup_additional_models(models: Sequence[Any]) -> None:
    """Tell models that the run has ended."""
    for model in models:
        tell(model, "cleanup")


@contextmanager
def hooks_of(model: Any, conds: Conditions, model_options: dict[str, Any]) -> Iterator[None]:
    """The hooks on conditions, registered with the model for as long as the block lasts.

    With no more than one group of them the weights are patched in place; with several each group's are kept.
    """
    groups = hook_groups(conds)
    brought = control_hooks(conds)
    if not (groups or brought) or not hasattr(model, "register_all_hook_patches"):
        yield
        return
    all_hooks = HookGroup.combine_all_hooks([*groups, *brought])
    mode = model.hook_mode
    if len(groups) <= 1:
        model.hook_mode = EnumHookMode.MinVram
    target = create_target_dict(EnumWeightTarget.Model)
    registered = HookGroup()
    try:
        for hook in all_hooks.hooks if all_hooks is not None else ():
            hook.initialize_timesteps(inner(model))
        model.register_all_hook_patches(all_hooks, target, model_options, registered)
        model_options["registered_hooks"] = registered.hooks
        yield
    finally:
        model.hook_mode = mode
        model.restore_hook_patches()


def control_hooks(conds: Mapping[str, Any]) -> list[HookGroup]:
    """The groups of hooks that controls bring, each once."""
    found: list[HookGroup] = []
    for control in values_of(conds, "control"):
        for group in getattr(control, "get_extra_hooks", list)():
            if not any(group is one for one in found):
                found.append(group)
    return found


def hook_groups(conds: Mapping[str, Any]) -> list[HookGroup]:
    """The distinct groups of hooks on conditions."""
    found: list[HookGroup] = []
    for group in values_of(conds, "hooks"):
        if not any(group == one for one in found):
            found.append(group)
    return found
