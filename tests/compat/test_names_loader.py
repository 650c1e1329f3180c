"""The names of folder_paths, nodes, server, execution, latent_preview and the like, used as packs use them."""

import asyncio
import importlib
import inspect
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from limner.engine.files import StoreFiles
from limner.errors import Interrupted, LimnerError
from limner.graph import CURRENT_RUN, Blocker, Port
from limner.store.folders import REGISTRY

torch = pytest.importorskip("torch")


@pytest.fixture
def compat(place):
    for key in ("checkpoints", "loras"):
        (place.base / "models" / key).mkdir(parents=True)
    (place.base / "models" / "loras" / "one.safetensors").write_bytes(b"")
    (place.base / "input").mkdir()
    (place.base / "output").mkdir()
    return place.open()


class Sink:
    def __init__(self):
        self.seen = []
        self.interrupted = False

    def progress(self, node_id, value, total, preview=None):
        self.seen.append((node_id, value, total, preview))

    def check(self):
        if self.interrupted:
            raise Interrupted


@pytest.fixture
def running(compat):
    run = replace(compat.host.run(), prompt_id="p", node_id="7", sink=Sink())
    token = CURRENT_RUN.set(run)
    yield run
    CURRENT_RUN.reset(token)


# folder_paths


def test_files_of_a_kind_are_listed_and_found(compat):
    import folder_paths

    assert folder_paths.get_filename_list("loras") == ["one.safetensors"]
    path = folder_paths.get_full_path("loras", "one.safetensors")
    assert Path(path).is_file()
    assert folder_paths.get_full_path_or_raise("loras", "one.safetensors") == path
    assert folder_paths.get_full_path("loras", "two.safetensors") is None
    assert folder_paths.get_full_path("loras", "../../etc/passwd") is None
    with pytest.raises(FileNotFoundError, match=r"two\.safetensors"):
        folder_paths.get_full_path_or_raise("loras", "two.safetensors")
    with pytest.raises(KeyError):
        folder_paths.get_filename_list("nothing")


def test_the_registry_has_the_reference_order_and_form(compat):
    import folder_paths

    table = folder_paths.folder_names_and_paths
    assert list(table) == [key for key, _, _ in REGISTRY]
    roots, extensions = table["loras"]
    assert roots[0] == str(Path(folder_paths.models_dir) / "loras")
    assert extensions == folder_paths.supported_pt_extensions
    assert folder_paths.get_folder_paths("unet") == folder_paths.get_folder_paths("diffusion_models")


def test_what_packs_change_in_the_registry_is_what_the_engine_offers(compat, tmp_path):
    import folder_paths

    more = tmp_path / "more"
    more.mkdir()
    (more / "two.safetensors").write_bytes(b"")
    (more / "three.gguf").write_bytes(b"")
    table = folder_paths.folder_names_and_paths
    table["loras"][0].append(str(more))
    assert folder_paths.get_filename_list("loras") == ["one.safetensors", "two.safetensors"]
    table["loras"][1].add(".gguf")
    assert "three.gguf" in folder_paths.get_filename_list("loras")
    table["mine"] = ([str(more)], {".gguf"})
    assert compat.host.store.folders.list("mine") == ["three.gguf"]
    assert compat.host.store.folders.names()[-1] == "mine"
    port = Port("lora", "COMBO", folder="loras")
    assert "three.gguf" in StoreFiles(compat.host.store).choices(port)


def test_a_path_is_added_behind_or_before_the_others(compat, tmp_path):
    import folder_paths

    folder_paths.add_model_folder_path("loras", str(tmp_path / "last"))
    folder_paths.add_model_folder_path("loras", str(tmp_path / "first"), is_default=True)
    roots = folder_paths.get_folder_paths("loras")
    assert (roots[0], roots[-1]) == (str(tmp_path / "first"), str(tmp_path / "last"))
    folder_paths.add_model_folder_path("fresh", str(tmp_path))
    assert folder_paths.folder_names_and_paths["fresh"] == ([str(tmp_path)], set())


def test_directories_are_the_store_s_and_move_with_it(compat, tmp_path):
    import folder_paths

    assert folder_paths.get_output_directory() == folder_paths.output_directory == str(tmp_path / "output")
    assert folder_paths.get_directory_by_type("temp") == folder_paths.get_temp_directory()
    assert folder_paths.get_directory_by_type("else") is None
    folder_paths.set_output_directory(str(tmp_path / "new"))
    assert compat.host.store.files.root("output") == tmp_path / "new"
    assert folder_paths.output_directory == str(tmp_path / "new")
    assert Path(folder_paths.__file__).parent == tmp_path == Path(folder_paths.base_path)


def test_annotated_names_lead_to_their_folder(compat, tmp_path):
    import folder_paths

    (tmp_path / "output" / "fox.png").write_bytes(b"")
    assert folder_paths.annotated_filepath("fox.png [output]") == ("fox.png", str(tmp_path / "output"))
    assert folder_paths.annotated_filepath("fox.png") == ("fox.png", None)
    assert folder_paths.get_annotated_filepath("fox.png [output]") == str(tmp_path / "output" / "fox.png")
    assert folder_paths.exists_annotated_filepath("fox.png [output]")
    assert not folder_paths.exists_annotated_filepath("fox.png")
    assert not folder_paths.exists_annotated_filepath("../output/fox.png")


def test_the_next_result_has_the_next_number(compat, tmp_path):
    import folder_paths

    first = folder_paths.get_save_image_path("sub/a_%width%", str(tmp_path / "output"), 64, 32)
    assert first == (str(tmp_path / "output" / "sub"), "a_64", 1, "sub", "sub/a_%width%")
    (tmp_path / "output" / "sub" / "a_64_00004_.png").write_bytes(b"")
    assert folder_paths.get_save_image_path("sub/a_64", str(tmp_path / "output"))[2] == 5


def test_small_helpers_of_folder_paths_work(compat, tmp_path):
    import folder_paths

    assert folder_paths.filter_files_extensions(["b.PT", "a.txt"], [".pt"]) == ["b.PT"]
    assert folder_paths.filter_files_content_types(["a.png", "b.mp3", "c.xyz"], ["image"]) == ["a.png"]
    (tmp_path / "input" / "deep").mkdir()
    assert folder_paths.get_input_subfolders() == ["deep"]
    names, times = folder_paths.recursive_search(str(tmp_path / "models"), ["checkpoints"])
    assert names == ["loras/one.safetensors"]
    assert str(tmp_path / "models") in times
    with folder_paths.cache_helper as cache:
        cache.set("a", 1)
        assert cache.get("a") == 1
    assert folder_paths.cache_helper.get("a") is None


# nodes


def test_built_in_classes_have_the_protocol_of_the_reference(compat):
    import nodes

    cls = nodes.CheckpointLoaderSimple
    assert (cls.FUNCTION, cls.RETURN_TYPES) == ("load_checkpoint", ("MODEL", "CLIP", "VAE"))
    names = cls.INPUT_TYPES()["required"]["ckpt_name"][0]
    assert isinstance(names, list)
    assert nodes.NODE_CLASS_MAPPINGS["CheckpointLoaderSimple"] is cls
    assert nodes.NODE_DISPLAY_NAME_MAPPINGS["KSampler"] == "KSampler"
    assert nodes.MAX_RESOLUTION == 16384
    assert nodes.ImageScale.upscale_methods[-1] == "lanczos"


def test_built_in_classes_are_called_by_position_and_by_name(compat):
    import nodes

    image = torch.zeros(1, 4, 6, 3)
    (found,) = nodes.ImageInvert().invert(image)
    assert torch.equal(found, torch.ones(1, 4, 6, 3))
    (latent,) = nodes.EmptyLatentImage().generate(64, 32)
    assert latent["samples"].shape == (1, 4, 4, 8)
    (scaled,) = nodes.ImageScale().upscale(image=image, upscale_method="bilinear", width=3, height=2, crop="disabled")
    assert scaled.shape == (1, 2, 3, 3)
    with pytest.raises(TypeError, match="no input colour"):
        nodes.ImageInvert().invert(image, colour=1)


def test_built_in_classes_can_be_subclassed(compat):
    import nodes

    class Twice(nodes.ImageInvert):
        def invert(self, image):
            return super().invert(*super().invert(image))

    image = torch.rand(1, 2, 2, 3)
    assert torch.allclose(Twice().invert(image)[0], image)
    assert "image" in Twice.INPUT_TYPES()["required"]
    assert not nodes.ImageInvert.patched


def test_conditioning_classes_give_what_the_functions_give(compat):
    import nodes

    one, two = [[torch.zeros(1, 2), {}]], [[torch.ones(1, 2), {}]]
    assert len(nodes.ConditioningCombine().combine(one, two)[0]) == 2
    (zeroed,) = nodes.ConditioningZeroOut().zero_out(two)
    assert torch.equal(zeroed[0][0], torch.zeros(1, 2))
    (timed,) = nodes.ConditioningSetTimestepRange().set_range(one, 0.1, 0.5)
    assert timed[0][1]["start_percent"] == 0.1


def test_saving_honours_what_packs_set_on_the_instance(compat, tmp_path):
    import nodes

    class Saver(nodes.PreviewImage):
        def __init__(self):
            self.output_dir = str(tmp_path / "elsewhere")
            self.type = "output"
            self.prefix_append = "_mine"
            self.compress_level = 1

    found = Saver().save_images(torch.rand(2, 8, 8, 3), "a", {"1": {}}, {"workflow": {"x": 1}})
    names = [one["filename"] for one in found["ui"]["images"]]
    assert names == ["a_mine_00001_.png", "a_mine_00002_.png"]
    with Image.open(tmp_path / "elsewhere" / names[0]) as picture:
        assert picture.text["workflow"] == '{"x": 1}'
    shown = nodes.PreviewImage().save_images(torch.rand(1, 8, 8, 3))["ui"]["images"][0]
    assert shown["type"] == "temp"
    assert shown["filename"].startswith("ComfyUI_temp_")


def test_pixels_are_cut_around_the_middle_for_the_encoder(compat):
    import nodes

    assert nodes.VAEEncode.vae_encode_crop_pixels(torch.zeros(1, 17, 24, 3)).shape == (1, 16, 24, 3)


def test_interruption_is_raised_before_a_node(running):
    import nodes

    nodes.before_node_execution()
    running.sink.interrupted = True
    with pytest.raises(nodes.InterruptProcessingException):
        nodes.before_node_execution()


def test_a_star_import_brings_classes_tables_and_modules(compat):
    names = {}
    exec("from nodes import *", names)
    assert names["KSampler"].FUNCTION == "sample"
    assert names["torch"] is torch
    assert names["np"] is np
    assert names["MAX_RESOLUTION"] == 16384
    assert "KSampler" in names["NODE_CLASS_MAPPINGS"]


def test_an_unknown_class_is_an_import_error_that_names_near_ones(compat):
    with pytest.raises(ImportError):
        from nodes import KSamplr  # noqa: F401
    import nodes

    with pytest.raises(AttributeError, match="KSampler"):
        _ = nodes.KSamplr


def test_a_class_that_is_not_there_yet_can_be_imported_and_says_what_it_needs(compat):
    from nodes import NODE_CLASS_MAPPINGS, GLIGENLoader

    assert GLIGENLoader.FUNCTION == "load_gligen"
    assert GLIGENLoader.INPUT_TYPES()["required"]["gligen_name"] == ([],)
    assert "GLIGENLoader" not in NODE_CLASS_MAPPINGS
    with pytest.raises(LimnerError, match="GLIGEN"):
        GLIGENLoader().load_gligen(None)


# server


class FakeWire:
    def __init__(self):
        self.sent = []

    def send(self, kind, data, sid):
        self.sent.append((kind, data, sid))

    def send_bytes(self, data, sid):
        self.sent.append((data, sid))

    def sockets(self):
        return {"c": object()}

    def flags(self, sid):
        return {"supports_preview_metadata": True}


async def test_messages_reach_the_sockets_from_any_thread(compat):
    from server import BinaryEventTypes, PromptServer

    server = PromptServer.instance
    assert server is PromptServer.instance
    server.send_sync("early", {})
    wire = FakeWire()
    server.attach(asyncio.get_running_loop(), wire)
    await asyncio.to_thread(server.send_sync, "my.event", {"a": 1}, "c")
    server.send_progress_text("hi", "1", "c")
    server.send_sync(BinaryEventTypes.UNENCODED_PREVIEW_IMAGE, ("JPEG", Image.new("RGB", (8, 8)), 4))
    await server.send_bytes(9, b"x")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert wire.sent[0] == ("my.event", {"a": 1}, "c")
    assert wire.sent[1] == (struct.pack(">II", 3, 1) + b"1hi", "c")
    assert wire.sent[2][0][:8] == struct.pack(">II", 1, 1)
    assert wire.sent[2][0][8:10] == b"\xff\xd8"
    assert wire.sent[3] == (struct.pack(">I", 9) + b"x", None)
    assert "c" in server.sockets
    assert server.sockets_metadata["c"]["feature_flags"]["supports_preview_metadata"]


def test_on_prompt_handlers_follow_each_other_and_a_broken_one_is_passed_over(compat):
    from server import PromptServer

    server = PromptServer.instance
    server.add_on_prompt_handler(lambda body: {**body, "a": 1})
    server.add_on_prompt_handler(lambda body: 1 / 0)
    server.add_on_prompt_handler(lambda body: {**body, "b": body["a"] + 1})
    assert server.trigger_on_prompt({}) == {"a": 1, "b": 2}


def test_the_server_has_what_packs_look_at(compat):
    import server

    instance = server.PromptServer.instance
    assert instance.client_id is None
    assert instance.last_node_id is None
    assert instance.supports == ["custom_nodes_from_web"]
    assert instance.get_queue_info() == {"exec_info": {"queue_remaining": 0}}
    assert instance.prompt_queue.get_current_queue() == ([], [])
    assert instance.app.router.frozen is False
    assert server.web.Response and server.uuid.uuid4  # noqa: PT018
    assert inspect.getfile(server.PromptServer) == str(compat.host.base / "server.py")
    instance._made_up = 1
    assert server.PromptServer.instance._made_up == 1


def test_the_running_node_is_the_last_node(running):
    from server import PromptServer

    assert PromptServer.instance.last_node_id == "7"


# execution and comfy_execution


def test_the_blocker_is_one_class_under_every_name(compat):
    from comfy_execution.graph import ExecutionBlocker
    from comfy_execution.graph_utils import ExecutionBlocker as Same
    from execution import ExecutionBlocker as Again

    assert ExecutionBlocker is Same is Again is Blocker


def test_a_graph_is_built_with_prefixes_of_the_call(running):
    from comfy_execution.graph_utils import GraphBuilder, is_link

    graph = GraphBuilder()
    first = graph.node("EmptyImage", width=8)
    second = graph.node("ImageInvert", id="last", image=first.out(0))
    second.set_override_display_id("3")
    assert graph.finalize() == {
        "7.0.0.1": {"class_type": "EmptyImage", "inputs": {"width": 8}},
        "7.0.0.last": {
            "class_type": "ImageInvert",
            "inputs": {"image": ["7.0.0.1", 0]},
            "override_display_id": "3",
        },
    }
    assert GraphBuilder().prefix == "7.0.1."
    assert GraphBuilder("x.").node("A").id == "x.1"
    assert is_link(["1", 0])
    assert not is_link(["1", "0"])
    graph.replace_node_output("1", 0, None)
    assert graph.lookup_node("last").inputs == {}
    graph.remove_node("last")
    assert graph.lookup_node("last") is None


def test_inputs_of_a_class_are_told_by_section(compat):
    import nodes
    from comfy_execution.graph import DynamicPrompt, get_input_info

    assert get_input_info(nodes.KSampler, "steps")[:2] == ("INT", "required")
    assert get_input_info(nodes.SaveImage, "prompt")[1] == "hidden"
    assert get_input_info(nodes.KSampler, "nope") == (None, None, None)
    prompt = DynamicPrompt({"1": {"class_type": "A"}})
    prompt.add_ephemeral_node("1.0", {"class_type": "B"}, "1", "1")
    assert prompt.get_real_node_id("1.0") == prompt.get_display_node_id("1.0") == "1"
    assert prompt.all_node_ids() == {"1", "1.0"}
    with pytest.raises(Exception, match="not found"):
        prompt.get_node("9")


def test_a_prompt_is_validated(compat):
    import execution

    good = {"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}}}
    good["2"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    assert asyncio.run(execution.validate_prompt("x", good, None))[::2] == (True, ["2"])
    bad = {"2": {"class_type": "PreviewImage", "inputs": {}}}
    valid, error, outputs, errors = asyncio.run(execution.validate_prompt("x", bad, None))
    assert (valid, outputs) == (False, [])
    assert error["type"] == "prompt_outputs_failed_validation"
    assert "2" in errors


def test_what_a_class_is_called_with_is_told(compat):
    import execution
    import nodes

    found, missing = execution.get_input_data(
        {"images": ["1", 0], "filename_prefix": "a", "junk": 1}, nodes.SaveImage, "5", extra_data={"extra_pnginfo": 3}
    )
    assert found == {"filename_prefix": ["a"], "prompt": [{}], "extra_pnginfo": [3]}
    assert missing == {"images": (None,)}


def test_types_are_compared_as_packs_compare_them(compat):
    from comfy_execution.validation import validate_node_input

    assert validate_node_input("INT", "INT,FLOAT")
    assert not validate_node_input("INT", "STRING")
    assert validate_node_input("INT", "INT,FLOAT", strict=True)
    assert not validate_node_input("INT,STRING", "INT,FLOAT", strict=True)


def test_the_context_of_the_running_node_is_told(running):
    from comfy_execution.utils import CurrentNodeContext, get_executing_context

    assert get_executing_context()[:2] == ("p", "7")
    with CurrentNodeContext("q", "8"):
        assert get_executing_context()[:2] == ("q", "8")
    assert get_executing_context().node_id == "7"


def test_progress_reaches_clients_and_the_handlers_of_packs(running):
    from comfy_execution.progress import ProgressHandler, add_progress_handler, get_progress_state

    class Mine(ProgressHandler):
        def __init__(self):
            super().__init__("mine")
            self.seen = []

        def update_handler(self, node_id, value, max_value, state, prompt_id, image=None):
            self.seen.append((node_id, value, prompt_id))

    handler = Mine()
    add_progress_handler(handler)
    get_progress_state().update_progress("7", 1, 2)
    assert handler.seen == [("7", 1, "p")]
    assert running.sink.seen == [("7", 1, 2, None)]


def test_names_of_another_executor_say_what_to_use(compat):
    caching = importlib.import_module("comfy_execution.caching")
    with pytest.raises(AttributeError, match="--cache-lru"):
        _ = caching.HierarchicalCache
    assert caching.to_hashable({"a": [1]}) == caching.to_hashable({"a": [1]})
    assert caching.to_hashable(object()) != caching.to_hashable(object())


# the rest


def test_the_arguments_are_the_settings(place):
    place.open(gpu_only=True, preview_method="taesd", fast=("autotune",), whitelist_custom_nodes=("a",))
    from comfy.cli_args import LatentPreviewMethod, PerformanceFeature, args

    assert args.gpu_only is True
    assert args.preview_method is LatentPreviewMethod.TAESD
    assert args.fast == {PerformanceFeature.AutoTune}
    assert args.whitelist_custom_nodes == ["a"]
    assert args.listen == "127.0.0.1"
    assert args.get("no_such_flag", 3) == 3
    args.fast.add(PerformanceFeature.CublasOps)
    import comfy.cli_args

    assert len(comfy.cli_args.args.fast) == 2
    assert not hasattr(args, "no_such_flag")


FLAGS = [
    "listen",
    "port",
    "tls_keyfile",
    "tls_certfile",
    "enable_cors_header",
    "max_upload_size",
    "base_directory",
    "extra_model_paths_config",
    "output_directory",
    "temp_directory",
    "input_directory",
    "user_directory",
    "custom_nodes_directory",
    "auto_launch",
    "disable_auto_launch",
    "cuda_device",
    "default_device",
    "cuda_malloc",
    "disable_cuda_malloc",
    "force_fp32",
    "force_fp16",
    "fp32_unet",
    "fp64_unet",
    "bf16_unet",
    "fp16_unet",
    "fp8_e4m3fn_unet",
    "fp8_e5m2_unet",
    "fp8_e8m0fnu_unet",
    "fp16_vae",
    "fp32_vae",
    "bf16_vae",
    "cpu_vae",
    "fp8_e4m3fn_text_enc",
    "fp8_e5m2_text_enc",
    "fp16_text_enc",
    "fp32_text_enc",
    "bf16_text_enc",
    "force_channels_last",
    "directml",
    "oneapi_device_selector",
    "disable_ipex_optimize",
    "supports_fp8_compute",
    "preview_method",
    "preview_size",
    "cache_classic",
    "cache_lru",
    "cache_none",
    "cache_ram",
    "use_split_cross_attention",
    "use_quad_cross_attention",
    "use_pytorch_cross_attention",
    "use_sage_attention",
    "use_flash_attention",
    "disable_xformers",
    "force_upcast_attention",
    "dont_upcast_attention",
    "gpu_only",
    "highvram",
    "normalvram",
    "lowvram",
    "novram",
    "cpu",
    "reserve_vram",
    "async_offload",
    "disable_pinned_memory",
    "force_non_blocking",
    "default_hashing_function",
    "disable_smart_memory",
    "deterministic",
    "fast",
    "mmap_torch_files",
    "disable_mmap",
    "dont_print_server",
    "quick_test_for_ci",
    "windows_standalone_build",
    "disable_metadata",
    "disable_all_custom_nodes",
    "whitelist_custom_nodes",
    "disable_api_nodes",
    "multi_user",
    "verbose",
    "log_stdout",
    "front_end_version",
    "front_end_root",
    "enable_compress_response_body",
    "comfy_api_base",
    "database_url",
]


def test_every_flag_of_the_reference_is_an_argument(compat):
    from comfy.cli_args import args, parser

    assert [flag for flag in FLAGS if not hasattr(args, flag)] == []
    assert parser.parse_args(["--gpu-only"]).gpu_only is True


def test_users_and_their_settings_are_those_of_the_store(compat):
    from app.user_manager import UserManager
    from server import PromptServer

    users = PromptServer.instance.user_manager
    assert isinstance(users, UserManager)
    assert users.get_request_user_id(None) == "default"
    users.settings.save_settings(None, {"a": 1})
    assert users.settings.get_settings(None) == {"a": 1}
    path = Path(users.get_request_user_filepath(None, "deep/file.txt"))
    assert path.parent.is_dir()
    assert users.get_request_user_filepath(None, "../../../x") is None


def test_conditioning_values_are_set_in_a_copy(compat):
    import node_helpers

    before = [["t", {"a": [1]}]]
    assert node_helpers.conditioning_set_values(before, {"a": [2]}, append=True) == [["t", {"a": [1, 2]}]]
    assert node_helpers.conditioning_set_values(before, {"b": 3}) == [["t", {"a": [1], "b": 3}]]
    assert before == [["t", {"a": [1]}]]
    assert node_helpers.hasher()(b"").hexdigest().startswith("e3b0")
    assert node_helpers.string_to_torch_dtype("bf16") is torch.bfloat16
    assert node_helpers.pillow(lambda x: x + 1, 1) == 2


def test_alpha_is_dropped_or_added_to_match(compat):
    import node_helpers

    three, four = torch.zeros(1, 2, 2, 3), torch.zeros(1, 2, 2, 4)
    assert node_helpers.image_alpha_fix(three, four)[1].shape[-1] == 3
    found = node_helpers.image_alpha_fix(four, three)[1]
    assert found.shape[-1] == 4
    assert found[..., 3].min() == 1


def test_a_latent_becomes_a_picture(compat):
    import latent_preview

    previewer = latent_preview.Latent2RGBPreviewer([[0.1, 0.2, 0.3]] * 4)
    kind, picture, side = previewer.decode_latent_to_preview_image("JPEG", torch.zeros(1, 4, 6, 8))
    assert (kind, picture.size, side) == ("JPEG", (8, 6), 512)
    assert latent_preview.LatentPreviewMethod.TAESD.value == "taesd"
    assert np.asarray(latent_preview.preview_to_image(torch.ones(2, 2, 3))).max() == 255


def test_a_replaced_previewer_is_what_samplers_use(running):
    import latent_preview

    from limner.nodes.progress import step_callback

    class Model:
        load_device = "cpu"
        latent_format = None

    class Mine(latent_preview.LatentPreviewer):
        def decode_latent_to_preview_image(self, preview_format, x0):
            return preview_format, "picture", 512

    latent_preview.get_previewer = lambda device, latent_format: Mine()
    step_callback(running, Model())(0, None, None, 4)
    assert running.sink.seen == [("7", 1, 4, "picture")]


def test_a_method_of_previews_that_a_pack_chooses_is_used(running):
    from comfy.cli_args import LatentPreviewMethod, args

    from limner.nodes import _previewers
    from limner.sampling.latent import LatentFormat

    sd15 = LatentFormat(channels=4, scale_factor=0.18215, preview="SD15")
    assert _previewers.get_previewer("cpu", sd15) is None
    args.preview_method = LatentPreviewMethod.Latent2RGB
    assert isinstance(_previewers.get_previewer("cpu", sd15), _previewers.Latent2RGBPreviewer)
    args.preview_method = LatentPreviewMethod.NoPreviews
    assert _previewers.get_previewer("cpu", sd15) is None


def test_the_front_end_manager_knows_the_installed_one(compat):
    from app.frontend_management import FrontendManager

    assert (Path(FrontendManager.default_frontend_path()) / "index.html").is_file()


def test_every_table_of_names_resolves_what_it_promises(compat):
    """Names whose home this package has; the tables of model code have tests of their own."""
    for name in ("folder_paths", "node_helpers", "nodes", "execution", "server", "protocol", "latent_preview"):
        module = importlib.import_module(name)
        for public in module.__all__:
            if name != "nodes" or not public[0].isupper():
                assert hasattr(module, public), f"{name}.{public}"
