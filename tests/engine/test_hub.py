import asyncio
import threading

from limner.engine.events import Executing, ProgressState, StatusChanged
from limner.engine.hub import EventHub


async def test_events_of_another_thread_come_in_order():
    hub, seen = EventHub(), []
    hub.attach(asyncio.get_running_loop())
    hub.subscribe(seen.append)
    thread = threading.Thread(target=lambda: [hub.push(StatusChanged("", None, i)) for i in range(500)])
    thread.start()
    await asyncio.to_thread(thread.join)
    await asyncio.sleep(0)
    assert [event.queue_remaining for event in seen] == list(range(500))


async def test_a_listener_that_fails_stops_nobody(caplog):
    hub, seen = EventHub(), []
    hub.attach(asyncio.get_running_loop())
    hub.subscribe(lambda event: 1 / 0)
    hub.subscribe(seen.append)
    hub.push(StatusChanged("", None, 1))
    await asyncio.sleep(0)
    assert len(seen) == 1
    assert "failed" in caplog.text


async def test_an_unsubscribed_listener_hears_nothing_more():
    hub, seen = EventHub(), []
    hub.attach(asyncio.get_running_loop())
    hub.subscribe(seen.append)()
    hub.push(StatusChanged("", None, 1))
    await asyncio.sleep(0)
    assert seen == []


async def test_states_are_coalesced_and_the_last_is_never_lost():
    hub, seen = EventHub(), []
    hub.attach(asyncio.get_running_loop())
    hub.subscribe(seen.append)
    made = []

    def make():
        made.append(1)
        return ProgressState("p", None, {})

    for _ in range(100):
        hub.push_state(make)
        await asyncio.sleep(0)
    assert len(made) == 1
    hub.flush_state()
    hub.push(Executing("p", None))
    await asyncio.sleep(0)
    assert [event.type for event in seen] == ["progress_state", "progress_state", "executing"]


async def test_a_state_held_back_comes_by_itself():
    hub, seen = EventHub(), []
    hub.attach(asyncio.get_running_loop())
    hub.subscribe(seen.append)
    make = lambda: ProgressState("p", None, {})  # noqa: E731
    hub.push_state(make)
    await asyncio.sleep(0)
    hub.push_state(make)
    await asyncio.sleep(0.2)
    assert len(seen) == 2
