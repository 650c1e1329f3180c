"""The queue of one socket."""

from limner.server.outbox import CROWDED, FULL, Message, Outbox, binary_frame, text_frame


def drained(box: Outbox) -> bytes:
    return b"".join(iter(box.take, b""))


def test_frames_have_the_shortest_length_form() -> None:
    assert text_frame(b"hi") == b"\x81\x02hi"
    assert binary_frame(b"x" * 126)[:4] == b"\x82\x7e\x00\x7e"
    assert text_frame(b"x" * 65536)[:10] == b"\x81\x7f" + (65536).to_bytes(8, "big")


def test_a_fast_client_gets_every_state() -> None:
    box = Outbox()
    for i in range(3):
        box.put(Message(b"%d" % i, "state"))

    assert drained(box) == b"012"


def test_a_slow_client_gets_the_newest_state_and_all_results() -> None:
    box = Outbox()
    box.put(Message(b"r" * CROWDED + b"R"))
    for i in range(100):
        box.put(Message(b"%02d" % i, "state"))
        box.put(Message(b"!"))

    assert drained(box)[CROWDED:] == b"R" + b"!" * 99 + b"99!"
    assert (box.size, bool(box)) == (0, False)


def test_states_of_different_things_do_not_replace_each_other() -> None:
    box = Outbox()
    box.put(Message(b"." * (CROWDED + 1)))
    for key in "abab":
        box.put(Message(key.encode(), key))

    assert drained(box).strip(b".") == b"ab"


def test_a_state_that_is_already_gone_is_not_looked_for() -> None:
    box = Outbox()
    box.put(Message(b"old", "state"))
    box.put(Message(b"." * (2 * CROWDED)))
    assert box.take(1) == b"old"

    box.put(Message(b"new", "state"))

    assert drained(box).strip(b".") == b"new"


def test_a_client_that_never_reads_fills_its_queue() -> None:
    box = Outbox()
    part = Message(b"x" * (FULL // 4))
    for _ in range(4):
        box.put(part)
    assert not box.full

    box.put(part)

    assert box.full


def test_a_batch_holds_whole_frames() -> None:
    box = Outbox()
    for _ in range(3):
        box.put(Message(b"x" * 10))

    assert [len(box.take(15)), len(box.take(15))] == [20, 10]
