"""Settings: one field, three doors; what excludes what; errors that name the door."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

import pytest

from limner.cli.assemble import prepare_environment
from limner.errors import BadInput
from limner.memory.settings import DefaultSettings
from limner.settings import Settings, Size, add_flags, make_settings


def parsed(*flags: str) -> Settings:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return make_settings(vars(parser.parse_args(flags)))


def test_without_any_choice_the_defaults_hold() -> None:
    assert make_settings() == Settings()
    assert (Settings().listen, Settings().port, Settings().max_upload_bytes) == ("127.0.0.1", 8188, 104857600)


def test_a_bare_listen_means_every_address() -> None:
    assert parsed("--listen").listen == "0.0.0.0,::"


def test_a_bare_fast_means_every_speed_up() -> None:
    assert parsed("--fast").fast == ("fp16_accumulation", "fp8_matrix_mult", "cublas_ops", "autotune")
    assert parsed("--fast", "cublas_ops").fast == ("cublas_ops",)


def test_a_speed_up_that_is_always_on_is_taken_and_dropped() -> None:
    assert parsed("--fast", "pinned_memory").fast == ()
    assert parsed("--fast", "pinned_memory", "autotune").fast == ("autotune",)
    assert make_settings({}, {"LIMNER_FAST": "pinned_memory"}).fast == ()


def test_path_files_may_be_given_several_times() -> None:
    flags = ("--extra-model-paths-config", "a", "b", "--extra-model-paths-config", "c")
    assert parsed(*flags).extra_model_paths_config == ("a", "b", "c")


def test_flags_of_one_group_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parsed("--lowvram", "--highvram")
    assert caught.value.code == 2
    assert "not allowed with" in capsys.readouterr().err


def test_the_environment_cannot_evade_an_exclusion() -> None:
    with pytest.raises(BadInput, match="exclude each other"):
        make_settings({"lowvram": True}, {"LIMNER_HIGHVRAM": "1"})


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "limner.toml"
    file.write_text('port = 1\nlisten = "::1"\nverbose = "DEBUG"\n')
    chosen = make_settings({"port": 3}, {"LIMNER_PORT": "2", "LIMNER_LISTEN": "::2"}, file)
    assert (chosen.port, chosen.listen, chosen.verbose) == (3, "::2", "DEBUG")


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"LIMNER_PORT": "many"}, "LIMNER_PORT"),
        ({"LIMNER_CPU": "perhaps"}, "switch"),
        ({"LIMNER_PREVIEW_METHOD": "fast"}, "latent2rgb"),
        ({"LIMNER_RESERVE_VRAM": "-1"}, "at least 0"),
        ({"LIMNER_RESERVE_VRAM": "nan"}, "at least 0"),
    ],
)
def test_a_bad_value_is_refused_by_name(environment: dict[str, str], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        make_settings({}, environment)


def test_an_unknown_key_of_the_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "limner.toml"
    file.write_text("prot = 1\n")
    with pytest.raises(BadInput, match="prot"):
        make_settings({}, {}, file)


def test_what_follows_from_a_flag_is_set() -> None:
    assert parsed("--force-fp16").fp16_unet
    assert parsed("--windows-standalone-build").auto_launch
    assert not parsed("--windows-standalone-build", "--disable-auto-launch").auto_launch


def test_a_size_is_given_by_each_door(tmp_path: Path) -> None:
    file = tmp_path / "limner.toml"
    file.write_text('max_vram = 6.5\nmax_ram = "75%"\n')
    chosen = make_settings({}, {"LIMNER_PINNED_MEMORY_LIMIT": "512M"}, file)
    assert chosen.max_vram == Size.parse("6.5G")
    assert chosen.max_ram == Size(75, percent=True)
    assert chosen.pinned_memory_limit == Size.parse("512M")
    assert parsed("--max-vram", "6GB").max_vram == Size.parse("6G")


@pytest.mark.parametrize("flag", ["--max-vram", "--max-ram", "--pinned-memory-limit"])
def test_a_flag_that_is_no_size_ends_with_exit_2_and_what_one_looks_like(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parsed(flag, "6X")
    assert caught.value.code == 2
    assert "`6X` is no size. Write a number" in capsys.readouterr().err


@pytest.mark.parametrize(("environment", "says"), [
    ({"LIMNER_MAX_VRAM": "much"}, "LIMNER_MAX_VRAM is 'much'.*is no size.*such as 6G"),
    ({"LIMNER_MAX_RAM": "120%"}, "LIMNER_MAX_RAM.*more than everything"),
    ({"LIMNER_MAX_VRAM": "0"}, "max_vram is 0 GB.*Leave it out"),
    ({"LIMNER_IDLE_UNLOAD": "-1"}, "at least 0"),
    ({"LIMNER_ASYNC_OFFLOAD": "-1"}, "at least 0"),
    ({"LIMNER_ASYNC_OFFLOAD": "many"}, "LIMNER_ASYNC_OFFLOAD"),
])  # fmt: skip
def test_a_bad_value_of_memory_is_refused_by_name(environment: dict[str, str], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        make_settings({}, environment)


def test_no_page_may_be_locked_by_a_limit_of_nothing() -> None:
    assert parsed("--pinned-memory-limit", "0").pinned_memory_limit == Size(0)


def test_streams_are_a_number_or_the_bare_flag(tmp_path: Path) -> None:
    assert parsed().async_offload is None
    assert [parsed("--async-offload", *more).async_offload for more in ((), ("3",), ("0",))] == [2, 3, 0]
    file = tmp_path / "limner.toml"
    file.write_text("async_offload = true\ncache_ram = false\nfast = true\n")
    chosen = make_settings({}, {}, file)
    assert (chosen.async_offload, chosen.cache_ram) == (2, 0.0)
    assert chosen.fast == parsed("--fast").fast
    assert make_settings({}, {"LIMNER_ASYNC_OFFLOAD": "on"}).async_offload == 2
    assert make_settings({}, {"LIMNER_ASYNC_OFFLOAD": "4"}).async_offload == 4


def test_streams_cannot_be_asked_for_and_switched_off() -> None:
    with pytest.raises(BadInput, match="exclude each other"):
        make_settings({"async_offload": 2}, {"LIMNER_DISABLE_ASYNC_OFFLOAD": "1"})


def test_memory_reads_settings_with_the_defaults_of_the_flags() -> None:
    own, flags = DefaultSettings(), Settings()
    assert {one.name: getattr(own, one.name) for one in fields(own)} == {
        one.name: getattr(flags, one.name) for one in fields(own)
    }


def test_help_shows_a_percent_sign_as_one() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    text = parser.format_help()
    assert "80%;" in text
    assert "--max-vram SIZE" in text


def environment_of(*flags: str, **before: str) -> dict[str, str]:
    prepare_environment(parsed(*flags), before)
    return before


def test_one_gpu_is_chosen_for_every_kind() -> None:
    chosen = environment_of("--cuda-device", "1")
    names = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
    assert [chosen[name] for name in names] == ["1"] * 4
    assert not set(environment_of()) & set(names)


def test_cudas_allocator_is_chosen_beside_what_else_is_said_of_it() -> None:
    name = "PYTORCH_CUDA_ALLOC_CONF"
    assert name not in environment_of()
    assert environment_of("--cuda-malloc")[name] == "backend:cudaMallocAsync"
    before = {name: "max_split_size_mb:64,backend:cudaMallocAsync"}
    assert environment_of("--disable-cuda-malloc", **before)[name] == "max_split_size_mb:64,backend:native"
