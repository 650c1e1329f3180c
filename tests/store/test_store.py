from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from limner.errors import LimnerError
from limner.settings import Settings
from limner.store import Store
from tests.store.make import Options, record


def test_every_folder_lies_below_the_base_unless_it_is_named(tmp_path):
    options = Options(
        base_directory=str(tmp_path), temp_directory=str(tmp_path / "t"), output_directory=str(tmp_path / "o")
    )
    store = Store.open(options)
    store.close()
    assert {kind: store.files.root(kind) for kind in ("input", "output", "temp", "user")} == {
        "input": tmp_path / "input",
        "output": tmp_path / "o",
        "temp": tmp_path / "t/temp",
        "user": tmp_path / "user",
    }
    assert (tmp_path / "user/limner.db").is_file()
    assert store.folders.roots("loras")[-1] == tmp_path / "o/loras"


def test_the_programs_settings_open_a_store(tmp_path):
    Store.open(replace(Settings(), base_directory=str(tmp_path))).close()


def test_temp_is_emptied_at_start_and_at_exit(tmp_path):
    left = tmp_path / "temp/left.png"
    left.parent.mkdir()
    left.touch()
    store = Store.open(Options(str(tmp_path)))
    assert not left.exists()
    left.touch()
    store.close()
    assert not left.exists()


def test_a_command_beside_a_running_server_disturbs_nothing(tmp_path):
    server = Store.open(Options(str(tmp_path)))
    kept = tmp_path / "temp/kept.png"
    kept.parent.mkdir(exist_ok=True)
    kept.touch()
    command = Store.open(Options(str(tmp_path)), owned=False)
    command.jobs.add(record("a")).wait()
    command.close()
    assert kept.exists()
    assert server.jobs.load_unfinished() == []
    with pytest.raises(LimnerError, match="another process"):
        Store.open(Options(str(tmp_path)))
    assert kept.exists()
    server.close()


def test_node_pack_folders_can_be_named(tmp_path):
    options = Options(str(tmp_path), custom_nodes_directory=f"{tmp_path}/a:{tmp_path}/b")
    store = Store.open(options, owned=False)
    assert store.folders.roots("custom_nodes") == [tmp_path / "a", tmp_path / "b"]


def test_opening_a_store_imports_neither_torch_nor_alembic_nor_pictures(tmp_path):
    script = (
        "import sys; from limner.store import Store; from tests.store.make import Options\n"
        "Store.open(Options(sys.argv[1])).close()\n"
        "print(sorted({'torch', 'alembic', 'PIL', 'numpy', 'yaml', 'sqlalchemy.orm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
