from __future__ import annotations

import os

import pytest

from limner.errors import BadInput, Forbidden, NotFound
from limner.store.folders import REGISTRY, ModelFolders
from limner.store.model_paths import read_model_paths


def put(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def opened(base, *configs):
    return ModelFolders.open(base, base / "output", configs)


def test_folders_are_named_in_the_public_order(tmp_path):
    assert opened(tmp_path).names() == [
        *[
            "checkpoints",
            "configs",
            "loras",
            "vae",
            "text_encoders",
            "diffusion_models",
            "clip_vision",
            "style_models",
            "embeddings",
        ],
        *[
            "diffusers",
            "vae_approx",
            "controlnet",
            "gligen",
            "upscale_models",
            "custom_nodes",
            "hypernetworks",
            "photomaker",
        ],
        *["classifiers", "model_patches", "audio_encoders"],
    ]


def test_the_starter_checkpoint_of_the_package_is_listed_last_among_roots(tmp_path):
    folders = opened(tmp_path)
    roots = folders.roots("checkpoints")
    assert roots[:2] == [tmp_path / "models/checkpoints", tmp_path / "output/checkpoints"]
    assert roots[-1].parts[-2:] == ("limner", "assets")
    put(tmp_path / "models/checkpoints/limner-starter.safetensors", "mine")
    assert folders.path("checkpoints", "limner-starter.safetensors").read_text() == "mine"


def test_text_encoders_and_diffusion_models_have_their_older_folders_too(tmp_path):
    folders, models = opened(tmp_path), tmp_path / "models"
    out = tmp_path / "output"
    assert folders.roots("text_encoders") == [models / "text_encoders", models / "clip", out / "clip"]
    assert folders.roots("unet") == [models / "unet", models / "diffusion_models", out / "diffusion_models"]
    assert folders.roots("clip") == folders.roots("text_encoders")


def test_listing_is_recursive_sorted_and_without_doubles(tmp_path):
    loras = tmp_path / "models/loras"
    for name in ("b.safetensors", "a.PT", "sub/deep/c.ckpt", ".git/d.ckpt", "notes.txt", "put_loras_here"):
        put(loras / name)
    put(tmp_path / "output/loras/b.safetensors")
    assert opened(tmp_path).list("loras") == ["a.PT", "b.safetensors", "sub/deep/c.ckpt"]


def test_an_empty_extension_set_means_every_file_and_an_empty_extension_files_without(tmp_path):
    put(tmp_path / "custom_nodes/pack/x.py")
    put(tmp_path / "models/classifiers/plain")
    put(tmp_path / "models/classifiers/other.bin")
    assert opened(tmp_path).list("custom_nodes") == ["pack/x.py"]
    assert opened(tmp_path).list("classifiers") == ["plain"]


def test_links_are_followed_but_not_round_in_circles(tmp_path):
    store, loras = tmp_path / "disk", tmp_path / "models/loras"
    put(store / "far.safetensors")
    put(loras / "near.safetensors")
    (loras / "disk").symlink_to(store)
    (loras / "again").symlink_to(store)
    (loras / "loop").symlink_to(loras)
    (loras / "one.safetensors").symlink_to(store / "far.safetensors")
    (loras / "gone.safetensors").symlink_to(store / "nothing")
    folders = opened(tmp_path)
    assert folders.list("loras") == [
        "again/far.safetensors",
        "disk/far.safetensors",
        "gone.safetensors",
        "near.safetensors",
        "one.safetensors",
    ]
    assert folders.path("loras", "disk/far.safetensors").is_file()
    with pytest.raises(NotFound):
        folders.path("loras", "gone.safetensors")


@pytest.mark.parametrize("old", [True, False])
def test_a_listing_is_kept_until_a_folder_changes(tmp_path, monkeypatch, old):
    loras = put(tmp_path / "models/loras/sub/a.pt").parent.parent
    folders = opened(tmp_path)
    if old:
        for folder in (loras, loras / "sub"):
            os.utime(folder, (1, 1))
    folders.list("loras")
    walks = []
    from limner.store import folders as module

    monkeypatch.setattr(module, "_walk", lambda *a, walk=module._walk: (walks.append(1), walk(*a))[1])
    folders.list("loras")
    assert bool(walks) is not old, "a folder that changed a moment ago is listed again, an old one is not"
    put(loras / "sub/b.pt")
    assert folders.list("loras") == ["sub/a.pt", "sub/b.pt"]


def test_a_root_that_appears_later_is_seen(tmp_path):
    folders = opened(tmp_path)
    assert folders.list("vae") == []
    put(tmp_path / "models/vae/a.pt")
    assert folders.list("vae") == ["a.pt"]


def test_a_missing_model_names_the_nearest_ones_and_where_it_looked(tmp_path):
    for name in ("sd15/dreamy_v8.safetensors", "other.ckpt"):
        put(tmp_path / "models/loras" / name)
    with pytest.raises(NotFound) as moved:
        opened(tmp_path).path("loras", "dreamy_v8.safetensors")
    with pytest.raises(NotFound) as misspelt:
        opened(tmp_path).path("loras", "sd15/dreamy_v7.safetensors")
    for caught in (moved, misspelt):
        assert "sd15/dreamy_v8.safetensors" in caught.value.do
        assert str(tmp_path / "models/loras") in caught.value.why


def test_an_unknown_folder_names_the_nearest(tmp_path):
    with pytest.raises(NotFound, match="loras"):
        opened(tmp_path).list("lora")


@pytest.mark.parametrize("name", ["../secret.pt", "/etc/passwd", "a\\b", "a\0"])
def test_a_model_name_cannot_lead_out(tmp_path, name):
    put(tmp_path / "models/secret.pt")
    with pytest.raises(Forbidden):
        opened(tmp_path).path("loras", name)


def test_infos_pass_over_hidden_files(tmp_path):
    put(tmp_path / "models/vae/a.pt", "12345")
    put(tmp_path / "models/vae/.hidden.pt")
    (info,) = opened(tmp_path).infos("vae")
    assert (info["name"], info["pathIndex"], info["size"]) == ("a.pt", 0, 5)
    assert isinstance(info["modified"], float)


def test_every_root_of_the_registry_is_listed_by_its_extensions(tmp_path):
    for _, names, extensions in REGISTRY:
        for name in names:
            put(tmp_path / "models" / name / f"x-{name}{min(extensions)}")
    folders = opened(tmp_path)
    listed = {key: [name for name in folders.list(key) if name.startswith("x-")] for key, names, _ in REGISTRY if names}
    assert {key: len(names) for key, names, _ in REGISTRY if names and key != "diffusers"} == {
        key: len(found) for key, found in listed.items() if key != "diffusers"
    }


# extra_model_paths.yaml


def extra(tmp_path, text):
    return read_model_paths(put(tmp_path / "conf/paths.yaml", text))


def test_paths_start_from_base_path_or_the_files_own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MODELS", "/disk")
    monkeypatch.setenv("HOME", "/home/me")
    text = """
a: {base_path: /big/, loras: lora}
b: {loras: near/lora, vae: ../up}
c: {base_path: ~/ai, vae: v}
d: {base_path: $MODELS/x, vae: v, loras: /absolute/l}
e: {base_path: rel, vae: v}
nothing:
"""
    found = [(item.key, str(item.path)) for item in extra(tmp_path, text)]
    conf = tmp_path / "conf"
    assert found == [
        ("loras", "/big/lora"),
        ("loras", str(conf / "near/lora")),
        ("vae", str(tmp_path / "up")),
        ("vae", "/home/me/ai/v"),
        ("vae", "/disk/x/v"),
        ("loras", "/absolute/l"),
        ("vae", str(conf / "rel/v")),
    ]


def test_several_paths_go_one_a_line(tmp_path):
    text = "a:\n  base_path: /m\n  loras: |\n    one\n\n    two\n"
    assert [str(item.path) for item in extra(tmp_path, text)] == ["/m/one", "/m/two"]


def test_default_sections_come_first_and_move_what_is_known(tmp_path):
    config = put(
        tmp_path / "paths.yaml",
        f"a:\n  is_default: true\n  loras: {tmp_path}/x\n  vae: {tmp_path}/models/vae\n  new: n\n",
    )
    folders = opened(tmp_path, config)
    assert folders.roots("loras")[0] == tmp_path / "x"
    assert folders.roots("vae") == [tmp_path / "models/vae", tmp_path / "output/vae"]
    assert folders.names()[-1] == "new"
    assert folders.extensions("new") == frozenset()


def test_the_base_folders_own_file_is_read_and_output_folders_stay_behind_it(tmp_path):
    put(tmp_path / "extra_model_paths.yaml", "a: {unet: far}")
    roots = opened(tmp_path).roots("diffusion_models")
    assert roots[-2:] == [tmp_path / "far", tmp_path / "output/diffusion_models"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", "not valid YAML"),
        ("- a", "named sections, not a list"),
        ("a: text", "a: a section must map"),
        ("a: {loras: [x, y]}", "a.loras"),
        ("a: {loras: 3}", "a.loras"),
        ("a: {base_path: 3, loras: x}", "a.base_path"),
        ("a: {is_default: often, loras: x}", "a.is_default"),
        ("a: {3: x}", "folder name 3"),
        ("a: !!python/object:os.system {}", "not valid YAML"),
    ],
)
def test_a_faulty_path_file_is_refused_by_name_and_key(tmp_path, text, said):
    with pytest.raises(BadInput) as caught:
        extra(tmp_path, text)
    assert said in str(caught.value)
    assert "paths.yaml" in str(caught.value)


def test_a_path_file_that_is_missing_or_empty_is_told_apart(tmp_path):
    assert extra(tmp_path, "# nothing\n") == []
    with pytest.raises(BadInput, match="cannot be read"):
        read_model_paths(tmp_path / "absent.yaml")
