"""Jobs, results and files of one API key are not another's."""

from pathlib import Path

import pytest

from limner.engine.queue import Job, Queue
from limner.errors import Forbidden
from limner.store.files import Files
from limner.store.jobs import JobStore
from limner.store.records import JobRecord
from tests.engine import nodes
from tests.engine.make import bench, say_and_show


def job(prompt_id: str, owner: str | None) -> Job:
    return Job(prompt_id, 0, {}, {"client_id": "me"}, [], 1, owner=owner)


def queue() -> Queue:
    made = Queue()
    for prompt_id, owner in (("1", "ann"), ("2", "bob"), ("3", None)):
        made.put(job(prompt_id, owner))
    return made


def test_an_owner_sees_and_counts_only_its_waiting_jobs() -> None:
    here = queue()

    assert [item[1] for item in here.pending("ann")] == ["1"]
    assert (here.remaining("ann"), here.remaining()) == (1, 3)
    assert here.find("2", "ann") is None


def test_an_owner_takes_out_only_its_own_jobs() -> None:
    here = queue()

    assert here.delete(["1", "2", "3"], "ann") == ["1"]
    assert here.clear("bob") == ["2"]
    assert not here.cancel("3", "ann")
    assert [item[1] for item in here.pending()] == ["3"]


def test_an_owner_interrupts_only_its_own_job() -> None:
    here = queue()
    running = here.take()

    assert running is not None
    assert running.owner == "ann"
    assert not here.interrupt(None, "bob")
    assert not here.cancel("1", "bob")
    assert here.running("bob") == []
    assert here.interrupt(None, "ann")


def test_clients_of_two_owners_with_one_name_are_two() -> None:
    assert len({job("1", owner).client_id for owner in ("ann", "bob", None)}) == 3
    assert job("1", None).client_id == "me"


def test_the_history_of_an_owner_is_its_own() -> None:
    with JobStore.open("sqlite://") as store:
        for prompt_id, owner in (("1", "ann"), ("2", "bob"), ("3", None)):
            store.add(JobRecord(prompt_id, 0, {}, owner=owner))
            store.finish(prompt_id, "completed")

        assert list(store.history(owner="ann")) == ["1"]
        assert list(store.history(1, owner="ann")) == ["1"]
        assert list(store.history(5, 0, "bob")) == ["2"]
        assert (store.get("2", "ann"), store.find("2", "ann")) == (None, None)
        assert store.finished(owner="ann")[1] == 1
        store.delete(["2", "3"], "ann")
        store.clear("bob")
        assert list(store.history()) == ["1", "3"]


def test_an_owner_is_known_after_a_restart(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    with JobStore.open(url) as store:
        store.add(JobRecord("1", 0, {}, owner="ann"))
    with JobStore.open(url) as store:
        assert [record.owner for record in store.load_unfinished()] == ["ann"]


async def test_results_of_one_owner_are_not_given_to_another(tmp_path: Path) -> None:
    async with bench(tmp_path, cache_lru=10) as b:
        called: list[int] = []
        nodes.calls.clear()
        for owner in ("ann", "bob", "ann"):
            accepted = await b.engine.submit({"prompt": say_and_show()}, owner)
            await b.engine.wait(accepted.prompt_id)
            called.append(len(nodes.calls))
        assert called[1] == 2 * called[0]
        assert called[2] == called[1]


def test_each_owner_has_folders_of_its_own(tmp_path: Path) -> None:
    files = Files({kind: tmp_path / kind for kind in ("input", "output", "temp", "user")})
    files.of("ann").save_upload("input", "", "a.png", b"x")

    assert files.of("bob").list("input") == []
    assert files.of("ann").list("input") == ["a.png"]
    assert files.resolve("input", "keys/ann", "a.png").is_file()
    with pytest.raises(Forbidden):
        files.of("bob").resolve("input", "../ann", "a.png")
    with pytest.raises(Forbidden):
        files.of("..")
