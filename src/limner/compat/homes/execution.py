"""`execution`: the queue, validation and the executor, as packs look at them."""

from __future__ import annotations

import asyncio
import enum
import inspect
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from limner.compat.host import Host, current
from limner.engine.executors.failures import shown_inputs
from limner.engine.files import StoreFiles
from limner.graph import PromptError, parse, validate

log = logging.getLogger(__name__)

MAXIMUM_HISTORY_SIZE = 10000
SENSITIVE_EXTRA_DATA_KEYS = ("auth_token_comfy_org", "api_key_comfy_org")


class ExecutionResult(enum.Enum):
    """How running a node ended."""

    SUCCESS = 0
    FAILURE = 1
    PENDING = 2


class CacheType(enum.Enum):
    """Which results are kept."""

    CLASSIC = 0
    LRU = 1
    NONE = 2
    RAM_PRESSURE = 3


class CacheEntry(NamedTuple):
    """A result: what it shows and its outputs, each a list."""

    ui: Any
    outputs: list[Any]


class DuplicateNodeError(Exception):
    """An expansion used a node id that is there already."""


def full_type_name(klass: type) -> str:
    """The qualified name of a class; those of Python itself without a module."""
    module = klass.__module__
    return klass.__qualname__ if module == "builtins" else f"{module}.{klass.__qualname__}"


def format_value(x: Any) -> Any:
    """A value as error reports show it: None, numbers and texts as they are, others as text."""
    return shown_inputs({"value": [x]})["value"][0]


def get_input_data(
    inputs: Mapping[str, Any],
    class_def: Any,
    unique_id: str,
    outputs: Any = None,
    dynprompt: Any = None,
    extra_data: Mapping[str, Any] | None = None,
) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """What a class is called with, each a list, and what is missing of its links."""
    types = class_def.INPUT_TYPES()
    known = {**(types.get("required") or {}), **(types.get("optional") or {})}
    found: dict[str, list[Any]] = {}
    missing: dict[str, Any] = {}
    extra = extra_data or {}
    for name, value in inputs.items():
        if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str):
            entry = outputs.get_cache(value[0], unique_id) if hasattr(outputs, "get_cache") else None
            if entry is None:
                missing[name] = (None,)
                continue
            found[name] = entry.outputs[value[1]]
        elif name in known:
            found[name] = [value]
    hidden = {
        "PROMPT": dynprompt.get_original_prompt() if dynprompt is not None else {},
        "DYNPROMPT": dynprompt,
        "EXTRA_PNGINFO": extra.get("extra_pnginfo"),
        "UNIQUE_ID": unique_id,
        "AUTH_TOKEN_COMFY_ORG": extra.get("auth_token_comfy_org"),
        "API_KEY_COMFY_ORG": extra.get("api_key_comfy_org"),
    }
    for name, marker in (types.get("hidden") or {}).items():
        if isinstance(marker, str) and marker in hidden:
            found[name] = [hidden[marker]]
    return found, missing


async def resolve_map_node_over_list_results(results: list[Any]) -> list[Any]:
    """The results, those of tasks awaited."""
    return [await one if inspect.isawaitable(one) else one for one in results]


def merge_result_data(results: list[Any], obj: Any) -> list[list[Any]]:
    """Each output's values over all calls; those of list outputs are joined."""
    lists = getattr(obj, "OUTPUT_IS_LIST", None) or [False] * len(results[0])
    slots: list[list[Any]] = []
    for index, is_list in zip(range(len(results[0])), lists, strict=False):
        values = [one[index] for one in results]
        slots.append([item for value in values for item in value] if is_list else values)
    return slots


map_node_over_list = None


async def validate_prompt(
    prompt_id: str, prompt: dict[str, Any], partial_execution_list: list[str] | None = None
) -> tuple[bool, dict[str, Any] | None, list[str], dict[str, Any]]:
    """Whether a prompt is valid, the error, the outputs that are, and the errors by node."""
    del prompt_id
    host = current()
    registry = host.engine.registry if host.engine is not None else host.registry
    try:
        parsed = parse(prompt, registry)
    except PromptError as error:
        return False, error.to_json(), [], {}
    found = await asyncio.to_thread(validate, parsed, registry, StoreFiles(host.store), partial_execution_list)
    return found.error is None, found.error, found.outputs, found.node_errors


async def validate_inputs(
    prompt_id: str, prompt: dict[str, Any], item: str, validated: dict[str, Any]
) -> tuple[bool, list[Any], str]:
    """Whether a node of a prompt is valid, its errors, and its id; kept in `validated`."""
    if item not in validated:
        _, _, _, errors = await validate_prompt(prompt_id, prompt, None)
        found = errors.get(item, {}).get("errors", [])
        validated[item] = (not found, found, item)
    return validated[item]  # type: ignore[no-any-return]  # what was put there


class ExecutionStatus(NamedTuple):
    """How a prompt ended."""

    status_str: str
    completed: bool
    messages: list[str]


class PromptQueue:
    """The engine's queue, as tuples `(number, prompt_id, prompt, extra_data, outputs, secrets)`."""

    ExecutionStatus = ExecutionStatus

    def __init__(self, server: Any) -> None:
        self.server = server
        self.flags: dict[str, Any] = {}

    @property
    def _host(self) -> Host:
        return current()

    @property
    def _engine(self) -> Any:
        return self._host.engine

    @property
    def history(self) -> dict[str, Any]:
        """Every prompt that ended, newest last."""
        return self.get_history()

    @property
    def queue(self) -> list[tuple[Any, ...]]:
        """The prompts that wait."""
        return self.get_current_queue()[1]

    @property
    def currently_running(self) -> dict[int, tuple[Any, ...]]:
        """The prompts that run."""
        return dict(enumerate(self.get_current_queue()[0]))

    def put(self, item: tuple[Any, ...]) -> None:
        """Queue a prompt: `(number, prompt_id, prompt, extra_data, outputs)`. Returns before it is accepted."""
        number, prompt_id, prompt, extra = item[:4]
        body = {"prompt": prompt, "prompt_id": prompt_id, "number": number, "extra_data": dict(extra)}
        if isinstance(extra, Mapping) and extra.get("client_id"):
            body["client_id"] = extra["client_id"]
        future = asyncio.run_coroutine_threadsafe(self._engine.submit(body), self.server.loop)
        future.add_done_callback(_log_failure)

    def get_current_queue(self) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        """What runs, and what waits."""
        if self._engine is None:
            return [], []
        queue = self._engine.queue
        return [_item(job) for job in queue.running_jobs()], [_item(job) for job in queue.pending_jobs()]

    def get_current_queue_volatile(self) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        """The same."""
        return self.get_current_queue()

    def get_tasks_remaining(self) -> int:
        """How many wait or run."""
        return 0 if self._engine is None else int(self._engine.queue.remaining())

    def wipe_queue(self) -> None:
        """Take every waiting prompt out."""
        if self._engine is not None:
            self._engine.queue.clear()

    def delete_queue_item(self, function: Callable[[tuple[Any, ...]], bool]) -> bool:
        """Take out the first waiting prompt for which the function says so."""
        for item in self.get_current_queue()[1]:
            if function(item):
                self._engine.queue.delete([item[1]])
                return True
        return False

    def get_history(
        self,
        prompt_id: str | None = None,
        max_items: int | None = None,
        offset: int = -1,
        map_function: Callable[[Any], Any] | None = None,
    ) -> dict[str, Any]:
        """Prompts that ended, by id, oldest first; each through `map_function` if there is one."""
        if self._engine is None:
            return {}
        if prompt_id is not None:
            entry = self._engine.history.get(prompt_id)
            found = {} if entry is None else {prompt_id: entry}
        else:
            found = self._engine.history.list(max_items, offset)
        return {key: map_function(entry) for key, entry in found.items()} if map_function else found

    def wipe_history(self) -> None:
        """Forget every prompt that ended."""
        if self._engine is not None:
            self._engine.history.clear()

    def delete_history_item(self, id_to_delete: str) -> None:
        """Forget one prompt that ended."""
        if self._engine is not None:
            self._engine.history.delete([id_to_delete])

    def set_flag(self, name: str, data: Any) -> None:
        """Ask for `unload_models` or `free_memory`; other flags are kept for `get_flags`."""
        if self._engine is not None and name in ("unload_models", "free_memory"):
            self._engine.free(**{name: bool(data)})
        else:
            self.flags[name] = data

    def get_flags(self, reset: bool = True) -> dict[str, Any]:
        """The flags that were set; they are forgotten unless `reset` is False."""
        found = dict(self.flags)
        if reset:
            self.flags.clear()
        return found


def _item(job: Any) -> tuple[Any, ...]:
    return (*job.item(), dict(job.sensitive))


def _log_failure(future: Any) -> None:
    if not future.cancelled() and future.exception() is not None:
        log.error("A prompt of a pack was not accepted: %s", future.exception())


class PromptExecutor:
    """Runs prompts through the engine, for packs that run one themselves, and a place for what they patch."""

    def __init__(self, server: Any, cache_type: Any = False, cache_args: Any = None) -> None:
        self.server = server
        self.cache_type = cache_type
        self.cache_args = cache_args
        self.reset()

    def reset(self) -> None:
        """Forget how the last prompt ended."""
        self.status_messages: list[Any] = []
        self.success = True
        self.history_result: dict[str, Any] = {}

    def add_message(self, event: str, data: dict[str, Any], broadcast: bool) -> None:
        """Remember a message and send it."""
        self.status_messages.append((event, {**data, "timestamp": int(time.time() * 1000)}))
        self.server.send_sync(event, data, None if broadcast else self.server.client_id)

    def handle_execution_error(
        self, prompt_id: str, prompt: Any, current_outputs: Any, executed: Any, error: Any, ex: BaseException
    ) -> None:
        """Tell the client of a failed node. The engine tells it itself; packs put something around this."""
        del prompt, current_outputs, executed
        log.error("Prompt %s failed: %s (%s)", prompt_id, ex, error)

    def execute(
        self,
        prompt: dict[str, Any],
        prompt_id: str | None = None,
        extra_data: Mapping[str, Any] | None = None,
        execute_outputs: list[str] | None = None,
    ) -> None:
        """Run a prompt to its end. Not to be called on the server's event loop."""
        task = self.execute_async(prompt, prompt_id, extra_data, execute_outputs)
        asyncio.run_coroutine_threadsafe(task, self.server.loop).result()

    async def execute_async(
        self,
        prompt: dict[str, Any],
        prompt_id: str | None = None,
        extra_data: Mapping[str, Any] | None = None,
        execute_outputs: list[str] | None = None,
    ) -> None:
        """Run a prompt to its end, through the queue."""
        engine = current().engine
        body: dict[str, Any] = {"prompt": prompt, "prompt_id": prompt_id or str(uuid.uuid4())}
        body["extra_data"] = dict(extra_data or {})
        if execute_outputs:
            body["partial_execution_targets"] = list(execute_outputs)
        accepted = await engine.submit(body)
        entry = await engine.wait(accepted.prompt_id) or {}
        self.success = bool(entry.get("status", {}).get("completed"))
        self.history_result = {"outputs": entry.get("outputs", {}), "meta": entry.get("meta", {})}
        self.status_messages = [tuple(one) for one in entry.get("status", {}).get("messages", [])]
