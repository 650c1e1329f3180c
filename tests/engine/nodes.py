"""Small nodes without torch, for tests of the engine."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from limner.graph import AnyKind, Choice, Hidden, Int, Kind, NodeResult, Optional, Run, Text, Ui, node

Thing = Annotated[Any, Kind("THING")]
calls: list[tuple[str, Any]] = []


@node("Say", category="test", title="Say")
def say(text: Annotated[str, Text()]) -> str:
    calls.append(("Say", text))
    return text


@node("Add", category="test", title="Add")
def add(a: Annotated[int, Int(min=0, max=100)], b: Annotated[int, Int(), Optional()] = 1) -> int:
    calls.append(("Add", (a, b)))
    return a + b


@node("Show", category="test", title="Show", output_node=True)
def show(source: AnyKind) -> Ui:
    calls.append(("Show", source))
    return Ui({"text": [str(source)]})


@node("Trim", category="test", title="Trim", style="v3")
def trim(string: Annotated[str, Text(multiline=True)], mode: Annotated[str, Choice(("Both", "Left"))]) -> str:
    return string.strip()


@node("Fail", category="test", title="Fail")
def fail(message: str) -> int:
    raise ValueError(message)


class Two(NamedTuple):
    one: int
    two: str


@node("Two", category="test", title="Two")
def two() -> Two:
    return Two(1, "2")


class Numbers(NamedTuple):
    numbers: list[int]


@node("Numbers", category="test", title="Numbers")
def numbers(count: int) -> Numbers:
    return Numbers(list(range(count)))


@node("Sum", category="test", title="Sum", input_is_list=True)
def total(values: int) -> int:
    calls.append(("Sum", values))
    return sum(values)  # type: ignore[arg-type]


@node("Stamp", category="test", title="Stamp")
def stamp(text: str) -> str:
    calls.append(("Stamp", text))
    return text


@stamp.changes_when
def _stamp(text: str) -> float:
    return float("nan") if text == "always" else 0.0


@node("Once", category="test", title="Once", not_idempotent=True)
def once(text: str) -> str:
    calls.append(("Once", text))
    return text


@node("Even", category="test", title="Even")
def even(number: int) -> int:
    return number


@even.checks("number")
def _even(number: int | None) -> bool | str:
    return number is None or number % 2 == 0 or "it is odd"


@node("Steps", category="test", title="Steps")
def steps(run: Run, count: int) -> int:
    for i in range(count):
        run.progress(i + 1, count)
    return count


@node("Reach", category="test", title="Reach")
def reach(run: Run) -> bool:
    return run.memory is not None


@node("Secret", category="test", title="Secret", output_node=True)
def secret(
    prompt: Annotated[Any, Hidden("PROMPT")],
    extra_pnginfo: Annotated[Any, Hidden("EXTRA_PNGINFO")],
    unique_id: Annotated[Any, Hidden("UNIQUE_ID")],
) -> Ui:
    return Ui({"seen": [unique_id, extra_pnginfo, sorted(prompt)]})


@node("Block", category="test", title="Block")
def block(text: str) -> Annotated[Any, Kind("*")]:
    return NodeResult(blocked=text)


@node("Either", category="test", title="Either")
def either(
    which: bool,
    yes: Annotated[str, Text(extra={"lazy": True})],
    no: Annotated[str, Text(extra={"lazy": True})],
) -> str:
    return yes if which else no


@either.lazy
def _either(which: bool, yes: str | None, no: str | None) -> list[str]:
    calls.append(("lazy", (yes, no)))
    return ["yes"] if which else ["no"]


@node("Wait", category="test", title="Wait")
def wait(run: Run, text: str) -> str:
    """Wait until the prompt is interrupted."""
    import time

    while True:
        run.check()
        time.sleep(0.001)


@node("Sleepy", category="test", title="Sleepy")
async def sleepy(text: str) -> str:
    return text


@node("Odd", category="test", title="Odd")
def odd(mode: str) -> int:
    from limner.errors import BadInput, OutOfMemory

    if mode == "limner":
        raise BadInput("It broke.", "For a reason.", "Mend it.")
    if mode == "limner-memory":
        raise OutOfMemory("The device is full.")
    if mode == "memory":
        raise MemoryError("full")
    if mode == "exit":
        raise SystemExit(3)
    if mode == "unprintable":
        raise Unprintable
    return NodeResult(values=(1, 2, 3))  # type: ignore[return-value]


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@node("Paint", category="test", title="Paint")
def paint(run: Run, side: int) -> int:
    from PIL import Image

    run.progress(1, 1, Image.new("RGBA", (side, side), "red"))
    return side
