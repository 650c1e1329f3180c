"""Settings: everything a person may choose, as one frozen value made once at the door and handed down.

Each field is a flag (`--max-upload-size`), an environment variable (`LIMNER_MAX_UPLOAD_SIZE`) and a key of
`limner.toml` (`max_upload_size`). A flag wins over the environment, the environment over the file. Names, defaults and
exclusions of the flags that ComfyUI has are ComfyUI's.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from limner.errors import BadInput

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - 3.10 only
    import tomli as tomllib


@dataclass(frozen=True)
class Size:
    """An amount of memory: bytes, or a percentage of what a device or this computer has.

    amount: bytes, or 0 to 100 with `percent`.
    """

    amount: float
    percent: bool = False

    @classmethod
    def parse(cls, text: str) -> Size:
        """A size as a person writes it: `6G`, `6GB`, `1.5GiB`, `512M`, `80%`; a bare number is in GB.

        Units are powers of 1024, whichever way they are written. Raises BadInput for anything else.
        """
        found = _SIZE.fullmatch(text.strip().lower())
        if found is None:
            raise BadInput(f"`{text}` is no size.", do="Write a number and K, M, G, T or %, such as 6G, 512M or 80%.")
        number, unit = float(found["number"]), found["unit"]
        if unit == "%":
            if number > 100:
                raise BadInput(f"`{text}` is more than everything.", do="Write at most 100%.")
            return cls(number, percent=True)
        return cls(number * _UNITS[unit.removesuffix("b").removesuffix("i") if unit else "g"])

    def of(self, total: int) -> int:
        """Bytes, where there are `total`; never more than those."""
        wanted = total * self.amount / 100 if self.percent else self.amount
        return total if wanted >= total else int(wanted)

    def __str__(self) -> str:
        return f"{self.amount:g} %" if self.percent else f"{self.amount / _UNITS['g']:g} GB"


_SIZE = re.compile(r"(?P<number>\d+(\.\d*)?|\.\d+)\s*(?P<unit>%|b|[kmgt](i?b)?|)")
_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}


def option(
    default: Any,
    text: str,
    *,
    group: str = "",
    const: Any = None,
    choices: Sequence[str] = (),
    least: float | None = None,
    repeat: bool = False,
    idle: str = "",
) -> Any:
    """A field of `Settings`: its default and what its flag's help says.

    group: flags of one group exclude each other. const: the value of the bare flag. least: the smallest value allowed;
    a size must be larger than it. repeat: the flag takes several values. idle: why choosing it changes nothing, where
    it is taken for ComfyUI's sake.
    """
    text = f"{text} Changes nothing: {idle}" if idle else text
    meta = {
        "text": text,
        "idle": idle,
        "group": group,
        "const": const,
        "choices": tuple(choices),
        "least": least,
        "repeat": repeat,
    }
    return field(default=default, metadata=meta)


_ATTENTION = "PyTorch chooses among its own kernels for each device and type."
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
SPEEDUPS = ("fp16_accumulation", "fp8_matrix_mult", "cublas_ops", "autotune")
FORMER_SPEEDUPS = ("pinned_memory",)
"""Taken and dropped: what they asked for happens without them."""


@dataclass(frozen=True)
class Settings:
    """Every option, with its default. Sizes say their unit; directories are text as given, None where not chosen."""

    listen: str = option("127.0.0.1", "Addresses to listen on, separated by commas.", const="0.0.0.0,::")
    port: int = option(8188, "Port to listen on.", least=0)
    tls_keyfile: str | None = option(None, "TLS private key; needs the certificate too.")
    tls_certfile: str | None = option(None, "TLS certificate.")
    enable_cors_header: str | None = option(
        None, "Let pages of this origin (bare flag: any) use the API. Switches the origin check off.", const="*"
    )
    max_upload_size: float = option(100, "Largest request body in MB.", least=0)
    enable_compress_response_body: bool = option(False, "Compress JSON and text replies.")
    base_directory: str | None = option(None, "Folder that holds models, input, output, temp, user and custom_nodes.")
    extra_model_paths_config: tuple[str, ...] = option((), "More model path files (YAML).", repeat=True)
    output_directory: str | None = option(None, "Where results are written.")
    temp_directory: str | None = option(None, "Parent of the folder `temp`.")
    input_directory: str | None = option(None, "Where inputs are read.")
    user_directory: str | None = option(None, "Where users' settings and workflows, and the database, are kept.")
    custom_nodes_directory: str | None = option(
        None,
        "Folders of node packs in place of custom_nodes in the base directory, separated as in PATH (: or, on Windows, "
        ";). Of two packs with one node the first wins.",
    )
    auto_launch: bool = option(False, "Open the browser when the server is up.")
    disable_auto_launch: bool = option(False, "Do not open the browser; wins over --auto-launch.")
    cuda_device: int | None = option(None, "Use only this GPU.", least=0)
    default_device: int | None = option(None, "Use this GPU first; the others stay visible.", least=0)
    cuda_malloc: bool = option(False, "Force CUDA's asynchronous allocator.", group="malloc")
    disable_cuda_malloc: bool = option(False, "Forbid CUDA's asynchronous allocator.", group="malloc")
    force_fp32: bool = option(False, "Compute everything in float32.", group="precision")
    force_fp16: bool = option(False, "Compute everything in float16.", group="precision")
    fp32_unet: bool = option(False, "Diffusion model in float32.", group="unet")
    fp64_unet: bool = option(False, "Diffusion model in float64.", group="unet")
    bf16_unet: bool = option(False, "Diffusion model in bfloat16.", group="unet")
    fp16_unet: bool = option(False, "Diffusion model in float16.", group="unet")
    fp8_e4m3fn_unet: bool = option(False, "Diffusion model stored in float8 e4m3fn.", group="unet")
    fp8_e5m2_unet: bool = option(False, "Diffusion model stored in float8 e5m2.", group="unet")
    fp8_e8m0fnu_unet: bool = option(
        False,
        "Diffusion model stored in float8 e8m0fnu.",
        group="unet",
        idle="the type has neither sign nor fraction, so no weights can be kept in it.",
    )
    fp16_vae: bool = option(False, "Autoencoder in float16.", group="vae")
    fp32_vae: bool = option(False, "Autoencoder in float32.", group="vae")
    bf16_vae: bool = option(False, "Autoencoder in bfloat16.", group="vae")
    cpu_vae: bool = option(False, "Run the autoencoder on the CPU.")
    fp8_e4m3fn_text_enc: bool = option(False, "Text encoder stored in float8 e4m3fn.", group="text")
    fp8_e5m2_text_enc: bool = option(False, "Text encoder stored in float8 e5m2.", group="text")
    fp16_text_enc: bool = option(False, "Text encoder in float16.", group="text")
    fp32_text_enc: bool = option(False, "Text encoder in float32.", group="text")
    bf16_text_enc: bool = option(False, "Text encoder in bfloat16.", group="text")
    force_channels_last: bool = option(False, "Keep convolutions in channels-last layout.")
    directml: int | None = option(None, "Use a DirectML device.", const=-1, idle="DirectML devices are not supported.")
    oneapi_device_selector: str | None = option(None, "Value for ONEAPI_DEVICE_SELECTOR.")
    disable_ipex_optimize: bool = option(
        False, "Do not optimise with Intel's extension.", idle="Intel's extension is never used."
    )
    supports_fp8_compute: bool = option(False, "Treat the device as able to compute in float8.")
    preview_method: str = option("none", "Previews while sampling.", choices=("none", "auto", "latent2rgb", "taesd"))
    preview_size: int = option(512, "Longest side of a preview in pixels.", least=1)
    cache_classic: bool = option(False, "Keep the results of the latest prompt (the default).", group="cache")
    cache_lru: int = option(0, "Keep up to N results.", group="cache", least=0)
    cache_none: bool = option(False, "Keep no results between prompts.", group="cache")
    cache_ram: float = option(
        0.0, "Keep results while this many GB of RAM stay free.", group="cache", const=4.0, least=0
    )
    disk_cache: float = option(
        0.0, "Keep costly results on disk too, up to this many GB, also between starts.", const=10.0, least=0
    )
    use_split_cross_attention: bool = option(False, "Split attention.", group="attention", idle=_ATTENTION)
    use_quad_cross_attention: bool = option(False, "Sub-quadratic attention.", group="attention", idle=_ATTENTION)
    use_pytorch_cross_attention: bool = option(
        False, "PyTorch's attention.", group="attention", idle="it is what happens without it."
    )
    use_sage_attention: bool = option(False, "Sage attention.", group="attention", idle=_ATTENTION)
    use_flash_attention: bool = option(False, "Flash attention.", group="attention", idle=_ATTENTION)
    disable_xformers: bool = option(False, "No xformers.", idle="xformers is never used.")
    force_upcast_attention: bool = option(False, "Compute attention in float32.", group="upcast", idle=_ATTENTION)
    dont_upcast_attention: bool = option(False, "Never widen attention.", group="upcast", idle=_ATTENTION)
    gpu_only: bool = option(False, "Load every model whole, text encoders too, and keep it on the GPU.", group="memory")
    highvram: bool = option(False, "Load models whole and keep them on the GPU after use.", group="memory")
    normalvram: bool = option(
        False, "Keep of a model on the GPU what there is room for and stream the rest (the default).", group="memory"
    )
    lowvram: bool = option(False, "Stream the weights to the GPU while they are used; few stay there.", group="memory")
    novram: bool = option(False, "Stream all weights: none stay on the GPU.", group="memory")
    cpu: bool = option(False, "Use the CPU for everything.", group="memory")
    reserve_vram: float | None = option(None, "GB of GPU memory to leave to other programs.", least=0)
    max_vram: Size | None = option(  # noqa: RUF009
        None, "GPU memory to use at most, as 6G, 512M or 80%; a bare number is in GB.", least=0
    )
    max_ram: Size | None = option(  # noqa: RUF009
        None, "RAM to use at most, likewise; a percentage is of what a container may use.", least=0
    )
    idle_unload: float = option(0.0, "Unload models that were not used for this many seconds; 0: never.", least=0)
    async_offload: int | None = option(
        None,
        "Streams that copy weights while the GPU computes; the default on NVIDIA and AMD is 2.",
        group="streams",
        const=2,
        least=0,
    )
    disable_async_offload: bool = option(False, "Copy weights in order with the computation.", group="streams")
    disable_pinned_memory: bool = option(False, "Never lock pages of host memory for faster copies.", group="pinning")
    pinned_memory_limit: Size | None = option(  # noqa: RUF009
        None,
        "RAM whose pages may be locked; by default 95% (Windows: 45%), nothing where the GPU has no memory of its own.",
        group="pinning",
    )
    force_non_blocking: bool = option(False, "Do not wait for copies to end, on any device.")
    api_key: str | None = option(
        None,
        "Ask every request for an API key; with a value, that one is an administrator's too. Others: `limner keys`.",
        const="",
    )
    default_hashing_function: str = option(
        "sha256", "Hash used to recognise files uploaded twice.", choices=("md5", "sha1", "sha256", "sha512")
    )
    disable_smart_memory: bool = option(False, "Unload all models after each prompt.")
    deterministic: bool = option(False, "Prefer deterministic operations.")
    fast: tuple[str, ...] = option(
        (), "Untested speed-ups.", const=SPEEDUPS, choices=(*SPEEDUPS, *FORMER_SPEEDUPS), repeat=True
    )
    mmap_torch_files: bool = option(
        False, "Map .ckpt and .pt files into memory.", idle="they are mapped wherever their format allows it."
    )
    disable_mmap: bool = option(False, "Read safetensors instead of mapping them.")
    dont_print_server: bool = option(False, "Print nothing of the server.")
    quick_test_for_ci: bool = option(False, "Start, then exit with 0.")
    windows_standalone_build: bool = option(False, "Behave as the portable Windows build.")
    disable_metadata: bool = option(False, "Write no prompt or workflow into files.")
    disable_all_custom_nodes: bool = option(False, "Load no node packs.")
    whitelist_custom_nodes: tuple[str, ...] = option((), "Packs that are loaded all the same.", repeat=True)
    disable_api_nodes: bool = option(
        False, "Load no nodes of hosted services.", idle="there are no nodes of hosted services."
    )
    multi_user: bool = option(False, "Keep settings and workflows per user.")
    verbose: str = option("INFO", "Log level.", const="DEBUG", choices=LEVELS)
    log_stdout: bool = option(False, "Log to standard output, errors to standard error.")
    front_end_version: str = option(
        "comfyanonymous/ComfyUI@latest",
        "Release of a web front end on GitHub, as OWNER/REPO@VERSION; by default the installed one.",
    )
    front_end_root: str | None = option(None, "Folder of a web front end to serve instead of the installed one.")
    comfy_api_base: str = option(
        "https://api.comfy.org", "Address of the hosted nodes' service.", idle="there are no nodes of hosted services."
    )
    offline: bool = option(False, "Fetch nothing: what is not on this machine is an error that says so.")
    model_hub: str = option(
        "https://huggingface.co", "Address of the model hub that tokenizers' vocabularies are fetched from."
    )
    database_url: str | None = option(
        None, "SQLAlchemy URL of the queue and history; default: limner.db in the user folder."
    )
    history_size: int = option(100_000, "Finished prompts that are kept; ComfyUI keeps 10,000.", least=1)
    database_synchronous: str = option(
        "normal", "SQLite durability: `full` survives a power cut, `normal` a crash.", choices=("normal", "full")
    )

    def idle(self) -> dict[str, str]:
        """The settings that were chosen and change nothing, with the reason."""
        default = Settings()
        return {
            one.name: one.metadata["idle"]
            for one in fields(self)
            if one.metadata["idle"] and getattr(self, one.name) != getattr(default, one.name)
        }

    @property
    def max_upload_bytes(self) -> int:
        """Largest request body in bytes."""
        return int(self.max_upload_size * 1024 * 1024)


def _kind(hint: Any) -> type:
    """The type a flag's text is converted to."""
    text = str(hint)
    names = ((Size, "Size"), (bool, "bool"), (int, "int"), (float, "float"), (str, "str"))
    return next(kind for kind, name in names if name in text)


def _size(text: str) -> Size:
    try:
        return Size.parse(text)
    except BadInput as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _default(one: Field[Any]) -> Any:
    return None if one.default is MISSING else one.default


def add_flags(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Give the parser, or a group of one, one flag a field. Those not given leave no trace in the parsed namespace."""
    hints = get_type_hints(Settings)
    groups: dict[str, Any] = {}
    for one in fields(Settings):
        meta = one.metadata
        group = meta["group"]
        if group and group not in groups:
            groups[group] = parser.add_mutually_exclusive_group()
        target = groups.get(group, parser)
        flag = "--" + one.name.replace("_", "-").replace("fp8-e4m3fn", "fp8_e4m3fn").replace("fp8-e5m2", "fp8_e5m2")
        flag = flag.replace("fp8-e8m0fnu", "fp8_e8m0fnu")
        words = meta["text"].replace("%", "%%")  # argparse fills in what follows a single one
        common: dict[str, Any] = {"dest": one.name, "default": argparse.SUPPRESS, "help": words}
        kind = _kind(hints[one.name])
        if kind is bool:
            target.add_argument(flag, action="store_true", **common)
            continue
        common["type"] = _size if kind is Size else kind
        if kind is Size:
            common["metavar"] = "SIZE"
        if meta["choices"]:
            common["choices"] = meta["choices"]
        if meta["repeat"]:
            # argparse checks a const against nothing, so `--fast` alone means every choice.
            target.add_argument(flag, nargs="*" if meta["const"] else "+", action="extend", **common)
        elif meta["const"] is not None:
            target.add_argument(flag, nargs="?", const=meta["const"], **common)
        else:
            target.add_argument(flag, **common)


def make_settings(
    flags: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None, file: Path | None = None
) -> Settings:
    """Settings from flags (already of the right types), `LIMNER_…` variables and a TOML file.

    Raises BadInput for an unknown key, a value of the wrong type or outside its bounds, and for flags that exclude
    each other.
    """
    values: dict[str, Any] = {}
    hints = get_type_hints(Settings)
    known = {one.name: one for one in fields(Settings)}
    if file is not None:
        values.update(_from_file(file, known, hints))
    for key, text in (environment or {}).items():
        name = key.removeprefix("LIMNER_").lower()
        if key.startswith("LIMNER_") and name in known:
            values[name] = _from_text(f"the environment variable {key}", text, known[name], hints[name])
    for name, value in (flags or {}).items():
        if name in known:
            bare = known[name].metadata["repeat"] and value == []
            values[name] = known[name].metadata["const"] if bare else value
    for name, value in values.items():
        _check(name, value, known[name])
    _check_exclusive(values, known)
    if values.get("windows_standalone_build"):
        values["auto_launch"] = True
    if values.get("disable_auto_launch"):
        values["auto_launch"] = False
    if values.get("force_fp16"):
        values["fp16_unet"] = True
    if "fast" in values:
        values["fast"] = tuple(one for one in values["fast"] if one not in FORMER_SPEEDUPS)
    merged: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return replace(Settings(), **merged)


def _from_file(file: Path, known: Mapping[str, Field[Any]], hints: Mapping[str, Any]) -> dict[str, Any]:
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"{file} cannot be read.", why=str(error), do="Mend the file or leave it out.") from error
    for name in table:
        if name not in known:
            raise BadInput(f"{file}: there is no setting `{name}`.", do="`limner serve --help` lists them all.")
    return {name: _from_text(f"{file}, {name}", value, known[name], hints[name]) for name, value in table.items()}


def _from_text(where: str, value: Any, one: Field[Any], hint: Any) -> Any:
    kind = _kind(hint)
    if one.metadata["const"] is not None:
        # As the bare flag, or as no flag: `fast = true`, `LIMNER_CACHE_RAM=on`.
        word = value.lower() if isinstance(value, str) and kind in (int, float) else value
        if word is True or word in ("true", "yes", "on"):
            return one.metadata["const"]
        if word is False or word in ("false", "no", "off", ""):
            return _default(one)
    if one.metadata["repeat"]:
        parts = value.split(os.pathsep) if isinstance(value, str) else value
        return tuple(str(part) for part in parts)
    if kind is bool and isinstance(value, str):
        if value.lower() not in ("1", "true", "yes", "on", "0", "false", "no", "off", ""):
            raise BadInput(f"{where} is {value!r}.", why="It is a switch.", do="Write true or false.")
        return value.lower() in ("1", "true", "yes", "on")
    if kind is Size:
        try:
            return Size.parse(str(value))
        except BadInput as error:
            raise BadInput(f"{where} is {value!r}.", why=error.what, do=error.do) from error
    try:
        return kind(value)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{where} is {value!r}.", why=f"It must be of type {kind.__name__}.") from error


def _check(name: str, value: Any, one: Field[Any]) -> None:
    meta = one.metadata
    listed = value if isinstance(value, tuple | list) else (value,)
    for item in listed if meta["choices"] else ():
        if item not in meta["choices"]:
            raise BadInput(f"{name} is {item!r}.", do=f"Choose one of {', '.join(meta['choices'])}.")
    least = meta["least"]
    if isinstance(value, Size):
        if least is not None and value.amount <= least:
            raise BadInput(f"{name} is {value}.", why="With that nothing runs.", do="Leave it out for no limit.")
    elif least is not None and value is not None and not value >= least:
        raise BadInput(f"{name} is {value}.", why=f"It must be at least {least:g}.")


def _check_exclusive(values: Mapping[str, Any], known: Mapping[str, Field[Any]]) -> None:
    chosen: dict[str, str] = {}
    for name, value in values.items():
        group = known[name].metadata["group"]
        if group and value not in (None, False, 0, 0.0):
            if group in chosen:
                raise BadInput(f"{chosen[group]} and {name} exclude each other.", do="Choose one of the two.")
            chosen[group] = name
