from limner.engine.queue import Job, Queue


def job(name, number=0):
    return Job(name, number, {}, {}, [], 0)


def queue_of(*names, **options):
    queue = Queue(**options)
    for name in names:
        queue.put(job(name))
    return queue


def names(items):
    return [item[1] for item in items]


def test_lower_numbers_come_first_then_arrival():
    queue = Queue()
    for name, number in (("a", 1), ("b", 0), ("c", 1), ("d", -2)):
        queue.put(job(name, number))
    assert names(queue.pending()) == ["d", "b", "a", "c"]
    assert [queue.take().prompt_id for _ in range(4)] == ["d", "b", "a", "c"]


def test_what_was_taken_runs_until_it_is_done():
    queue = queue_of("a")
    taken = queue.take()
    assert (names(queue.running()), queue.pending(), queue.remaining()) == (["a"], [], 1)
    assert "a" in queue
    queue.done(taken)
    assert queue.remaining() == 0
    assert "a" not in queue


def test_every_change_is_reported_q3():
    counts = []
    queue = queue_of("a", "b", "c", changed=counts.append)
    queue.delete(["a", "nobody"])
    queue.done(queue.take())
    queue.clear()
    assert counts == [1, 2, 3, 2, 2, 1, 0]


def test_deleting_leaves_the_running_one_alone():
    gone = []
    queue = queue_of("a", "b", removed=gone.extend)
    queue.take()
    assert queue.delete(["a", "b"]) == ["b"]
    assert names(queue.running()) == ["a"]
    assert gone == ["b"]


def test_clearing_leaves_the_running_one_alone():
    queue = queue_of("a", "b", "c")
    queue.take()
    assert queue.clear() == ["b", "c"]
    assert queue.remaining() == 1


def test_a_deleted_job_is_not_given_out_and_its_id_is_free():
    queue = queue_of("a")
    queue.delete(["a"])
    queue.put(job("a", 7))
    assert queue.take().number == 7


def test_an_interrupt_without_a_name_is_for_what_runs():
    queue = queue_of("a", "b")
    running = queue.take()
    assert queue.interrupt()
    assert running.interrupted
    assert not queue.take().interrupted


def test_an_interrupt_on_an_idle_queue_is_for_nobody_q6():
    queue = queue_of("a")
    assert not queue.interrupt()
    assert not queue.take().interrupted


def test_an_interrupt_that_names_a_waiting_job_is_not_lost_q6():
    queue = queue_of("a", "b")
    assert queue.interrupt("b")
    assert not queue.take().interrupted
    assert queue.take().interrupted


def test_an_interrupt_that_names_another_leaves_the_running_one_alone():
    queue = queue_of("a")
    running = queue.take()
    assert not queue.interrupt("b")
    assert not running.interrupted


def test_cancel_interrupts_or_takes_out_or_does_nothing():
    queue = queue_of("a", "b")
    running = queue.take()
    assert queue.cancel("a")
    assert running.interrupted
    assert queue.cancel("b")
    assert queue.remaining() == 1
    assert not queue.cancel("b")


def test_wake_and_close_let_take_return():
    queue = Queue()
    queue.wake()
    assert queue.take() is None
    queue.put(job("a"))
    queue.close()
    assert queue.take() is None


def test_many_removals_keep_the_order():
    queue = queue_of(*(str(i) for i in range(200)))
    queue.delete([str(i) for i in range(0, 200, 2)])
    assert names(queue.pending()) == [str(i) for i in range(1, 200, 2)]
