"""Loading packs: which, in what order, and that a broken one hurts nobody."""

import json
import sys
from pathlib import Path

import pytest

from limner.compat.discovery import discover
from limner.compat.packs import DescribedClass

NODE = """
class Shout:
    RETURN_TYPES = ("STRING",)
    FUNCTION = "shout"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"default": "a"})}}

    def shout(self, text):
        return (text.upper(),)

NODE_CLASS_MAPPINGS = {"Shout": Shout}
NODE_DISPLAY_NAME_MAPPINGS = {"Shout": "Shout it"}
"""


def report(packs, name):
    return next(one for one in packs.reports if one.name == name)


def test_a_pack_brings_its_nodes(place):
    folder = place.pack("loud", NODE)
    packs = place.load()
    assert list(packs.source.kinds()) == ["Shout"]
    entry = packs.source.describe("Shout")
    assert entry["display_name"] == "Shout it"
    assert entry["python_module"] == "custom_nodes.loud"
    assert packs.source.function("Shout", packs.source.make("Shout"))(text="hi").values == ("HI",)
    one = report(packs, "loud")
    assert (one.state, one.path, one.kinds) == ("loaded", str(folder), ["Shout"])
    assert one.seconds > 0


def test_a_single_file_is_a_pack(place):
    root = place.base / "custom_nodes"
    root.mkdir()
    (root / "lone.py").write_text(NODE)
    packs = place.load()
    assert packs.source.describe("Shout")["python_module"] == "custom_nodes.lone"


@pytest.mark.parametrize("name", ["x.disabled", "__pycache__", ".git"])
def test_folders_that_are_no_packs_are_passed_over(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / "notes.txt").write_text("")
    assert list(discover([tmp_path])) == []


def test_relative_imports_work_and_the_folder_is_not_on_the_path(place):
    folder = place.pack("parts", "from .inner import NODE_CLASS_MAPPINGS\nfrom . import inner\n", inner__py=NODE)
    packs = place.load()
    assert list(packs.source.kinds()) == ["Shout"]
    assert str(folder) not in sys.path


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("import no_such_thing_at_all", "no_such_thing_at_all"),
        ("raise SystemExit(3)", "sys.exit(3)"),
        ("raise BaseException('odd')", "odd"),
        ("def f(:", "SyntaxError"),
        ("import sys; sys.exit()", "sys.exit(None)"),
        ("NODE_CLASS_MAPPINGS = 5", "TypeError"),
    ],
)
def test_a_broken_pack_stops_no_other(place, broken, said):
    place.pack("abad", broken)
    place.pack("good", NODE)
    packs = place.load()
    assert list(packs.source.kinds()) == ["Shout"]
    one = report(packs, "abad")
    assert one.state == "failed"
    assert said in one.problems[0].text()
    assert packs.ready.is_set()


def test_the_report_names_file_line_and_the_name_that_is_missing(place):
    folder = place.pack("abad", "\n\nfrom folder_paths import get_filename_lst\n")
    problem = report(place.load(), "abad").problems[0]
    assert (problem.file, problem.line) == (str(folder / "__init__.py"), 3)
    assert problem.missing == "folder_paths.get_filename_lst"
    assert "get_filename_list" in problem.advice


def test_a_missing_requirement_says_how_to_install_it(place):
    place.pack("abad", "import no_such_thing_at_all", requirements__txt="no-such-thing\n")
    problem = report(place.load(), "abad").problems[0]
    assert problem.missing == "no_such_thing_at_all"
    assert "pip install -r" in problem.advice


def test_a_pack_without_mappings_is_skipped_and_named(place):
    place.pack("empty", "X = 1")
    one = report(place.load(), "empty")
    assert one.state == "skipped"
    assert "NODE_CLASS_MAPPINGS" in one.problems[0].what


def test_the_first_of_two_packs_keeps_a_kind_and_the_report_says_so(place):
    first = place.pack("a", NODE)
    second = place.pack("b", NODE)
    packs = place.load()
    assert packs.source.describe("Shout")["python_module"] == "custom_nodes.a"
    assert packs.collisions == [{"kind": "Shout", "kept": str(first), "left_out": str(second)}]


def test_a_built_in_node_is_not_replaced_through_the_mappings(place):
    place.pack("greedy", NODE.replace('{"Shout": Shout}', '{"KSampler": Shout}'))
    packs = place.load()
    assert not packs.source.overrides("KSampler")
    assert packs.collisions[0]["kept"] == "Limner itself"


def test_a_pack_that_changes_the_registry_itself_replaces_a_built_in_node(place):
    place.pack("greedy", NODE + "\nimport nodes\nnodes.NODE_CLASS_MAPPINGS['KSampler'] = Shout\n")
    packs = place.load()
    assert packs.source.overrides("KSampler")
    assert packs.source.schema("KSampler").outputs[0].kind == "STRING"


def test_a_patched_method_of_a_built_in_class_takes_effect(place):
    place.pack(
        "patcher",
        NODE + "\nimport nodes\nnodes.ImageInvert.invert = lambda self, image: ('patched',)\n",
    )
    packs = place.load()
    assert packs.source.overrides("ImageInvert")
    assert packs.source.function("ImageInvert", packs.source.make("ImageInvert"))(image=0).values == ("patched",)


# S1 to S6


def test_the_directory_flag_replaces_the_default_folder(place):  # S1
    place.pack("default", NODE)
    place.pack("other", NODE.replace("Shout", "Cry"), root="elsewhere")
    packs = place.load(custom_nodes_directory=str(place.base / "elsewhere"))
    assert list(packs.source.kinds()) == ["Cry"]


def test_several_directories_are_separated_as_path_is(place, monkeypatch):  # S2
    place.pack("a", NODE, root="one dir")
    place.pack("b", NODE.replace("Shout", "Cry"), root="two")
    monkeypatch.setattr("os.pathsep", ";")
    packs = place.load(custom_nodes_directory=f" {place.base}/one dir ; {place.base}/two;")
    assert list(packs.source.kinds()) == ["Shout", "Cry"]


def test_no_variable_of_the_environment_decides(place, monkeypatch):  # S3
    place.pack("other", NODE, root="elsewhere")
    monkeypatch.setenv("COMFYUI_CUSTOM_NODES", str(place.base / "elsewhere"))
    assert list(place.load().source.kinds()) == []


def test_prestartup_scripts_and_the_white_list_honour_the_directories(place):  # S4
    marker = place.base / "ran"
    script = f"open({str(marker)!r}, 'a').write('x')\n"
    place.pack("a", NODE, root="elsewhere", prestartup_script__py=script)
    place.pack("b", NODE.replace("Shout", "Cry"), root="elsewhere", prestartup_script__py=script)
    packs = place.load(
        custom_nodes_directory=str(place.base / "elsewhere"),
        disable_all_custom_nodes=True,
        whitelist_custom_nodes=("a",),
    )
    assert marker.read_text() == "x"
    assert list(packs.source.kinds()) == ["Shout"]


def test_packs_of_one_name_in_two_directories_are_both_loaded_and_the_first_wins(place):  # S5
    first = place.pack("same", NODE, root="one")
    second = place.pack("same", NODE + "\nMORE = 1\n", root="two")
    packs = place.load(custom_nodes_directory=f"{place.base}/one:{place.base}/two")
    assert [one.path for one in packs.reports] == [str(first), str(second)]
    assert packs.collisions[0]["kept"] == str(first)


def test_the_help_text_names_the_separator(place):  # S6
    text = place.settings.__dataclass_fields__["custom_nodes_directory"].metadata["text"]
    assert "separated as in PATH" in text
    assert "in place of custom_nodes" in text


def test_a_failing_prestartup_script_is_reported_and_the_pack_still_loads(place):
    place.pack("a", NODE, prestartup_script__py="1 / 0")
    one = report(place.load(), "a")
    assert one.state == "loaded"
    assert "prestartup" in one.problems[0].what
    assert one.problems[0].line == 1


def test_packs_of_the_path_file_come_after_those_of_the_flag(place):
    place.pack("a", NODE, root="one")
    place.pack("b", NODE.replace("Shout", "Cry"), root="two")
    config = place.base / "more.yaml"
    config.write_text(f"mine:\n  custom_nodes: {place.base}/two\n")
    packs = place.load(custom_nodes_directory=f"{place.base}/one", extra_model_paths_config=(str(config),))
    assert list(packs.source.kinds()) == ["Shout", "Cry"]


def test_web_folders_of_the_module_and_of_the_project_file_are_registered(place):
    folder = place.pack(
        "webby",
        NODE + "\nWEB_DIRECTORY = './js'\n",
        **{
            "js/a__js": "export {}",
            "web/b__js": "export {}",
            "pyproject__toml": '[project]\nname = "webby-project"\nversion = "1.2"\n[tool.comfy]\nweb = "web"\n',
        },
    )
    packs = place.load()
    assert packs.host.tables.web == {"webby": str(folder / "js"), "webby-project": str(folder / "web")}
    assert report(packs, "webby").about["version"] == "1.2"


def test_a_class_that_raises_when_asked_is_reported_and_the_others_stay(place):
    place.pack("half", NODE + "\nclass Bad(Shout):\n    @classmethod\n    def INPUT_TYPES(cls):\n        1 / 0\n"
               "NODE_CLASS_MAPPINGS['Bad'] = Bad\n")  # fmt: skip
    packs = place.load()
    assert packs.source.describe("Shout")
    assert "ZeroDivisionError" in report(packs, "half").problems[0].text()
    assert "node Bad" in report(packs, "half").problems[0].what


def test_an_unchanged_pack_is_described_without_being_imported(place):
    marker = place.base / "imported"
    plain = NODE + "\nNODE_CLASS_MAPPINGS.update({})\n"
    folder = place.pack("plain", plain, inner__py="")
    packs = place.load(cache=True)
    assert report(packs, "plain").cacheable == ""
    place.close()
    packs = place.load(cache=True)
    assert report(packs, "plain").state == "cached"
    assert packs.source.describe("Shout")["display_name"] == "Shout it"
    assert packs.source.schema("Shout").input("text").kind == "STRING"
    assert isinstance(packs.host.tables.classes.peek("Shout"), DescribedClass)
    assert not any("plain" in name for name in sys.modules if str(place.base) in name.replace("_x_", "."))
    assert packs.source.function("Shout", packs.source.make("Shout"))(text="hi").values == ("HI",)
    assert report(packs, "plain").state == "loaded"
    place.close()
    (folder / "inner.py").write_text("Y = 2\n")
    assert report(place.load(cache=True), "plain").state == "loaded"
    assert not marker.exists()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("from server import PromptServer\n@PromptServer.instance.routes.get('/x')\nasync def x(r): pass", "hands"),
        ("import folder_paths\nfolder_paths.add_model_folder_path('x', '/x')", "does something"),
        ("import nodes\nnodes.MAX_RESOLUTION = 5", "replaces"),
        ("import folder_paths\nF = folder_paths.get_filename_list('loras')", "calls something"),
        ("if True:\n    pass", "decides"),
        ("class Other:\n    print.__call__('x')", "when a class is made"),
        ("import os\nos.environ['LIMNER_TEST'] = '1'", "not its own"),
    ],
)
def test_a_pack_that_does_more_than_define_is_imported_each_time(place, line, why):
    place.pack("busy", NODE + "\n" + line + "\n")
    assert why in report(place.load(cache=True), "busy").cacheable
    place.close()
    assert report(place.load(cache=True), "busy").state == "loaded"


def test_the_report_is_plain_json(place):
    place.pack("a", NODE)
    place.pack("b", "1 / 0")
    found = json.loads(json.dumps(place.load().to_json()))
    assert found["ready"] is True
    assert {one["name"]: one["state"] for one in found["packs"]} == {"a": "loaded", "b": "failed"}


def test_the_module_name_is_the_path_with_its_dots_written_out(place):
    folder = place.pack("a.b", NODE)
    place.load()
    assert str(folder).replace(".", "_x_") in sys.modules
    assert Path(sys.modules[str(folder).replace(".", "_x_")].__file__) == folder / "__init__.py"


def test_an_extension_is_asked_for_its_classes(place):
    place.pack(
        "third",
        """
        from comfy_api.latest import ComfyExtension, io

        class Shout(io.ComfyNode):
            @classmethod
            def define_schema(cls):
                return io.Schema(
                    node_id="Shout3",
                    display_name="Shout three",
                    category="test",
                    inputs=[io.String.Input("text")],
                    outputs=[io.String.Output()],
                )

            @classmethod
            def execute(cls, text):
                return io.NodeOutput(text.upper())

        class Mine(ComfyExtension):
            async def get_node_list(self):
                return [Shout]

        async def comfy_entrypoint():
            return Mine()
        """,
    )
    packs = place.load()
    assert [one.problems for one in packs.reports] == [[]]
    entry = packs.source.describe("Shout3")
    assert (entry["display_name"], entry["python_module"]) == ("Shout three", "custom_nodes.third")
    instance = packs.source.make("Shout3")
    assert packs.source.function("Shout3", instance)(text="hi").values == ("HI",)


def test_packs_are_imported_on_a_running_event_loop_and_may_begin_tasks(place):
    place.pack(
        "tasks",
        NODE
        + """
import asyncio

loop = asyncio.get_running_loop()
done = []

async def work():
    await asyncio.sleep(0)
    done.append(1)

task = loop.create_task(work())
""",
    )
    packs = place.load()
    assert report(packs, "tasks").state == "loaded"
    packs.linger()
    name = next(name for name in sys.modules if name.endswith("custom_nodes/tasks"))
    assert sys.modules[name].done == [1]


def test_packs_import_each_other_by_the_name_of_their_folder(place):
    place.pack("first", NODE, tools__py="ANSWER = 42\n")
    place.pack("second", "from custom_nodes.first.tools import ANSWER\nNODE_CLASS_MAPPINGS = {}\nassert ANSWER == 42\n")
    packs = place.load()
    assert report(packs, "second").state == "loaded"
    place.close()
    for name in [name for name in sys.modules if name.split(".")[0] == "custom_nodes"]:
        del sys.modules[name]
    assert str(place.base) not in sys.path


def test_whoever_looks_at_the_classes_sees_classes(place):
    place.pack("plain", NODE)
    place.load(cache=True)
    place.close()
    packs = place.load(cache=True)
    assert isinstance(packs.host.tables.classes.peek("Shout"), DescribedClass)
    assert dict(packs.host.tables.classes)["Shout"].FUNCTION == "shout"
    assert {**packs.host.tables.classes}["Shout"].FUNCTION == "shout"


def test_the_folders_that_packs_list_are_there(place):
    place.pack("lister", NODE + "\nimport os, folder_paths\nos.listdir(folder_paths.get_output_directory())\n"
               "os.listdir(folder_paths.get_input_directory())\nos.listdir(folder_paths.get_temp_directory())\n")  # fmt: skip
    assert report(place.load(), "lister").state == "loaded"
