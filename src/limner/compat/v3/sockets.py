"""V3 kinds that only travel on wires, and the few of later versions that have a widget of their own."""

from __future__ import annotations

from typing import Any, TypedDict

from limner.compat.v3.base import TENSOR, ComfyTypeI, ComfyTypeIO, LazyType, WidgetInput, comfytype


def _socket(name: str, io_type: str, python: Any = Any, **more: Any) -> Any:
    """An io type without a widget."""
    made = type(name, (ComfyTypeIO,), {"__doc__": f"{io_type} values.", "Type": python, "__module__": __name__, **more})
    return comfytype(io_type)(made)


class LatentDict(TypedDict, total=False):
    """samples: (batch, channels, …); noise_mask: (batch, 1, h, w); batch_index: for seeds; type: audio and so on."""

    samples: Any
    noise_mask: Any
    batch_index: list[int]
    type: str


class AudioDict(TypedDict):
    """waveform: (batch, channels, samples) in -1..1; sample_rate: Hz."""

    waveform: Any
    sample_rate: int


class CameraInfo(TypedDict):
    """Where a view looks from."""

    position: dict[str, float | int]
    target: dict[str, float | int]
    zoom: int
    cameraType: str


class Model3DDict(TypedDict):
    """What a 3-D viewer gives: names of pictures of the view, of the model, and the camera."""

    image: str
    mask: str
    normal: str
    camera_info: CameraInfo
    recording: str


class TrackDict(TypedDict):
    """Paths of points: track_path (frames, tracks, 2), track_visibility (frames, tracks)."""

    track_path: Any
    track_visibility: Any


class BoundingBoxDict(TypedDict):
    """A rectangle in pixels."""

    x: int
    y: int
    width: int
    height: int


CondList = list[tuple[Any, dict[str, Any]]]
_VIDEO = LazyType("limner.store.video", "VideoInput")
_BYTES = LazyType("io", "BytesIO")

Image = _socket("Image", "IMAGE", TENSOR)
Mask = _socket("Mask", "MASK", TENSOR)
Latent = _socket("Latent", "LATENT", LatentDict, LatentDict=LatentDict)
Conditioning = _socket("Conditioning", "CONDITIONING", CondList, CondList=CondList)
Sampler = _socket("Sampler", "SAMPLER")
Sigmas = _socket("Sigmas", "SIGMAS", TENSOR)
Noise = _socket("Noise", "NOISE")
Guider = _socket("Guider", "GUIDER")
Clip = _socket("Clip", "CLIP")
ControlNet = _socket("ControlNet", "CONTROL_NET")
Vae = _socket("Vae", "VAE")
Model = _socket("Model", "MODEL")
ModelPatch = _socket("ModelPatch", "MODEL_PATCH")
ClipVision = _socket("ClipVision", "CLIP_VISION")
ClipVisionOutput = _socket("ClipVisionOutput", "CLIP_VISION_OUTPUT")
AudioEncoder = _socket("AudioEncoder", "AUDIO_ENCODER")
AudioEncoderOutput = _socket("AudioEncoderOutput", "AUDIO_ENCODER_OUTPUT")
StyleModel = _socket("StyleModel", "STYLE_MODEL")
Gligen = _socket("Gligen", "GLIGEN")
UpscaleModel = _socket("UpscaleModel", "UPSCALE_MODEL")
LatentUpscaleModel = _socket("LatentUpscaleModel", "LATENT_UPSCALE_MODEL")
Audio = _socket("Audio", "AUDIO", AudioDict, AudioDict=AudioDict)
Video = _socket("Video", "VIDEO", _VIDEO)
SVG = _socket("SVG", "SVG", _BYTES)
LoraModel = _socket("LoraModel", "LORA_MODEL", dict)
LossMap = _socket("LossMap", "LOSS_MAP", dict)
Voxel = _socket("Voxel", "VOXEL", LazyType("limner.compat.v3.values", "VOXEL"))
Mesh = _socket("Mesh", "MESH", LazyType("limner.compat.v3.values", "MESH"))
Hooks = _socket("Hooks", "HOOKS")
HookKeyframes = _socket("HookKeyframes", "HOOK_KEYFRAMES")
TimestepsRange = _socket("TimestepsRange", "TIMESTEPS_RANGE", tuple[int, int])
LatentOperation = _socket("LatentOperation", "LATENT_OPERATION")
FlowControl = _socket("FlowControl", "FLOW_CONTROL", tuple[str, Any])
Accumulation = _socket("Accumulation", "ACCUMULATION", dict)
Load3DCamera = _socket("Load3DCamera", "LOAD3D_CAMERA", CameraInfo, CameraInfo=CameraInfo)
Load3D = _socket("Load3D", "LOAD_3D", Model3DDict, Model3DDict=Model3DDict)
Load3DAnimation = _socket("Load3DAnimation", "LOAD_3D_ANIMATION", Model3DDict, Model3DDict=Model3DDict)
Photomaker = _socket("Photomaker", "PHOTOMAKER")
Point = _socket("Point", "POINT")
FaceAnalysis = _socket("FaceAnalysis", "FACE_ANALYSIS")
BBOX = _socket("BBOX", "BBOX")
SEGS = _socket("SEGS", "SEGS")
Tracks = _socket("Tracks", "TRACKS", TrackDict, TrackDict=TrackDict)
WanCameraEmbedding = _socket("WanCameraEmbedding", "WAN_CAMERA_EMBEDDING", TENSOR)
MODEL_PATCH = ModelPatch


@comfytype(io_type="WEBCAM")
class Webcam(ComfyTypeIO):
    """A picture from a camera."""

    Type = str

    class Input(WidgetInput):
        """The camera's widget."""


@comfytype(io_type="BOUNDING_BOX")
class BoundingBox(ComfyTypeIO):
    """A rectangle in pixels."""

    Type = BoundingBoxDict

    class Input(WidgetInput):
        """A rectangle that is drawn or typed. component: which widget of the front end shows it."""

        def __init__(self, id: str, *more: Any, component: str | None = None, **how: Any) -> None:  # noqa: A002
            how.setdefault("socketless", None if len(more) > 5 else True)
            super().__init__(id, *more, **how)
            self.component = component
            if self.default is None:
                self.default = {"x": 0, "y": 0, "width": 512, "height": 512}

        def own_options(self) -> dict[str, Any]:
            """With the widget's name."""
            return {**super().own_options(), "component": self.component}


@comfytype(io_type="COLOR")
class Color(ComfyTypeIO):
    """A colour as #rrggbb."""

    Type = str

    class Input(WidgetInput):
        """A colour picker."""


@comfytype(io_type="CURVE")
class Curve(ComfyTypeIO):
    """A curve through points (x, y) in 0..1."""

    Type = list

    class Input(WidgetInput):
        """A curve editor."""


@comfytype(io_type="IMAGECOMPARE")
class ImageCompare(ComfyTypeI):
    """A view that compares two pictures."""

    Type = dict

    class Input(WidgetInput):
        """The widget that compares."""
