"""No name that a prompt gives leads a node to a file outside of the folders that prompts may reach."""

from types import SimpleNamespace

import pytest
import torch

from limner.engine.files import StoreFiles
from limner.engine.registry import NodeRegistry
from limner.errors import BadInput
from limner.nodes import audio_files, image_animated, image_files, latent_files, load_3d, video
from tests.nodes.make import run_in

REGISTRY = NodeRegistry.open()
FILE_PORTS = [
    (kind, port.name)
    for kind in REGISTRY.kinds()
    for port in REGISTRY.get(kind).inputs
    if port.file_in is not None or port.folder is not None
]
NAMES = (
    "../secret.png",
    "../secret.png [output]",
    "sub/../../secret.png",
    "..\\secret.png",
    "%2e%2e/secret.png",
    "link.png",
    "linked/secret.png",
    "C:secret.png",
    "secret.png\0.png",
    "secret.png [user]",
    "",
    "con",
    "x" * 300,
)


@pytest.fixture
def run(tmp_path):
    made = run_in(tmp_path)
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "user" / "secret.png").write_bytes(b"secret")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.png").write_bytes(b"secret")
    for kind in ("input", "output", "temp"):
        (tmp_path / kind / "link.png").symlink_to(tmp_path / "secret.png")
        (tmp_path / kind / "linked").symlink_to(outside)
    return made


@pytest.fixture
def files(run):
    folders = SimpleNamespace(list=lambda _: [], holding=lambda *_: [], extensions=lambda _: frozenset())
    return StoreFiles(SimpleNamespace(files=run.store.files, folders=folders))


@pytest.mark.parametrize(("kind", "name"), FILE_PORTS)
def test_a_file_input_accepts_no_name_that_leads_out(files, tmp_path, kind, name):
    port = REGISTRY.get(kind).input(name)
    for attack in (*NAMES, str(tmp_path / "secret.png"), ["a"], {"a": 1}, 5, None):
        if port.choices is None and attack not in port.also:
            assert not files.accepts(port, attack), attack


LOADS = {
    "LoadImage": image_files.load_image,
    "LoadImageOutput": image_files.load_output,
    "WebcamCapture": image_files.webcam,
    "LoadLatent": latent_files.load_latent,
    "LoadAudio": audio_files.load,
    "RecordAudio": audio_files.record,
    "LoadVideo": video.load,
    "Load3D": lambda run, name: load_3d.load_3d(run, "a.glb", {"image": name, "mask": name, "normal": name}),
}


@pytest.mark.parametrize("kind", LOADS)
def test_a_loading_node_itself_opens_nothing_outside(run, tmp_path, kind):
    for attack in (*NAMES, str(tmp_path / "secret.png")):
        with pytest.raises(BadInput):
            LOADS[kind](run, attack)


@pytest.mark.parametrize("prefix", ["../out", "/tmp/out", "a/../../out", "..\\out", "linked/out", "C:out", "a\0b"])
def test_a_saving_node_writes_nothing_outside(run, tmp_path, prefix):
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    sound = {"waveform": torch.zeros(1, 1, 800), "sample_rate": 8000}
    picture = torch.zeros(1, 8, 8, 3)
    for save in (
        lambda: image_files.save_image(run, picture, prefix),
        lambda: image_animated.save_png(run, picture, prefix),
        lambda: audio_files.save_flac(run, sound, prefix),
        lambda: video.save_webm(run, picture, prefix, codec="vp9"),
        lambda: video.save_video(run, video.create(picture, 5.0), prefix),
        lambda: latent_files.save_latent(run, {"samples": picture}, prefix),
    ):
        with pytest.raises(BadInput):
            save()
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before
