"""V3 inputs that stand for several: slots that grow, choices with inputs of their own, and kinds that must agree.

In a prompt the inputs behind one of them are named `id.name`; the node gets a dict of `name`. What may appear is known
beforehand, so it is all told to the engine as optional ports, and the dict is made of what came.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from limner.compat.v3 import base
from limner.compat.v3.base import ANY, comfytype, copied
from limner.compat.v3.widgets import kind_of

MOST_SLOTS = 100
"""The most slots that an input may grow to."""


def sections(inputs: Sequence[base.Input]) -> dict[str, dict[str, list[Any]]]:
    """Inputs as the front end reads them: required and optional, each name to its kind and options."""
    found: dict[str, dict[str, list[Any]]] = {"required": {}}
    for one in inputs:
        section = found.setdefault("optional" if one.optional else "required", {})
        section[one.id] = [str(one.get_io_type()), one.as_dict()]
    return found


class Slots(base.DynamicInput):
    """An input that others hang off."""

    def slots(self) -> Iterator[base.Input]:
        """Every input that may come, named as in prompts, the required ones first told so."""
        raise NotImplementedError

    def fold(self, given: Mapping[str, Any]) -> dict[str, Any] | None:
        """The node's value made of the inputs that came, by name below this one; None when there is none."""
        raise NotImplementedError


def below(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The values whose names start with `name.`, by the rest of it."""
    start = f"{name}."
    return {key[len(start) :]: value for key, value in given.items() if key.startswith(start)}


def spread(one: base.Input, prefix: str, *, optional: bool) -> Iterator[base.Input]:
    """An input, or those it stands for, below a prefix."""
    placed = copied(one, id=f"{prefix}.{one.id}", optional=optional or one.optional)
    if isinstance(placed, Slots):
        yield from (copied(slot, optional=optional or slot.optional) for slot in placed.slots())
    else:
        yield placed


def folded(inputs: Sequence[base.Input], given: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of a node: dynamic inputs gathered into dicts, others as they are."""
    dynamic = [one for one in inputs if isinstance(one, Slots)]
    if not dynamic:
        return dict(given)
    starts = tuple(f"{one.id}." for one in dynamic)
    values = {key: value for key, value in given.items() if not key.startswith(starts)}
    for one in dynamic:
        found = one.fold(given)
        if found is not None:
            values[one.id] = found
    return values


class _Template:
    """What each slot of a growing input is like."""

    cached_inputs: dict[str, base.Input]

    def __init__(self, input: base.Input, names: Sequence[str], min: int) -> None:  # noqa: A002
        if isinstance(input, Slots):
            raise ValueError("The input of a growing input cannot be one itself.")
        self.input = input
        self.names = list(names)
        self.min = min
        self.cached_inputs = {
            name: copied(input, id=name, display_name=name, optional=place >= min or input.optional)
            for place, name in enumerate(self.names)
        }

    def as_dict(self) -> dict[str, Any]:
        """The template as the front end reads it."""
        return {"input": sections([self.input])}


class _TemplatePrefix(_Template):
    """Slots `prefix0`, `prefix1` and so on, at least `min` and at most `max`."""

    def __init__(self, input: base.Input, prefix: str, min: int = 1, max: int = 10) -> None:  # noqa: A002
        if not (0 <= min <= max and 1 <= max <= MOST_SLOTS):
            raise ValueError(f"A growing input has 1 to {MOST_SLOTS} slots, min not above max; not {min} to {max}.")
        super().__init__(input, [f"{prefix}{place}" for place in range(max)], min)
        self.prefix = prefix
        self.max = max

    def as_dict(self) -> dict[str, Any]:
        """With prefix and bounds."""
        return {**super().as_dict(), "prefix": self.prefix, "min": self.min, "max": self.max}


class _TemplateNames(_Template):
    """Slots of given names, the first `min` of them required."""

    def __init__(self, input: base.Input, names: Sequence[str], min: int = 1) -> None:  # noqa: A002
        if not 1 <= len(names) <= MOST_SLOTS or min < 0:
            raise ValueError(f"A growing input has 1 to {MOST_SLOTS} names.")
        super().__init__(input, names, min)

    def as_dict(self) -> dict[str, Any]:
        """With the names."""
        return {**super().as_dict(), "names": self.names, "min": self.min}


@comfytype(io_type="COMFY_AUTOGROW_V3")
class Autogrow(base.ComfyTypeI):
    """Slots that appear as they are used; the node gets a dict of slot name to value."""

    Type = dict[str, Any]
    TemplatePrefix = _TemplatePrefix
    TemplateNames = _TemplateNames

    class Input(Slots):
        """A growing input. template: TemplatePrefix(input, prefix, min, max) or TemplateNames(input, names, min)."""

        def __init__(self, id: str, template: _Template, *more: Any, **how: Any) -> None:  # noqa: A002
            super().__init__(id, *more, **how)
            self.template = template

        def own_options(self) -> dict[str, Any]:
            """With the template."""
            return {"template": self.template.as_dict()}

        def get_all(self) -> list[base.Input]:
            """This input and its slots."""
            return [self, *self.slots()]

        def slots(self) -> Iterator[base.Input]:
            """One input a slot."""
            for one in self.template.cached_inputs.values():
                yield copied(one, id=f"{self.id}.{one.id}", optional=self.optional or one.optional)

        def fold(self, given: Mapping[str, Any]) -> dict[str, Any] | None:
            """Slot name to value, in the order of the slots. Values wired to the bare id are taken as they are."""
            came = below(self.id, given)
            values = {name: came[name] for name in self.template.names if name in came}
            return values if values or not self.optional else None


class _Option:
    """One value of a choice, and the inputs that come with it."""

    def __init__(self, key: str, inputs: Sequence[base.Input] = ()) -> None:
        self.key = key
        self.inputs = list(inputs)

    def as_dict(self) -> dict[str, Any]:
        """The option as the front end reads it."""
        return {"key": self.key, "inputs": sections(self.inputs)}


@comfytype(io_type="COMFY_DYNAMICCOMBO_V3")
class DynamicCombo(base.ComfyTypeI):
    """A choice that brings inputs of its own; the node gets a dict of them, the choice under the input's own id."""

    Type = dict[str, Any]
    Option = _Option

    class Input(Slots):
        """A choice among Options."""

        def __init__(self, id: str, options: Sequence[_Option], *more: Any, **how: Any) -> None:  # noqa: A002
            super().__init__(id, *more, **how)
            self.options = list(options)

        def own_options(self) -> dict[str, Any]:
            """With the options."""
            return {"options": [option.as_dict() for option in self.options]}

        def get_all(self) -> list[base.Input]:
            """This input and those of its options."""
            return [self, *(one for option in self.options for one in option.inputs)]

        def slots(self) -> Iterator[base.Input]:
            """The choice itself, then the inputs of every option, none of them required of all."""
            yield copied(_Choice(self.id, optional=self.optional), options=self.options)
            seen: dict[str, base.Input] = {}
            for option in self.options:
                for one in option.inputs:
                    for slot in spread(one, self.id, optional=True):
                        known = seen.get(slot.id)
                        seen[slot.id] = slot if known is None else _either(known, slot)
            yield from seen.values()

        def fold(self, given: Mapping[str, Any]) -> dict[str, Any] | None:
            """The chosen key, and the inputs of its option that came."""
            if self.id not in given:
                return None
            chosen = given[self.id]
            own = {self.id.rpartition(".")[2]: chosen}
            option = next((one for one in self.options if one.key == chosen), None)
            if option is None:
                return {**own, **below(self.id, given)}
            inner = [copied(one, id=f"{self.id}.{one.id}") for one in option.inputs]
            names = {one.id: part.id for one, part in zip(inner, option.inputs, strict=True)}
            values = {key: value for key, value in folded(inner, given).items() if key in names}
            return {**own, **{names[key]: value for key, value in values.items()}}


class _Choice(base.Input):
    """The choice of a DynamicCombo as a port of its own: any of its keys, as text."""

    io_type = "COMBO"
    options: Sequence[_Option] = ()

    def own_options(self) -> dict[str, Any]:
        """With the keys."""
        return {"options": [option.key for option in self.options]}


def _either(first: base.Input, second: base.Input) -> base.Input:
    """One input for two of the same name: of both kinds, without bounds where they differ."""
    kinds = list(dict.fromkeys([*str(first.get_io_type()).split(","), *str(second.get_io_type()).split(",")]))
    if len(kinds) == 1 and first.as_dict() == second.as_dict():
        return first
    either = base.Input(first.id, optional=True, lazy=first.lazy or second.lazy)
    either.io_type = ANY if "*" in kinds else ",".join(kinds)
    return either


class _MatchTemplate:
    """A kind that several inputs and outputs of one node share. allowed_types: what it may be; anything if left out."""

    def __init__(self, template_id: str, allowed_types: Any = None) -> None:
        self.template_id = template_id
        if allowed_types is None:
            allowed_types = [ANY]
        self.allowed_types = list(allowed_types) if isinstance(allowed_types, (list, tuple, set)) else [allowed_types]

    def kinds(self) -> str:
        """The kinds with commas between."""
        kinds = [kind_of(one) for one in self.allowed_types]
        return ANY if "*" in kinds else ",".join(kinds)

    def as_dict(self) -> dict[str, Any]:
        """The template as the front end reads it."""
        return {"template_id": self.template_id, "allowed_types": str(self.kinds())}


@comfytype(io_type="COMFY_MATCHTYPE_V3")
class MatchType(base.ComfyTypeIO):
    """A kind that is whatever is connected, the same for all that share a template."""

    Template = _MatchTemplate

    class Input(base.Input):
        """Takes what the template allows."""

        def __init__(self, id: str, template: _MatchTemplate, *more: Any, **how: Any) -> None:  # noqa: A002
            super().__init__(id, *more, **how)
            self.template = template

        def own_options(self) -> dict[str, Any]:
            """With the template."""
            return {"template": self.template.as_dict()}

    class Output(base.DynamicOutput):
        """Gives what the inputs of the template got."""

        def __init__(
            self,
            template: _MatchTemplate,
            id: str | None = None,  # noqa: A002
            *more: Any,
            **how: Any,
        ) -> None:
            if isinstance(template, str) and isinstance(id, _MatchTemplate):
                template, id = id, template  # noqa: A001 - some write the id first
            super().__init__(id, *more, **how)
            self.template = template

        def as_dict(self) -> dict[str, Any]:
            """With the template."""
            return {**super().as_dict(), "template": self.template.as_dict()}


class _ComboDynamic(base.ComfyTypeI):
    """The older name of a choice with inputs of its own."""


ComboDynamic = comfytype(io_type="COMFY_COMBODYNAMIC_V3")(_ComboDynamic)
AutogrowDynamic = Autogrow


def wire_kind(one: Any) -> Any:
    """The kind that links are held against: of a shared kind all that it may be, else the kind itself."""
    template = getattr(one, "template", None)
    return template.kinds() if isinstance(template, _MatchTemplate) else one.get_io_type()


def ports_of(inputs: Sequence[base.Input]) -> Iterator[base.Input]:
    """Every input as prompts name it, dynamic ones spread out."""
    for one in inputs:
        if isinstance(one, Slots):
            yield from one.slots()
        else:
            yield one


__all__ = ["Autogrow", "AutogrowDynamic", "ComboDynamic", "DynamicCombo", "MatchType", "folded", "ports_of"]
