from __future__ import annotations

import hashlib
import os
import re
import threading
from time import perf_counter

import pytest

from limner.errors import BadInput, Forbidden, NotFound
from limner.store.atomic import write_atomic, write_new
from limner.store.files import IMAGES, Files, split_annotation


def files(tmp_path, **more):
    return Files({kind: tmp_path / kind for kind in ("input", "output", "temp", "user")}, **more)


def put(path, data=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.png", ("a.png", None)),
        ("a.png [output]", ("a.png", "output")),
        ("a.png[temp]", ("a.png", "temp")),
        ("sub/a b.png [input]", ("sub/a b.png", "input")),
        ("a [user]", ("a [user]", None)),
        ("a [output].png", ("a [output].png", None)),
        ("a [input] [output]", ("a [input]", "output")),
    ],
)
def test_annotated_names_say_their_folder(name, expected):
    assert split_annotation(name) == expected


def test_an_annotated_name_becomes_a_path_of_its_folder(tmp_path):
    store = files(tmp_path)
    assert store.annotated("sub/a.png [output]") == tmp_path / "output/sub/a.png"
    assert store.annotated("a.png") == tmp_path / "input/a.png"
    assert store.annotated("a.png", default="temp") == tmp_path / "temp/a.png"
    with pytest.raises(Forbidden):
        store.annotated("../a.png [output]")
    with pytest.raises(NotFound):
        store.existing("a.png")


def test_listings_are_sorted_flat_and_by_extension(tmp_path):
    for name in ("b.PNG", "a.webp", "notes.txt", "sub/c.png", ".hidden.png"):
        put(tmp_path / "input" / name)
    assert files(tmp_path).list("input", IMAGES) == ["a.webp", "b.PNG"]
    assert files(tmp_path).list("input") == ["a.webp", "b.PNG", "notes.txt"]
    assert files(tmp_path).list("output") == []


def test_the_newest_files_come_first(tmp_path):
    for i, name in enumerate("abc"):
        os.utime(put(tmp_path / "output" / name), (i, i))
    assert files(tmp_path).newest("output") == ["c", "b", "a"]


def test_an_unknown_folder_kind_is_refused(tmp_path):
    with pytest.raises(BadInput, match="input, output, temp, user"):
        files(tmp_path).root("etc")


# Names of results


def test_the_first_result_of_a_new_folder_has_number_one(tmp_path):
    target = files(tmp_path).next_name("output", "ComfyUI")
    assert (target.name(), target.name(1), target.subfolder) == ("ComfyUI_00001_.png", "ComfyUI_00002_.png", "")
    assert target.path() == tmp_path / "output/ComfyUI_00001_.png"
    assert target.folder.is_dir()


@pytest.mark.parametrize(
    ("present", "counter"),
    [
        (["fox_00001_.png", "fox_00007_.png"], 8),
        (["fox_00001_.webp"], 2),
        (["fox_123456_.png"], 123457),
        (["fox_abc_.png", "fox_.png", "fox.png", "foxes_00009_.png", "Fox_00009_.png"], 1),
        (["fox_red_00004_.png"], 1),
        (["fox_00003_extra_00009_.png"], 4),
        (["fox_" + "9" * 40 + "_.png"], 1),
    ],
)
def test_the_counter_is_one_above_the_highest_of_the_prefix(tmp_path, present, counter):
    for name in present:
        put(tmp_path / "output" / name)
    assert files(tmp_path).next_name("output", "fox").counter == counter


def test_a_prefix_may_name_folders_and_tokens(tmp_path):
    target = files(tmp_path).next_name(
        "output", "day-%year%-%month%/%width%x%height%_%hour%%what%", width=64, height=32
    )
    assert re.fullmatch(r"day-\d{4}-\d\d", target.subfolder)
    assert re.fullmatch(r"64x32_\d\d%what%", target.stem)


def test_the_batch_number_is_filled_in_for_each_image(tmp_path):
    target = files(tmp_path).next_name("output", "fox_%batch_num%", "latent")
    assert [target.name(i) for i in range(2)] == ["fox_0_00001_.latent", "fox_1_00002_.latent"]


def test_backslashes_of_a_windows_workflow_are_folders(tmp_path):
    assert files(tmp_path).next_name("output", "a\\b").subfolder == "a"


@pytest.mark.parametrize("prefix", ["../x", "/tmp/x", "a/../../x", "C:/x", "x" * 250, "a\0"])
def test_a_prefix_cannot_lead_out(tmp_path, prefix):
    with pytest.raises(Forbidden):
        files(tmp_path).next_name("output", prefix)


def test_a_name_among_ten_thousand_files_is_found_in_milliseconds(tmp_path):
    folder = tmp_path / "output"
    folder.mkdir()
    for i in range(1, 10_001):
        os.close(os.open(folder / f"ComfyUI_{i:05}_.png", os.O_CREAT | os.O_WRONLY))
    store = files(tmp_path)
    before = perf_counter()
    assert store.next_name("output", "ComfyUI").counter == 10_001
    assert perf_counter() - before < 0.25


# Uploads


def test_an_upload_is_kept_under_its_name(tmp_path):
    assert files(tmp_path).save_upload("input", "sub/deep", "a.png", b"1") == "a.png"
    assert (tmp_path / "input/sub/deep/a.png").read_bytes() == b"1"
    assert [path.name for path in (tmp_path / "input/sub/deep").iterdir()] == ["a.png"]


@pytest.mark.parametrize("hashing", ["md5", "sha1", "sha256", "sha512"])
def test_the_same_file_twice_is_kept_once_and_another_gets_a_number(tmp_path, hashing):
    store = files(tmp_path, hashing=hashing)
    names = [store.save_upload("input", "", "a.png", data) for data in (b"1", b"1", b"2", b"2", b"3", b"1")]
    assert names == ["a.png", "a.png", "a (1).png", "a (1).png", "a (2).png", "a.png"]
    assert store.list("input") == ["a (1).png", "a (2).png", "a.png"]


def test_an_upload_may_overwrite(tmp_path):
    store = files(tmp_path)
    store.save_upload("input", "", "a.png", b"1")
    assert store.save_upload("input", "", "a.png", b"2", overwrite=True) == "a.png"
    assert (tmp_path / "input/a.png").read_bytes() == b"2"


@pytest.mark.parametrize(
    ("kind", "subfolder", "name", "error"),
    [
        ("input", "../x", "a.png", Forbidden),
        ("input", "/etc", "a.png", Forbidden),
        ("input", "", "..", Forbidden),
        ("input", "", "sub/a.png", BadInput),
        ("input", "", "", BadInput),
        ("input", "", ".", BadInput),
        ("user", "", "a.png", BadInput),
        ("etc", "", "a.png", BadInput),
    ],
)
def test_uploads_cannot_lead_out(tmp_path, kind, subfolder, name, error):
    with pytest.raises(error):
        files(tmp_path).save_upload(kind, subfolder, name, b"x")
    assert list(tmp_path.iterdir()) == []


def test_uploads_of_one_name_at_once_all_survive(tmp_path):
    store = files(tmp_path)
    names = []
    threads = [
        threading.Thread(target=lambda i=i: names.append(store.save_upload("input", "", "a.png", bytes([i]))))
        for i in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names)) == 16
    assert {(tmp_path / "input" / name).read_bytes() for name in names} == {bytes([i]) for i in range(16)}


def test_a_digest_follows_the_content(tmp_path):
    store, path = files(tmp_path), put(tmp_path / "input/a", b"1")
    assert store.digest(path) == hashlib.sha256(b"1").hexdigest()
    put(path, b"22")
    assert store.digest(path) == hashlib.sha256(b"22").hexdigest()
    with pytest.raises(NotFound):
        store.digest(tmp_path / "absent")


def test_emptying_temp_removes_links_but_not_what_they_lead_to(tmp_path):
    kept = put(tmp_path / "precious/a")
    put(tmp_path / "temp/sub/b")
    (tmp_path / "temp/link").symlink_to(kept.parent)
    (tmp_path / "temp/file").symlink_to(kept)
    files(tmp_path).wipe_temp()
    assert list((tmp_path / "temp").iterdir()) == []
    assert kept.exists()


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = put(tmp_path / "a", b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new", sync=True)
    with pytest.raises(FileExistsError):
        write_new(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
