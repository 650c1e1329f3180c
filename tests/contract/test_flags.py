"""Every flag of ComfyUI is taken, with its default, its bare value, its choices and its exclusions; each has an effect
or says why it has none."""

from __future__ import annotations

import argparse
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest

import limner
from limner.settings import Settings, add_flags, make_settings

FAST = ("fp16_accumulation", "fp8_matrix_mult", "cublas_ops", "autotune")

VALUES = (
    # flag, default, words on the command line → value
    ("listen", "127.0.0.1", {"": "0.0.0.0,::", "a,b": "a,b"}),
    ("port", 8188, {"1": 1}),
    ("tls-keyfile", None, {"k": "k"}),
    ("tls-certfile", None, {"c": "c"}),
    ("enable-cors-header", None, {"": "*", "https://x": "https://x"}),
    ("max-upload-size", 100, {"0.5": 0.5}),
    ("base-directory", None, {"b": "b"}),
    ("extra-model-paths-config", (), {"a b": ("a", "b")}),
    ("output-directory", None, {"o": "o"}),
    ("temp-directory", None, {"t": "t"}),
    ("input-directory", None, {"i": "i"}),
    ("user-directory", None, {"u": "u"}),
    ("custom-nodes-directory", None, {"n": "n"}),
    ("cuda-device", None, {"1": 1}),
    ("default-device", None, {"1": 1}),
    ("directml", None, {"": -1, "2": 2}),
    ("oneapi-device-selector", None, {"x": "x"}),
    ("preview-method", "none", {"auto": "auto", "latent2rgb": "latent2rgb", "taesd": "taesd", "none": "none"}),
    ("preview-size", 512, {"64": 64}),
    ("cache-lru", 0, {"5": 5}),
    ("cache-ram", 0.0, {"": 4.0, "2.5": 2.5}),
    ("reserve-vram", None, {"1.5": 1.5}),
    ("async-offload", None, {"": 2, "3": 3}),
    ("default-hashing-function", "sha256", {"md5": "md5", "sha1": "sha1", "sha512": "sha512"}),
    ("fast", (), {"": FAST, "cublas_ops": ("cublas_ops",), "pinned_memory": ()}),
    ("whitelist-custom-nodes", (), {"a b": ("a", "b")}),
    ("verbose", "INFO", {"": "DEBUG", "ERROR": "ERROR"}),
    ("front-end-version", "comfyanonymous/ComfyUI@latest", {"a/b@1": "a/b@1"}),
    ("front-end-root", None, {"r": "r"}),
    ("comfy-api-base", "https://api.comfy.org", {"x": "x"}),
    ("database-url", None, {"sqlite://": "sqlite://"}),
)
SWITCHES = (
    *("auto-launch", "disable-auto-launch", "cuda-malloc", "disable-cuda-malloc", "force-fp32", "force-fp16"),
    *("fp32-unet", "fp64-unet", "bf16-unet", "fp16-unet", "fp8_e4m3fn-unet", "fp8_e5m2-unet", "fp8_e8m0fnu-unet"),
    *("fp16-vae", "fp32-vae", "bf16-vae", "cpu-vae", "fp8_e4m3fn-text-enc", "fp8_e5m2-text-enc", "fp16-text-enc"),
    *("fp32-text-enc", "bf16-text-enc", "force-channels-last", "disable-ipex-optimize", "supports-fp8-compute"),
    *("cache-classic", "cache-none", "use-split-cross-attention", "use-quad-cross-attention"),
    *("use-pytorch-cross-attention", "use-sage-attention", "use-flash-attention", "disable-xformers"),
    *("force-upcast-attention", "dont-upcast-attention", "gpu-only", "highvram", "normalvram", "lowvram", "novram"),
    *("cpu", "disable-pinned-memory", "force-non-blocking", "disable-smart-memory"),
    *("deterministic", "mmap-torch-files", "disable-mmap", "dont-print-server", "quick-test-for-ci"),
    *("windows-standalone-build", "disable-metadata", "disable-all-custom-nodes", "disable-api-nodes", "multi-user"),
    *("log-stdout", "enable-compress-response-body"),
)
GROUPS = (
    ("cuda-malloc", "disable-cuda-malloc"),
    ("force-fp32", "force-fp16"),
    ("fp32-unet", "fp64-unet", "bf16-unet", "fp16-unet", "fp8_e4m3fn-unet", "fp8_e5m2-unet", "fp8_e8m0fnu-unet"),
    ("fp16-vae", "fp32-vae", "bf16-vae"),
    ("fp8_e4m3fn-text-enc", "fp8_e5m2-text-enc", "fp16-text-enc", "fp32-text-enc", "bf16-text-enc"),
    ("cache-classic", "cache-lru 1", "cache-none", "cache-ram"),
    (
        *("use-split-cross-attention", "use-quad-cross-attention", "use-pytorch-cross-attention"),
        *("use-sage-attention", "use-flash-attention"),
    ),
    ("force-upcast-attention", "dont-upcast-attention"),
    ("gpu-only", "highvram", "normalvram", "lowvram", "novram", "cpu"),
)


def parsed(*words: str) -> Settings:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return make_settings(vars(parser.parse_args(words)))


def field(flag: str) -> str:
    return flag.replace("-", "_")


def test_all_87_flags_are_here() -> None:
    assert len(VALUES) + len(SWITCHES) == 87


@pytest.mark.parametrize(("flag", "default", "given"), VALUES, ids=[row[0] for row in VALUES])
def test_a_flag_with_a_value_has_its_default_and_takes_its_values(
    flag: str, default: object, given: dict[str, object]
) -> None:
    assert getattr(Settings(), field(flag)) == default
    for words, value in given.items():
        assert getattr(parsed(f"--{flag}", *words.split()), field(flag)) == value


@pytest.mark.parametrize("flag", SWITCHES)
def test_a_switch_is_off_until_it_is_given(flag: str) -> None:
    assert getattr(Settings(), field(flag)) is False
    chosen = parsed(f"--{flag}")
    assert getattr(chosen, field(flag)) is True


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group[0])
def test_flags_of_a_group_exclude_each_other_with_exit_2(
    group: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    for one, other in pairwise(group):
        with pytest.raises(SystemExit) as caught:
            parsed(*f"--{one} --{other}".split())
        assert caught.value.code == 2
    capsys.readouterr()


@pytest.mark.parametrize(
    "words",
    [
        "--preview-method x",
        "--default-hashing-function x",
        "--fast x",
        "--verbose x",
        "--port x",
        "--cache-lru x",
        "--odd",
    ],
)
def test_a_value_that_is_no_choice_ends_with_exit_2(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parsed(*words.split())
    assert caught.value.code == 2
    capsys.readouterr()


def test_what_follows_from_other_flags() -> None:
    assert parsed("--windows-standalone-build").auto_launch
    assert not parsed("--windows-standalone-build", "--disable-auto-launch").auto_launch
    assert parsed("--force-fp16").fp16_unet


def test_every_flag_is_read_somewhere_or_says_why_it_changes_nothing() -> None:
    source = Path(limner.__file__).parent
    text = "\n".join(file.read_text(encoding="utf-8") for file in source.rglob("*.py") if file.name != "settings.py")
    known = {"cache_classic", "normalvram", "disable_auto_launch", "windows_standalone_build"}
    """The defaults themselves, and two that only change `auto_launch`."""
    idle = {one.name for one in fields(Settings) if one.metadata["idle"]}
    unread = {one.name for one in fields(Settings) if one.name not in text}

    assert unread - idle - known == set()


def test_a_flag_that_changes_nothing_says_so() -> None:
    assert Settings().idle() == {}
    assert list(parsed("--use-sage-attention", "--cpu").idle()) == ["use_sage_attention"]
    parser = argparse.ArgumentParser()
    add_flags(parser)
    assert "Changes nothing" in parser.format_help()
