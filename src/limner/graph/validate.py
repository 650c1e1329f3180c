"""Validation: each call held against its schema, every error at once, without recursion (rules V1 to V14)."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from limner.graph.describe import input_config
from limner.graph.prompt import Link, NodeCall, Prompt, PromptError, clip, nearest, text_of, unknown_kind
from limner.graph.registry import FileLookup, NoFiles, Registry, Snapshot
from limner.graph.run import Blocker
from limner.graph.schema import Port, Schema
from limner.graph.values import Reason, convert, not_offered, out_of_range, reason, shown, unwrap

Check = Callable[[Schema, Mapping[str, Any], Mapping[str, str]], Sequence[Any]]
"""Calls a kind's `checks` companion: with its schema, the constants by name (None where linked) and the kinds of what
is linked. Returns what each mapped call gave: True, or False, or a text that says what is wrong."""


@dataclass(frozen=True)
class Validation:
    """What was found.

    outputs: the valid output nodes, in prompt order. node_errors: as the protocol has them, by node id.
    error: the top-level error if no output is valid, else None. changes: converted values by (node, input).
    """

    outputs: list[str]
    node_errors: dict[str, Any]
    error: dict[str, Any] | None
    changes: dict[tuple[str, str], Any] = field(default_factory=dict)


def validate(
    prompt: Prompt,
    registry: Registry,
    files: FileLookup | None = None,
    targets: Collection[str] | None = None,
    check: Check | None = None,
) -> Validation:
    """Hold every node that the output nodes need against its schema.

    targets: only these output nodes count (`partial_execution_targets`). check: calls `checks` companions; without it
    they are not asked.
    """
    work = _Validator(prompt, registry, NoFiles() if files is None else files, check)
    try:
        outputs = work.output_nodes(targets)
    except PromptError as error:
        return Validation([], {}, error.to_json())
    if not outputs:
        return Validation([], {}, PromptError("prompt_no_outputs", "Prompt has no outputs").to_json())
    good: list[str] = []
    dependents: dict[str, list[str]] = {}
    for output in outputs:
        work.visit(output)
        if work.valid[output]:
            good.append(output)
            continue
        for node in work.errors:
            dependents.setdefault(node, []).append(output)
    node_errors = {
        node: {"errors": reasons, "dependent_outputs": dependents.get(node, []), "class_type": prompt[node].kind}
        for node, reasons in work.errors.items()
    }
    failure = None if good else _top_error(outputs, work.errors)
    return Validation(good, node_errors, failure, work.changes)


def _top_error(outputs: list[str], errors: Mapping[str, list[Reason]]) -> dict[str, Any]:
    lines = [f"{one['message']}: {one['details']}" for output in outputs for one in errors.get(output, ())]
    what = "Prompt outputs failed validation"
    return PromptError("prompt_outputs_failed_validation", what, "\n".join(lines)).to_json()


Wire = tuple[Schema, Port, Link]
"""A link and where it is plugged in."""


class _Known:
    """A schema with what is looked up for every call of its kind."""

    __slots__ = ("asks", "failure", "outputs", "ports", "schema")

    def __init__(self, schema: Schema, failure: Exception | None = None) -> None:
        self.schema = schema
        self.failure = failure
        self.outputs = tuple(port.kind for port in schema.outputs)
        self.asks = "checks" in schema.companions
        self.ports = [(port, port.name, _text_choices(port)) for port in schema.inputs]

    def of(self, inputs: Mapping[str, Any]) -> list[tuple[Port, str, frozenset[str] | None]]:
        """The ports of a call: the declared ones, and where others are taken those that it has."""
        more = self.schema.more
        if more is None:
            return self.ports
        declared = {name for _, name, _ in self.ports}
        return self.ports + [(replace(more, name=name), name, None) for name in inputs if name not in declared]


def _text_choices(port: Port) -> frozenset[str] | None:
    """The texts among a fixed choice's values, None for any other input."""
    return None if port.choices is None else frozenset(one for one in port.choices if isinstance(one, str))


class _Validator:
    """One validation: results by node id, so that a node that several need is looked at once (rule V3)."""

    def __init__(self, prompt: Prompt, registry: Registry, files: FileLookup, check: Check | None) -> None:
        self.prompt = prompt
        self.registry = registry if isinstance(registry, Snapshot) else Snapshot(registry)
        self.files = files
        self.check = check
        self.errors: dict[str, list[Reason]] = {}
        self.valid: dict[str, bool] = {}
        self.changes: dict[tuple[str, str], Any] = {}
        self._kinds: dict[str, _Known] = {}
        self._via: Wire | None = None

    def _known(self, kind: str) -> _Known | None:
        """What there is to know of a kind, gathered once."""
        known = self._kinds.get(kind)
        if known is None:
            schema = self.registry.get(kind)
            failure = self.registry.failure(kind)
            if schema is not None:
                known = self._kinds[kind] = _Known(schema)
            elif failure is not None:  # taken for an output, so that what is wrong with it is told
                known = self._kinds[kind] = _Known(Schema(kind, "", (), (), output_node=True), failure)
        return known

    def output_nodes(self, targets: Collection[str] | None) -> list[str]:
        """The nodes that are outputs and asked for. Raises PromptError for a kind that does not exist."""
        found: list[str] = []
        for node, call in self.prompt.items():
            known = self._known(call.kind)
            if known is None:
                raise unknown_kind(node, call.kind, self.registry)
            if known.schema.output_node and (targets is None or node in targets):
                found.append(node)
        return found

    def visit(self, root: str) -> None:
        """Validate a node and all it needs, depth first, without recursion."""
        valid = self.valid
        if root in valid:
            return
        path: list[tuple[str, list[Wire], Iterator[Wire]]] = [self._enter(root, None)]
        on_path = {root: None}
        while path:
            node, wires, rest = path[-1]
            for wire in rest:
                if wire[2].node not in valid:
                    break
            else:
                path.pop()
                del on_path[node]
                upstream = all(valid[link.node] for _, _, link in wires if link.node != node)
                valid[node] = node not in self.errors and upstream
                continue
            if wire[2].node in on_path:
                self._report_cycle([*_from(on_path, wire[2].node)])
            else:
                on_path[wire[2].node] = None
                path.append(self._enter(wire[2].node, wire))

    def _enter(self, node: str, via: Wire | None) -> tuple[str, list[Wire], Iterator[Wire]]:
        self._via = via
        wires = self._check_call(node, self.prompt[node])
        return node, wires, iter(wires)

    def _report_cycle(self, members: list[str]) -> None:
        """Every member of a cycle gets an error that names all of them (rule V13 leaves them unnamed)."""
        way = " → ".join(clip(one, 80) for one in [*members[:50], members[0]])
        for member in members:
            found = reason(
                "dependency_cycle",
                "Nodes depend on each other in a cycle",
                f"{way}. Remove one of these links.",
                members=members[:50],
            )
            self._add(member, found)
            self.valid.setdefault(member, False)

    def _add(self, node: str, *reasons: Reason) -> None:
        self.errors.setdefault(node, []).extend(reasons)

    def _check_call(self, node: str, call: NodeCall) -> list[Wire]:
        """Check one call's own inputs; returns its sound links, whose nodes are to be visited."""
        known = self._known(call.kind)
        if known is None:
            raise unknown_kind(node, call.kind, self.registry)
        if known.failure is not None:
            self._add(node, _broke(known.failure))
            return []
        schema, asks = known.schema, known.asks and self.check is not None
        wires: list[Wire] = []
        reasons: list[Reason] = []
        constants: dict[str, Any] = {}
        received: dict[str, str] = {}
        inputs = call.inputs
        for port, name, choices in known.of(inputs):
            if name not in inputs:
                if port.required:
                    what = "Required input is missing"
                    reasons.append(reason("required_input_missing", what, name, input_name=name))
                continue
            value = inputs[name]
            if type(value) is Link:
                found, kind = self._check_link(port, schema, value)
                if found is None:
                    wires.append((schema, port, value))
                    received[name] = kind
                constants[name] = None
            elif choices is not None and type(value) is str and value in choices:
                constants[name] = value
                continue
            elif type(value) is list:
                found = self._bad_link(port, schema, value)
            else:
                found = self._check_constant(node, port, schema, value, constants)
            if found is not None:
                reasons.append(found)
        if asks:
            reasons.extend(self._custom(schema, constants, received, reasons))
        if reasons:
            self._add(node, *reasons)
        return wires

    def _check_constant(
        self, node: str, port: Port, schema: Schema, value: Any, constants: dict[str, Any]
    ) -> Reason | None:
        """Convert one constant and hold it against bounds and choices, unless `checks` has taken the input over."""
        converted, found = convert(port, unwrap(value), schema, self.files)
        if found is not None:
            return found
        if converted is not value:
            self.changes[(node, port.name)] = converted
        constants[port.name] = converted
        if port.name in schema.validates or "*" in schema.validates:
            return None
        if port.choices is not None or port.folder is not None or port.file_in is not None:
            return not_offered(port, converted, schema, self.files)
        return out_of_range(port, converted, schema, self.files) if port.options else None

    def _bad_link(self, port: Port, schema: Schema, value: list[Any]) -> Reason:
        if len(value) != 2:
            return reason(
                "bad_linked_input",
                "Bad linked input, must be a length-2 list of [node_id, slot_index]",
                port.name,
                input_name=port.name,
                input_config=input_config(port, schema, self.files),
                received_value=shown(value),
            )
        node, slot = value
        if not isinstance(node, str):
            error: Exception = KeyError(f"the node id {clip(node)} is not a text")
        else:
            error = TypeError(f"the output {clip(slot)} of node '{clip(node)}' is not a whole number")
        return self._link_failure(port, schema, value, error)

    def _check_link(self, port: Port, schema: Schema, link: Link) -> tuple[Reason | None, str]:
        """Why the link cannot be, or None and the kind of what it brings."""
        if link.node not in self.prompt:
            near = nearest(link.node, self.prompt) if len(self.prompt) < 1000 else []
            hint = f"; nearest ids: {', '.join(near)}" if near else ""
            error: Exception = KeyError(f"node '{clip(link.node)}' is not in the prompt{hint}")
            return self._link_failure(port, schema, list(link), error), ""
        kind = self.prompt[link.node].kind
        upstream = self._known(kind)
        if upstream is None:
            raise unknown_kind(link.node, kind, self.registry)
        if upstream.failure is not None:
            return None, "*"
        if not 0 <= link.slot < len(upstream.outputs):
            count = len(upstream.outputs)
            what = f"node '{clip(link.node)}' ({kind}) has {count} outputs, so no output {clip(link.slot)}"
            return self._link_failure(port, schema, list(link), IndexError(what)), ""
        received = upstream.outputs[link.slot]
        if received == port.kind or "input_types" in schema.validates or kinds_match(received, port.kind):
            return None, received
        wanted = input_config(port, schema, self.files)
        found = reason(
            "return_type_mismatch",
            "Return type mismatch between linked nodes",
            f"{port.name}, received_type({received}) mismatch input_type({clip(wanted[0])})",
            input_name=port.name,
            input_config=wanted,
            received_type=received,
            linked_node=list(link),
        )
        return found, ""

    def _link_failure(self, port: Port, schema: Schema, link: list[Any], error: Exception) -> Reason:
        """A link that leads nowhere: the protocol has it as an exception while the node was validated.

        Where the node was reached through a link itself, the names are those of that link (rule V5).
        """
        text = str(error.args[0])
        kind, message, linked = "exception_during_validation", "Exception when validating node", link
        if self._via is not None:
            kind, message = "exception_during_inner_validation", "Exception when validating inner node"
            schema, at, via = self._via
            linked = list(via)
        else:
            at = port
        return reason(
            kind,
            message,
            f"{port.name}: {text}",
            input_name=at.name,
            input_config=input_config(at, schema, self.files),
            exception_message=text,
            exception_type=type(error).__name__,
            traceback=[],
            linked_node=shown(linked),
        )

    def _custom(
        self, schema: Schema, constants: Mapping[str, Any], received: Mapping[str, str], so_far: list[Reason]
    ) -> list[Reason]:
        """What the kind's own `checks` companion says, once per input it has taken over (rule V11)."""
        taken = schema.validates
        names = [name for name in constants if name in taken or "*" in taken]
        if "input_types" in taken and "input_types" not in constants:
            names.append("input_types")
        wrong = {one["extra_info"].get("input_name") for one in so_far}
        if self.check is None or not names or (wrong if "*" in taken else wrong & taken):
            return []
        try:
            answers = self.check(schema, constants, received)
        except Exception as error:
            return [_broke(error)]
        return [
            reason(
                "custom_validation_failed",
                "Custom validation failed for node",
                name if answer is False else f"{name} - {clip(text_of(answer), 1000)}",
                input_name=name,
            )
            for name in names
            for answer in answers
            if answer is not True and not isinstance(answer, Blocker)
        ]


def _broke(error: Exception) -> Reason:
    """An exception of a node's own code while it was validated."""
    return reason(
        "exception_during_validation",
        "Exception when validating node",
        clip(text_of(error)),
        exception_type=type(error).__name__,
        traceback=traceback.format_tb(error.__traceback__),
    )


def _from(path: Mapping[str, None], start: str) -> Iterator[str]:
    """The nodes of a path from `start` to its end."""
    names = iter(path)
    for name in names:
        if name == start:
            yield name
            yield from names


def kinds_match(received: str, wanted: str) -> bool:
    """Whether an output of one kind fits an input of another: `*` fits all, of `A,B` any member does.

    Packs make kinds that fit everything by never being unequal, so it is `!=` that is asked.
    """
    if not received != wanted or received == "*" or wanted == "*":  # noqa: SIM202 - see above
        return True
    if "," not in received and "," not in wanted:
        return False
    return not {one.strip() for one in received.split(",")}.isdisjoint(one.strip() for one in wanted.split(","))
