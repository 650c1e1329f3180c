"""The command line: each command is asked as a person would ask it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from limner.cli import COMMANDS, main
from limner.cli.generate import parse_size
from limner.cli.run import apply_change
from limner.errors import BadInput

PROMPT = {
    "1": {"class_type": "StringTrim", "inputs": {"string": "  a fox ", "mode": "Both"}, "_meta": {"title": "Words"}},
    "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
}


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(arguments)
    out, err = capsys.readouterr()
    return status, out, err


def prompt_file(folder: Path, prompt: Any = PROMPT) -> str:
    path = folder / "workflow.json"
    path.write_text(json.dumps(prompt))
    return str(path)


def test_the_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = asked(capsys, "--help")
    assert status == 0
    assert all(f"  {name} " in out for name in COMMANDS)


def test_an_unknown_command_is_refused_with_the_overview(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = asked(capsys, "paint")
    assert status == 2
    assert "paint" in err
    assert "generate" in err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) > 5


def test_run_prints_what_the_workflow_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = asked(capsys, "run", prompt_file(tmp_path), "--base-directory", str(tmp_path))
    assert (status, out) == (0, "a fox\n")


def test_run_sets_inputs_by_id_and_by_title(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = ("--set", "Words.string= owl ", "--set", "1.mode=Left")
    _, out, _ = asked(capsys, "run", prompt_file(tmp_path), "--base-directory", str(tmp_path), *changes)
    assert out == "owl \n"


def test_run_says_which_node_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--base-directory", str(tmp_path), "--set", "1.mode=Middle")
    status, _, err = asked(capsys, "run", prompt_file(tmp_path), *flags)
    assert status == 1
    assert "node 1 (StringTrim)" in err
    assert "Middle" in err


def test_run_leaves_no_database_behind(tmp_path: Path) -> None:
    main(["run", prompt_file(tmp_path), "--base-directory", str(tmp_path)])
    assert not list(tmp_path.rglob("*.db"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("not json", "cannot be read"),
        ("[1]", "neither a workflow nor a prompt"),
        ('{"a": 1}', "neither a workflow nor a prompt"),
    ],
)
def test_run_refuses_what_is_no_workflow(
    text: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    status, _, err = asked(capsys, "run", str(file), "--base-directory", str(tmp_path))
    assert status == 1
    assert says in err


@pytest.mark.parametrize("change", ["seed", "seed=3", "9.seed=3", ".seed=1"])
def test_a_change_that_fits_no_node_is_refused(change: str) -> None:
    with pytest.raises(BadInput):
        apply_change({"3": {"class_type": "KSampler", "inputs": {}}}, change)


def test_a_change_is_json_or_else_text() -> None:
    prompt: dict[str, Any] = {"3": {"class_type": "KSampler", "inputs": {}}}
    for change in ("3.seed=7", "KSampler.cfg=2.5", "3.text=a fox", '3.name="7"'):
        apply_change(prompt, change)
    assert prompt["3"]["inputs"] == {"seed": 7, "cfg": 2.5, "text": "a fox", "name": "7"}


def test_sizes_are_width_by_height() -> None:
    assert parse_size("512x768") == {"width": 512, "height": 768}
    assert parse_size("256") == {"width": 256, "height": 256}
    assert parse_size("") == {}
    with pytest.raises(BadInput):
        parse_size("big")


def test_inspect_says_what_a_file_is_and_strips_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = json.dumps({"lora_te_x.alpha": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}).encode()
    file = tmp_path / "x.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0\0\0")
    status, out, _ = asked(capsys, "inspect", str(file))
    assert status == 0
    assert "x.safetensors" in out
    status, out, _ = asked(capsys, "inspect", str(file), "--strip")
    assert "lora_te_x.alpha" in json.dumps(json.loads(out))


def test_a_missing_file_is_one_line_not_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = asked(capsys, "inspect", str(tmp_path / "none.safetensors"))
    assert status == 1
    assert err.startswith("limner: ")
    assert "Traceback" not in err


def test_models_lists_what_lies_in_the_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "models" / "loras").mkdir(parents=True)
    (tmp_path / "models" / "loras" / "fox.safetensors").write_bytes(b"")
    _, out, _ = asked(capsys, "models", "--base-directory", str(tmp_path), "--folder", "loras")
    assert out.splitlines() == ["loras: 1", "  fox.safetensors"]


def test_doctor_finds_nothing_wrong_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = asked(capsys, "doctor", "--base-directory", str(tmp_path))
    assert status == 0
    assert "WRONG" not in out


def test_the_words_of_a_picture_need_no_flag() -> None:
    from limner.cli import bind, command, make_parser

    parser = make_parser("generate", command("generate"))
    positional, named = bind(command("generate"), vars(parser.parse_args(["a red apple", "--seed", "4"])))
    assert (positional, named["seed"]) == (["a red apple"], 4)
    positional, _ = bind(command("generate"), vars(parser.parse_args([])))
    assert positional == [""]
