"""Inputs that grow, choices with inputs of their own, kinds that must agree."""

from __future__ import annotations

import pytest

from limner.compat.sources.v3 import V3Class
from limner.compat.v3 import io
from limner.graph import kinds_match
from tests.compat.v3.make import node

OUT = [io.String.Output()]


def echo(cls, **kwargs):
    return io.NodeOutput(kwargs)


GROWING = node(
    "Growing",
    echo,
    [
        io.Autogrow.Input(
            "images", template=io.Autogrow.TemplatePrefix(io.Image.Input("image"), prefix="image", min=1, max=3)
        )
    ],
    OUT,
)
NAMED = node(
    "Named",
    echo,
    [io.Autogrow.Input("values", template=io.Autogrow.TemplateNames(io.Float.Input("v"), names=["a", "b"], min=0))],
    OUT,
)
CHOOSING = node(
    "Choosing",
    echo,
    [
        io.DynamicCombo.Input(
            "resize",
            options=[
                io.DynamicCombo.Option("scale", [io.Float.Input("factor", default=2.0)]),
                io.DynamicCombo.Option("size", [io.Int.Input("width"), io.Int.Input("factor")]),
                io.DynamicCombo.Option(
                    "many",
                    [io.Autogrow.Input("m", template=io.Autogrow.TemplatePrefix(io.Mask.Input("k"), "k", 0, 2))],
                ),
            ],
        )
    ],
    OUT,
)


def called(cls, **given):
    return V3Class(cls).function(cls)(**given).values[0]


def ports(cls):
    return {port.name: port for port in V3Class(cls).schema().inputs}


def test_a_growing_input_is_told_with_its_template() -> None:
    told = GROWING.GET_NODE_INFO_V1()["input"]["required"]["images"]
    assert list(told) == [
        "COMFY_AUTOGROW_V3",
        {"template": {"input": {"required": {"image": ["IMAGE", {}]}}, "prefix": "image", "min": 1, "max": 3}},
    ]
    named = NAMED.GET_NODE_INFO_V1()["input"]["required"]["values"][1]["template"]
    assert (named["names"], named["min"]) == (["a", "b"], 0)


def test_its_slots_are_ports_of_which_the_first_are_required() -> None:
    found = ports(GROWING)
    assert [(name, port.kind, port.required) for name, port in found.items()] == [
        ("images.image0", "IMAGE", True),
        ("images.image1", "IMAGE", False),
        ("images.image2", "IMAGE", False),
    ]


def test_the_node_gets_a_dict_of_the_slots_that_came() -> None:
    assert called(GROWING, **{"images.image2": 3, "images.image0": 1}) == {"images": {"image0": 1, "image2": 3}}
    assert called(NAMED, **{"values.b": 0.5}) == {"values": {"b": 0.5}}
    assert called(NAMED) == {"values": {}}


@pytest.mark.parametrize("bounds", [{"min": 3, "max": 2}, {"max": 0}, {"max": 101}, {"min": -1}])
def test_a_template_with_impossible_bounds_is_refused(bounds: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="slots"):
        io.Autogrow.TemplatePrefix(io.Image.Input("image"), prefix="image", **bounds)


def test_a_choice_is_told_with_the_inputs_of_each_option() -> None:
    kind, options = CHOOSING.GET_NODE_INFO_V1()["input"]["required"]["resize"]
    assert kind == "COMFY_DYNAMICCOMBO_V3"
    assert options["options"][0] == {"key": "scale", "inputs": {"required": {"factor": ["FLOAT", {"default": 2.0}]}}}


def test_inputs_of_options_are_named_below_the_choice_and_take_what_any_option_takes() -> None:
    found = ports(CHOOSING)
    assert list(found) == ["resize", "resize.factor", "resize.width", "resize.m.k0", "resize.m.k1"]
    assert (found["resize"].kind, found["resize"].required) == ("COMBO", True)
    assert (found["resize.factor"].kind, found["resize.factor"].required) == ("FLOAT,INT", False)


def test_the_node_gets_the_choice_and_the_inputs_of_its_option_alone() -> None:
    given = {"resize": "scale", "resize.factor": 3.0, "resize.width": 64}
    assert called(CHOOSING, **given) == {"resize": {"resize": "scale", "factor": 3.0}}
    assert called(CHOOSING, **{**given, "resize": "size"}) == {"resize": {"resize": "size", "width": 64, "factor": 3.0}}
    assert called(CHOOSING, **{"resize": "many", "resize.m.k1": 5}) == {"resize": {"resize": "many", "m": {"k1": 5}}}


def test_a_shared_kind_takes_what_its_template_allows() -> None:
    template = io.MatchType.Template("T", allowed_types=[io.Image, io.Mask])
    made = node(
        "Switch",
        echo,
        [io.MatchType.Input("a", template=template), io.MatchType.Input("b", template=io.MatchType.Template("U"))],
        [io.MatchType.Output(template=template, display_name="out")],
    )
    info = made.GET_NODE_INFO_V1()
    assert list(info["input"]["required"]["a"]) == [
        "COMFY_MATCHTYPE_V3",
        {"template": {"template_id": "T", "allowed_types": "IMAGE,MASK"}},
    ]
    assert (info["output"], info["output_name"], info["output_matchtypes"]) == (["COMFY_MATCHTYPE_V3"], ["out"], ["T"])
    schema = V3Class(made).schema()
    assert kinds_match("MASK", schema.inputs[0].kind)
    assert not kinds_match("LATENT", schema.inputs[0].kind)
    assert kinds_match("LATENT", schema.inputs[1].kind)
    assert kinds_match(schema.outputs[0].kind, "IMAGE")


def test_lazy_inputs_behind_a_growing_one_come_with_the_name_to_ask_for() -> None:
    # rule L1
    def check(cls, images):
        return [name for value, name in images.values() if value is None]

    made = node(
        "Lazy",
        echo,
        [
            io.Autogrow.Input(
                "images", template=io.Autogrow.TemplatePrefix(io.Image.Input("i", lazy=True), prefix="i", min=1, max=2)
            )
        ],
        OUT,
        {"check_lazy_status": check},
    )
    companion = V3Class(made).companion("lazy", made)
    assert companion is not None
    assert companion(**{"images.i0": 1, "images.i1": None}) == ["images.i1"]
