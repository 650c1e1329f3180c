"""What a bug report holds, and what it never holds."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from limner.cli import main
from limner.cli.redact import redact, redact_text
from limner.server.logs import LOG_FILES, LogFile

KEY = "limner_abcdefghijklmnopqrstuvwxyz0123456789"


def made(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["report", *words]) == 0
    return capsys.readouterr().out


def test_a_report_holds_what_a_bug_needs_and_no_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # rule seed-S30
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "limner.log").write_text(f"GET /?api_key={KEY}\nTraceback: the fault of node 7\n")
    pack = tmp_path / "custom_nodes" / "some-pack"
    pack.mkdir(parents=True)
    (pack / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "1.2.3"\n')
    workflow = tmp_path / "w.json"
    workflow.write_text(json.dumps({"prompt": {"7": {"class_type": "X", "inputs": {"seed": 5, "api_key": "hunter2"}}}}))

    text = made(
        capsys,
        *(str(workflow), "--output", "-", "--base-directory", str(tmp_path)),
        *("--api-key", "hunter2", "--database-url", "postgresql://me:hunter2@db/x"),
    )

    for wanted in (
        "limner ",
        "Python 3",
        "torch ",
        "computes on",
        "the fault of node 7",
        '"seed": 5',
        "some-pack  1.2.3",
    ):
        assert wanted in text
    for secret in (KEY, "hunter2", str(tmp_path)):
        assert secret not in text


def test_a_report_is_a_zip_or_a_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("r.zip", "r.txt"):
        made(capsys, "--output", str(tmp_path / name), "--base-directory", str(tmp_path), "--cpu")

    with zipfile.ZipFile(tmp_path / "r.zip") as archive:
        assert {"versions.txt", "devices.txt", "settings.json", "packs.txt", "log.txt"} == set(archive.namelist())
        assert json.loads(archive.read("settings.json")) == {"base_directory": str(tmp_path), "cpu": True}
    assert "==== log.txt ====" in (tmp_path / "r.txt").read_text()


def test_a_workflow_that_is_no_json_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "w").write_text("{")

    assert main(["report", str(tmp_path / "w"), "--base-directory", str(tmp_path)]) == 1
    assert "cannot be read as JSON" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "hf_abcdefghijklmnopqrstuv5wxyz",
        "Authorization: Bearer abcdefgh12345678",
        "https://civitai.com/api/download/1?token=abcdef123456&x=1",
        "https://me:abcdef123456@host/x",
        '"password": "abcdef123456"',
        "API_KEY=abcdef123456",
        "--api-key abcdef123456",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcdef123456",
        "sk-abcdef1234567890abcdef",
        "AKIAABCDEFGHIJKLMNOP",
    ],
)
def test_secrets_in_texts_are_starred_out(text: str) -> None:
    shown = redact_text(text)

    assert "***" in shown
    for secret in ("abcdef", "abcdefgh", "AKIAABC", "eyJ"):
        assert secret not in shown


def test_texts_without_secrets_stay_as_they_are() -> None:
    text = "comfyui-frontend-package 1.58.1, /view?filename=limner_00001_.png, limner-report-20260101-000000.zip, "
    text += "max_tokens=256, tokenizer: clip_l, 3.5 s/it, D:/models/a.safetensors, seed 5"

    assert redact_text(text) == text


def test_widgets_of_a_node_that_takes_a_key_are_starred_out_and_others_stay() -> None:
    workflow = {
        "nodes": [
            {"type": "Loader", "inputs": [{"name": "api_key"}], "widgets_values": ["s3cret", 5]},
            {"type": "CLIPTextEncode", "inputs": [{"name": "text"}], "widgets_values": ["a fox", True]},
        ],
        "extra_data": {"auth_token_comfy_org": "s3cret", "nested": {"Password": ["s3cret"]}},
    }
    shown = redact(workflow)

    assert "s3cret" not in json.dumps(shown)
    assert shown["nodes"][1] == workflow["nodes"][1]
    assert shown["nodes"][0]["widgets_values"] == ["***", 5]


@pytest.mark.parametrize("path", ["/home/anna/x", "/Users/anna/x", "C:\\Users\\anna\\x", "C:\\\\Users\\\\anna\\\\x"])
def test_names_of_home_folders_are_left_out(path: str) -> None:
    assert "anna" not in redact_text(path)


def test_the_log_of_the_server_before_is_kept(tmp_path: Path) -> None:
    for word in ("first", "second", "third"):
        file = LogFile(tmp_path)
        file.write({"t": "now", "m": f"{word}\n"})
        file.close()

    assert [(tmp_path / name).read_text() for name in LOG_FILES] == ["now third\n", "now second\n"]


def test_a_log_that_grows_too_long_starts_anew(tmp_path: Path) -> None:
    file = LogFile(tmp_path, limit=50)
    for number in range(20):
        file.write({"t": "now", "m": f"line {number:02}\n"})
    file.close()

    newest = (tmp_path / LOG_FILES[0]).read_text()
    assert newest.endswith("line 19\n")
    assert len(newest) < 100
