"""Results on disk: what is stored comes back exactly, after a restart, within a budget; the rest runs again."""

import math
import time

import pytest

from limner.engine.cache import ClassicCache, Entry, Made, NoCache
from limner.engine.codec import NotStorable, decode, encode
from limner.engine.disk import DiskCache, FileStamps, environment
from limner.settings import Settings
from limner.store import Store
from tests.contract.engine import classes
from tests.contract.engine.make import call, called, engine, out, shown
from tests.engine.classes import ClassSource

SLOW = Made(seconds=10.0, lasting=True)


class Slow(classes.Node):
    def go(self, text):
        classes.calls.append(("Slow", text))
        time.sleep(0.06)
        return (text,)


class Versioned(ClassSource):
    """A source that says by what its classes' code is known."""

    code = "1"

    def version(self, kind):
        return self.code


def cache(folder, budget=1e6, inner=None, **more):
    made = DiskCache(inner or ClassicCache(), folder, budget, **more)
    made.begin(set())
    return made


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -(2**80), 0.1, "ü\ud800", b"\0\xff", [], (1, [2, (3,)]), {"a": {"b": None}, "": 1}, -0.0, math.inf],
    ids=repr,
)
def test_plain_values_come_back_exactly(value):
    (slot,) = decode(encode(([value],)))
    assert slot == [value]
    assert type(slot[0]) is type(value)
    assert repr(slot[0]) == repr(value)


def test_nan_comes_back():
    assert math.isnan(decode(encode(([math.nan],)))[0][0])


@pytest.mark.parametrize(
    "dtype",
    ["float32", "float16", "bfloat16", "float64", "int64", "uint8", "bool", "float8_e4m3fn"],
)
def test_tensors_come_back_exactly(dtype):
    torch = pytest.importorskip("torch")
    tensor = torch.arange(24).reshape(2, 3, 4).to(getattr(torch, dtype))[:, 1:]
    latent = {"samples": tensor, "batch_index": [0, 1]}
    conditioning = [[tensor, {"pooled_output": tensor, "strength": 0.5}]]
    found, again = (slot[0] for slot in decode(encode(([latent], [conditioning]))))
    back = found["samples"]
    assert back.dtype is tensor.dtype
    assert torch.equal(back.view(torch.uint8), tensor.contiguous().view(torch.uint8))
    assert again[0][1]["pooled_output"] is again[0][0]
    assert torch.equal(decode(encode(([torch.tensor(7)],)))[0][0], torch.tensor(7))


def test_what_would_not_come_back_as_it_was_is_not_stored():
    torch = pytest.importorskip("torch")

    class Text(str):
        pass

    bad = [object(), Text("x"), {1: 2}, {1}, torch.nn.Parameter(torch.zeros(1)), torch.zeros(2).to_sparse()]
    for value in (*bad, torch.zeros(1, dtype=torch.complex64), torch.zeros(1, requires_grad=True)):
        with pytest.raises(NotStorable):
            encode(([value],))


def test_a_result_is_there_after_a_restart(tmp_path):
    cache(tmp_path).put(b"x", Entry((["a"],)), SLOW)
    found = cache(tmp_path)
    assert found.has(b"x")
    assert found.get(b"x").outputs == (["a"],)
    assert not cache(tmp_path, environment=b"another program").has(b"x")


def test_what_was_quick_shows_something_is_blocked_or_has_no_version_is_not_stored(tmp_path):
    kept = cache(tmp_path)
    kept.put(b"1", Entry((["a"],)), Made(seconds=0.001, lasting=True))
    kept.put(b"2", Entry((["a"],)), Made(seconds=10, lasting=False))
    kept.put(b"3", Entry((["a"],), {"text": ["a"]}), SLOW)
    kept.put(b"4", Entry((["a"],), blocked=True), SLOW)
    kept.put(b"5", Entry(([object()],)), SLOW)
    assert list(tmp_path.iterdir()) == []


def test_the_budget_holds_and_the_least_recently_used_go(tmp_path):
    kept = cache(tmp_path, 4000, NoCache())
    for name in (b"a", b"b", b"c"):
        kept.put(name, Entry(([name.decode() * 1000],)), SLOW)
        kept.get(b"a")
    assert [kept.has(name) for name in (b"a", b"b", b"c")] == [True, True, True]
    kept.put(b"d", Entry((["d" * 1000],)), SLOW)
    assert [kept.has(name) for name in (b"a", b"b", b"c", b"d")] == [True, False, True, True]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 4000
    assert len(list(cache(tmp_path, 2500)._folder.iterdir())) == 2


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-3], lambda data: b"", lambda data: data[:40] + b"!" + data[41:]]
)
def test_a_damaged_file_is_dropped(damage, tmp_path):
    cache(tmp_path).put(b"x", Entry((["a" * 100],)), SLOW)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    found = cache(tmp_path)
    assert found.get(b"x") is None
    assert not found.has(b"x")
    assert list(tmp_path.iterdir()) == []


def test_halves_of_files_are_cleared_away(tmp_path):
    (tmp_path / ".abc.tmp").write_bytes(b"half")
    cache(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_other_flags_for_precision_are_another_environment():
    assert environment(Settings()) == environment(Settings(port=1))
    assert environment(Settings()) != environment(Settings(fp16_unet=True))


async def run_twice(tmp_path, source=None, between=lambda: None):
    """A slow node, an output of it, and the same in another process; what ran in each."""
    raw = {"1": call("Slow", text="x"), "2": call("Say", text=["1", 0]), "3": out("2")}
    ran = []
    for _ in range(2):
        source = source or Versioned({"Slow": Slow})
        async with engine(tmp_path, source=source, disk_cache=1) as b:
            entry = await b.run(raw)
            assert shown(entry) == {"3": ["x"]}
            ran.append(called("Slow"))
        between()
    return ran


async def test_a_restarted_engine_does_not_run_what_is_on_disk(tmp_path):
    assert await run_twice(tmp_path) == [["x"], []]


async def test_other_code_of_a_pack_runs_again(tmp_path):
    source = Versioned({"Slow": Slow})
    assert await run_twice(tmp_path, source, lambda: setattr(source, "code", "2")) == [["x"], ["x"]]


async def test_a_pack_whose_code_has_no_version_is_not_stored(tmp_path):
    assert await run_twice(tmp_path, ClassSource({"Slow": Slow})) == [["x"], ["x"]]


async def test_a_result_that_turns_out_damaged_is_computed_again(tmp_path):
    def damage():
        for path in (tmp_path / "cache" / "results").iterdir():
            path.write_bytes(b"x" * path.stat().st_size)

    assert await run_twice(tmp_path, between=damage) == [["x"], ["x"]]


async def test_without_the_flag_nothing_is_written(tmp_path):
    async with engine(tmp_path, Slow) as b:
        await b.run({"1": call("Slow", text="x"), "2": out("1")})
    assert not (tmp_path / "cache").exists()


def test_a_model_replaced_under_its_name_is_another_model(tmp_path):
    store = Store.open(Settings(base_directory=str(tmp_path)), owned=False)
    stamps = FileStamps(store)
    assert stamps.of("fox.safetensors") == b""
    model = tmp_path / "models" / "checkpoints" / "fox.safetensors"
    model.parent.mkdir(parents=True, exist_ok=True)
    model.write_bytes(b"1")
    first = stamps.of("fox.safetensors")
    model.write_bytes(b"12")
    assert first not in (b"", stamps.of("fox.safetensors"))
    assert stamps.of(str(model)) == stamps.of("fox.safetensors")
    store.close()
