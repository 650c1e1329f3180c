"""Settings: one field, three doors; what excludes what; errors that name the door."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from limner.errors import BadInput
from limner.settings import Settings, add_flags, make_settings


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
