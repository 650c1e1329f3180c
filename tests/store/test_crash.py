from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter

from limner.store.jobs import JobStore
from tests.store.make import record


def test_after_kill_every_acknowledged_prompt_ends_exactly_once_in_the_history(tmp_path):
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    chance = random.Random(5)
    accepted = []
    for turn in range(4):
        accepted += _work_until_killed(url, f"t{turn}", lines=chance.randrange(5, 150))
    with JobStore.open(url, capacity=100_000) as store:
        waiting = [found.prompt_id for found in store.load_unfinished()]
        assert not set(waiting) & {summary.prompt_id for summary in store.finished(limit=100_000)[0]}
        for name in waiting:
            store.finish(name, "completed")
        ended = Counter(summary.prompt_id for summary in store.finished(limit=100_000)[0])
        assert store.load_unfinished() == []
    assert set(accepted) <= set(ended)
    assert set(ended.values()) == {1}


def test_a_job_that_runs_when_the_process_is_killed_is_pending_again_one_attempt_richer(tmp_path):
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    script = (
        "import sys, os, signal; from limner.store.jobs import JobStore; from tests.store.make import record\n"
        "store = JobStore.open(sys.argv[1]); store.load_unfinished(); store.add(record('a')).wait()\n"
        "store.start('a').wait(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, url], check=False)
    with JobStore.open(url) as store:
        (found,) = store.load_unfinished()
        assert found == record("a", attempts=1)
        assert store.history() == {}


def _work_until_killed(url: str, prefix: str, lines: int) -> list[str]:
    """The prompts that a process acknowledged before it was killed at a moment of its own choosing."""
    command = [sys.executable, "-m", "tests.store.crash_child", url, prefix]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(lines)]
        child.kill()
        said += child.stdout.readlines()
    assert said[0], "the process ended before it accepted anything"
    return [line.strip() for line in said if line.endswith("\n")]
