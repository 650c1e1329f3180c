"""What the server tells a monitor: counts and durations in Prometheus' text format, version 0.0.4."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any

import psutil
from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from limner.server.keys import ENGINE, HUB, Handler

if TYPE_CHECKING:
    from limner.engine import Engine
    from limner.server.hub import Hub

TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0)
"""Upper bounds of the durations told apart, in seconds."""
STATUSES = ("completed", "failed", "cancelled")


class Metrics:
    """Requests by method, route and status, and how long each route takes. For the event loop only.

    A route is its path as it is written in the table of routes, so that there are only so many.
    """

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str, int], int] = {}
        self._durations: dict[str, list[int]] = {}
        self._seconds: dict[str, float] = {}

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        key = (method if method in hdrs.METH_ALL else "other", route, status)
        self._requests[key] = self._requests.get(key, 0) + 1
        found = self._durations.get(route)
        if found is None:
            found = self._durations[route] = [0] * (len(BUCKETS) + 1)
        found[bisect_left(BUCKETS, seconds)] += 1
        self._seconds[route] = self._seconds.get(route, 0.0) + seconds

    def lines(self) -> Iterator[str]:
        """The requests, as text."""
        requests = (
            ({"method": method, "route": route, "status": status}, count)
            for (method, route, status), count in sorted(self._requests.items())
        )
        yield from family("limner_http_requests_total", "counter", "Requests answered.", requests)
        yield "# HELP limner_http_request_seconds How long requests took."
        yield "# TYPE limner_http_request_seconds histogram"
        for route, counts in sorted(self._durations.items()):
            total = 0
            for bound, count in zip((*BUCKETS, "+Inf"), counts, strict=True):
                total += count
                yield sample("limner_http_request_seconds_bucket", {"route": route, "le": bound}, total)
            yield sample("limner_http_request_seconds_sum", {"route": route}, self._seconds[route])
            yield sample("limner_http_request_seconds_count", {"route": route}, total)


METRICS: web.AppKey[Metrics] = web.AppKey("metrics")


def make_counter(metrics: Metrics) -> Middleware:
    """The outermost middleware: it counts every request, refused ones too."""

    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        start, status = perf_counter(), 499  # as proxies call a client that left
        try:
            response = await handler(request)
            status = response.status
            return response
        except web.HTTPException as error:
            status = error.status
            raise
        finally:
            metrics.observe(request.method, route_of(request), status, perf_counter() - start)

    return count


def route_of(request: web.Request) -> str:
    """The request's path as the table of routes has it, without `/api`; one name for all that is no route."""
    resource = request.match_info.route.resource
    return "unmatched" if resource is None else resource.canonical.removeprefix("/api") or "/"


def family(name: str, kind: str, text: str, samples: Iterable[tuple[Mapping[str, Any], float]]) -> Iterator[str]:
    """The lines of one metric: what it is, then each of its samples as labels and value."""
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples:
        yield sample(name, labels, value)


def sample(name: str, labels: Mapping[str, Any], value: float) -> str:
    """One line."""
    inner = ",".join(f'{key}="{_escaped(str(label))}"' for key, label in labels.items())
    return f"{name}{{{inner}}} {value}" if inner else f"{name} {value}"


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def exposition(app: web.Application) -> str:
    """Everything there is to tell."""
    parts = (_queue(app[ENGINE]), _work(app[ENGINE]), _sockets(app[HUB]), app[METRICS].lines(), _process())
    return "\n".join(line for part in parts for line in part) + "\n"


def _queue(engine: Engine) -> Iterator[str]:
    running, remaining = len(engine.queue.running_jobs()), engine.queue.remaining()
    depth = [({"state": "running"}, running), ({"state": "pending"}, max(0, remaining - running))]
    yield from family("limner_queue_prompts", "gauge", "Prompts that wait or run.", depth)
    yield from family("limner_queue_paused", "gauge", "1 while the queue is paused.", [({}, int(engine.queue.paused))])


def _work(engine: Engine) -> Iterator[str]:
    counts = engine.stats.snapshot()
    ended = [({"status": status}, counts["prompts"].get(status, 0)) for status in STATUSES]
    yield from family("limner_prompts_total", "counter", "Prompts that ended, by how.", ended)
    runs = [({"class": kind}, count) for kind, count in sorted(counts["node_runs"].items())]
    yield from family("limner_node_runs_total", "counter", "Nodes that were run, by class.", runs)
    spent = [({"class": kind}, round(seconds, 6)) for kind, seconds in sorted(counts["node_seconds"].items())]
    yield from family("limner_node_seconds_total", "counter", "Time in nodes, by class.", spent)
    yield from family("limner_cache_hits_total", "counter", "Nodes whose result was cached.", [({}, counts["cached"])])


def _sockets(hub: Hub) -> Iterator[str]:
    yield from family("limner_sockets", "gauge", "Open sockets.", [({}, len(hub))])


def _process() -> Iterator[str]:
    process = psutil.Process()
    with process.oneshot():
        memory, cpu, started = process.memory_info().rss, process.cpu_times(), process.create_time()
        threads = process.num_threads()
    seconds = round(cpu.user + cpu.system, 2)
    yield from family("process_resident_memory_bytes", "gauge", "Resident memory.", [({}, memory)])
    yield from family("process_cpu_seconds_total", "counter", "Processor time.", [({}, seconds)])
    yield from family("process_start_time_seconds", "gauge", "When it was started.", [({}, started)])
    yield from family("process_threads", "gauge", "Threads.", [({}, threads)])
