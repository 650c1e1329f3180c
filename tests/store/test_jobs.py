from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import threading

import pytest
from sqlalchemy.exc import IntegrityError

from limner.errors import BadInput, LimnerError
from limner.store.db.writer import Change
from limner.store.records import SECRETS
from tests.store.make import finished_status, jobs, record


async def test_an_accepted_prompt_is_there_after_reopening(tmp_path):
    with jobs(tmp_path) as store:
        await store.add(record("a", 3, extra_data={"client_id": "me"}))
    with jobs(tmp_path) as store:
        (found,) = store.load_unfinished()
    assert found == record("a", 3, extra_data={"client_id": "me"})


def test_unfinished_jobs_come_back_in_queue_order(tmp_path):
    with jobs(tmp_path) as store:
        for name, number in (("a", 2), ("b", -1), ("c", 0.5), ("d", 2)):
            store.add(record(name, number)).wait()
    with jobs(tmp_path) as store:
        assert [found.prompt_id for found in store.load_unfinished()] == ["b", "c", "a", "d"]


def test_whole_numbers_and_fractions_stay_apart(tmp_path):
    with jobs(tmp_path) as store:
        store.add(record("a", 3)).wait()
        store.add(record("b", 3.0)).wait()
    with jobs(tmp_path) as store:
        assert [repr(found.number) for found in store.load_unfinished()] == ["3", "3.0"]


def test_a_job_that_was_running_at_an_orderly_end_is_pending_without_a_failed_attempt(tmp_path):
    with jobs(tmp_path) as store:
        store.add(record("a"))
        store.start("a").wait()
    with jobs(tmp_path) as store:
        (found,) = store.load_unfinished()
    assert (found.status, found.attempts) == ("pending", 0)


def test_a_finished_job_is_in_the_history_and_not_in_the_queue(tmp_path):
    with jobs(tmp_path) as store:
        store.add(record("a", 7))
        store.start("a")
        store.finish("a", "completed", {"1": {"text": ["x"]}}, {"1": {"node_id": "1"}}, finished_status(10, 30))
    with jobs(tmp_path) as store:
        assert store.load_unfinished() == []
        assert store.get("a") == {
            "prompt": record("a", 7).item(),
            "outputs": {"1": {"text": ["x"]}},
            "status": finished_status(10, 30),
            "meta": {"1": {"node_id": "1"}},
        }


def test_reads_see_changes_that_nobody_waited_for(tmp_path):
    with jobs(tmp_path) as store:
        store.add(record("a"))
        store.finish("a", "failed")
        assert list(store.history()) == ["a"]


def test_finishing_twice_is_recorded_once(tmp_path):
    with jobs(tmp_path) as store:
        store.add(record("a"))
        store.finish("a", "completed", {"1": {}})
        store.finish("a", "failed")
        assert store.find("a").status == "completed"
        assert store.finished()[1] == 1


def test_a_second_prompt_of_the_same_id_takes_the_place_of_the_first(tmp_path):
    with jobs(tmp_path) as store:
        store.add(record("a", 1))
        store.finish("a", "completed")
        store.add(record("b", 2))
        store.finish("b", "completed")
        store.add(record("a", 3))
        store.finish("a", "completed")
        assert [(name, entry["prompt"][0]) for name, entry in store.history().items()] == [("b", 2), ("a", 3)]


def test_two_waiting_prompts_of_one_id_end_in_queue_order(tmp_path):
    with jobs(tmp_path) as store:
        store.add(record("a", 5))
        store.add(record("a", -5))
        store.start("a")
        store.finish("a", "completed")
        assert store.get("a")["prompt"][0] == -5
        store.start("a")
        store.finish("a", "completed")
        assert store.get("a")["prompt"][0] == 5


@pytest.mark.parametrize(
    ("max_items", "offset", "expected"),
    [
        (None, -1, "abcde"),
        (2, -1, "de"),
        (0, -1, ""),
        (2, 0, "ab"),
        (2, 3, "de"),
        (None, 2, "cde"),
        (9, 9, ""),
        (-3, 0, ""),
    ],
)
def test_history_pages_as_the_protocol_says(tmp_path, max_items, offset, expected):
    with jobs(tmp_path) as store:
        for name in "abcde":
            store.add(record(name))
            store.finish(name, "completed")
        assert "".join(store.history(max_items, offset)) == expected


def test_the_history_keeps_the_newest_up_to_its_capacity(tmp_path):
    names = [f"{i:03}" for i in range(200)]
    with jobs(tmp_path, capacity=5) as store:
        for name in names:
            store.add(record(name))
            store.finish(name, "completed")
        assert list(store.history()) == names[-5:]
        assert list(store.history(2, 0)) == names[-5:-3]
    kept = sqlite3.connect(tmp_path / "jobs.db").execute("select count(*) from job_items").fetchone()[0]
    assert kept < 5 + 64


def test_deleting_and_clearing_the_history_leave_the_queue_alone(tmp_path):
    with jobs(tmp_path) as store:
        for name in "abc":
            store.add(record(name))
            store.finish(name, "completed")
        store.add(record("d"))
        store.delete(["a", "unknown", "d"])
        assert list(store.history()) == ["b", "c"]
        store.clear()
        assert store.history() == {}
    with jobs(tmp_path) as store:
        assert [found.prompt_id for found in store.load_unfinished()] == ["d"]
    tables = sqlite3.connect(tmp_path / "jobs.db")
    assert [tables.execute(f"select count(*) from {name}").fetchone()[0] for name in ("job_items", "job_results")] == [
        1,
        0,
    ]


def test_removing_takes_waiting_jobs_but_not_the_running_one(tmp_path):
    with jobs(tmp_path) as store:
        for name in "ab":
            store.add(record(name))
        store.start("a")
        store.remove(["a", "b", "unknown"])
    with jobs(tmp_path) as store:
        assert [found.prompt_id for found in store.load_unfinished()] == ["a"]


def test_secrets_are_never_written(tmp_path):
    secrets = dict.fromkeys(SECRETS, "hush-hush")
    with jobs(tmp_path) as store:
        store.add(record("a", extra_data={**secrets, "client_id": "me"}, sensitive=secrets))
        store.finish("a", "completed")
        assert store.get("a")["prompt"][3] == {"client_id": "me"}
    assert b"hush-hush" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_odd_outputs_become_plain_json(tmp_path):
    np = pytest.importorskip("numpy")
    loop: list = []
    loop.append(loop)
    odd = {"1": {"nan": float("nan"), "array": np.arange(2), "set": {3}, 5: object}, "2": {"text": ["\ud800"]}}
    with jobs(tmp_path) as store:
        store.add(record("a"))
        store.finish("a", "completed", odd, {"loop": loop})
        outputs = store.get("a")["outputs"]
    assert outputs["1"] == {"nan": None, "array": [0, 1], "set": [3], "5": "<class 'object'>"}
    assert outputs["2"] == {"text": ["\ud800"]}


@pytest.mark.parametrize("prompt_id", ["", "x" * 256, "\ud800", "a\0b"])
def test_ids_that_cannot_be_indexed_are_refused(tmp_path, prompt_id):
    with jobs(tmp_path) as store:
        with pytest.raises(BadInput):
            store.add(record(prompt_id))
        assert store.get(prompt_id) is None
        store.delete([prompt_id])


def test_lists_of_finished_jobs_are_filtered_sorted_and_counted(tmp_path):
    flow = {"extra_pnginfo": {"workflow": {"id": "w"}}}
    with jobs(tmp_path) as store:
        store.add(record("slow", create_time=1, extra_data=flow))
        store.finish("slow", "completed", status_json=finished_status(0, 90))
        store.add(record("quick", create_time=2))
        store.finish("quick", "failed", status_json=finished_status(0, 10))
        store.add(record("new", create_time=3, extra_data=flow))
        store.finish("new", "cancelled")

        def names(**query):
            found, total = store.finished(**query)
            return [summary.prompt_id for summary in found], total

        assert names() == (["new", "quick", "slow"], 3)
        assert names(descending=False, limit=1, offset=1) == (["quick"], 3)
        assert names(sort_by="execution_duration") == (["slow", "quick", "new"], 3)
        assert names(statuses=("failed", "completed")) == (["quick", "slow"], 2)
        assert names(workflow_id="w") == (["new", "slow"], 2)
        first = store.finished(statuses=("completed",))[0][0]
        assert (first.start_time, first.end_time, first.workflow_id, first.number) == (0, 90, "w", 0)


async def test_a_burst_of_additions_shares_commits(tmp_path, monkeypatch):
    with jobs(tmp_path) as store:
        groups = []
        commit = store._writer._commit
        monkeypatch.setattr(store._writer, "_commit", lambda changes: (groups.append(len(changes)), commit(changes)))
        await asyncio.gather(*(_added(store, f"{i}") for i in range(200)))
    assert sum(groups) == 200
    assert len(groups) < 50


async def _added(store, name):
    await store.add(record(name))


def test_one_bad_change_does_not_take_its_group_down(tmp_path):
    with jobs(tmp_path) as store:
        store.add(record("a")).wait()
        row = {"id": 1, "item": "[]"}
        held = _hold(store)
        undone = []
        twin = store._writer.put(Change([(_insert_item(), row)], undo=lambda: undone.append(True)))
        good = store.add(record("b"))
        held.set()
        with pytest.raises(LimnerError, match="UNIQUE"):
            twin.wait(5)
        good.wait(5)
        assert undone == [True]
    with jobs(tmp_path) as store:
        assert [found.prompt_id for found in store.load_unfinished()] == ["a", "b"]


def _insert_item():
    from limner.store.db.statements import INSERT_ITEM

    return INSERT_ITEM


def _hold(store):
    """Make the writer wait before its next commit until the returned event is set."""
    gate, commit = threading.Event(), store._writer._commit

    def gated(changes):
        gate.wait(5)
        commit(changes)

    store._writer._commit = gated
    return gate


def test_a_database_that_is_locked_for_a_while_loses_no_end_and_refuses_additions(tmp_path, monkeypatch):
    monkeypatch.setattr("limner.store.db.connect.BUSY_SECONDS", 0.01)
    monkeypatch.setattr("limner.store.db.writer.RETRY_SECONDS", 0.01)
    with jobs(tmp_path) as store:
        store.add(record("a")).wait()
        other = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)
        other.execute("begin immediate")
        end = store.finish("a", "completed")
        with pytest.raises(LimnerError, match="locked"):
            store.add(record("b")).wait(5)
        other.execute("rollback")
        end.wait(5)
        store.add(record("c")).wait(5)
    with jobs(tmp_path) as store:
        assert list(store.history()) == ["a"]
        assert [found.prompt_id for found in store.load_unfinished()] == ["c"]


def test_a_second_process_on_the_same_file_is_refused(tmp_path):
    with jobs(tmp_path), pytest.raises(LimnerError, match="in use by another process"):
        jobs(tmp_path)
    jobs(tmp_path).close()


@pytest.mark.parametrize("checked", [0, 1 << 30])
@pytest.mark.parametrize("damage", ["no database", "pages", "cut"])
def test_a_damaged_file_is_moved_aside_and_a_new_one_made(tmp_path, caplog, monkeypatch, damage, checked):
    monkeypatch.setattr("limner.store.db.connect.CHECKED_BYTES", checked)
    path = tmp_path / "jobs.db"
    with jobs(tmp_path) as store:
        for i in range(500):
            store.add(record(f"{i}"))
    whole = path.read_bytes()
    broken = {
        "no database": b"no database at all " * 500,
        "pages": whole[:4096] + bytes(reversed(whole[4096:])),
        "cut": whole[:20_000],
    }[damage]
    path.write_bytes(broken)
    with caplog.at_level(logging.ERROR), jobs(tmp_path) as store:
        assert store.load_unfinished() == []
        store.add(record("new")).wait()
    (aside,) = (found for found in tmp_path.glob("*.damaged-*") if found.read_bytes() == broken)
    assert str(aside) in caplog.text


def test_damage_that_shows_later_is_told_by_name(tmp_path):
    with jobs(tmp_path) as store:
        store.add(record("a")).wait()
        store._database.engine.dispose()
        path = tmp_path / "jobs.db"
        for file in (path, tmp_path / "jobs.db-wal"):
            if file.exists():
                file.write_bytes(b"x" * file.stat().st_size)
        with pytest.raises(LimnerError, match="job database cannot be read"):
            store.get("a")


def test_a_full_disk_is_not_taken_for_damage():
    from limner.store.db.connect import is_damage

    assert not is_damage(IntegrityError("", None, sqlite3.OperationalError("database or disk is full")))


@pytest.mark.parametrize("url", ["nonsense", "nodb://x", "postgresql+nodriver:///x"])
def test_a_url_that_cannot_be_used_is_refused(url):
    from limner.store.jobs import JobStore

    with pytest.raises(BadInput, match="database-url"):
        JobStore.open(url)


def test_a_store_in_memory_touches_no_file(tmp_path, monkeypatch):
    from limner.store.jobs import JobStore

    monkeypatch.chdir(tmp_path)
    with JobStore.open("sqlite://") as store:
        store.add(record("a")).wait()
        store.finish("a", "completed")
        assert list(store.history()) == ["a"]
    assert list(tmp_path.iterdir()) == []


async def test_changes_may_be_asked_for_on_the_loop_and_off_it(tmp_path):
    with jobs(tmp_path) as store:
        await store.add(record("a"))
        await asyncio.to_thread(lambda: store.start("a").wait(5))
        with pytest.raises(RuntimeError, match="await"):
            store.finish("a", "completed").wait()
        assert json.loads(store.get_text("a"))["prompt"][1] == "a"


def test_an_unknown_end_is_refused(tmp_path):
    with jobs(tmp_path) as store, pytest.raises(BadInput, match="completed, failed, cancelled"):
        store.finish("a", "running")
