"""Makers of small UI workflows, and the schemas they are converted with."""

from limner.graph import Port, Schema


def schema(kind, *inputs, outputs=("IMAGE",)):
    return Schema(kind, "", tuple(inputs), tuple(Port(name, name) for name in outputs), title=f"The {kind}")


SEED = Port("seed", "INT", options={"default": 0, "control_after_generate": True})
STEPS = Port("steps", "INT", options={"default": 20})
METHOD = Port("method", "COMBO", choices=("euler", "heun"))
IMAGE = Port("image", "IMAGE")

SCHEMAS = {
    found.kind: found
    for found in (
        schema("Load", Port("file", "COMBO", folder="checkpoints"), outputs=("IMAGE", "MASK")),
        schema("Sample", IMAGE, SEED, STEPS, METHOD),
        schema("Text", Port("text", "STRING", options={"multiline": True}), outputs=("STRING",)),
        schema("Plain", Port("noise_seed", "INT"), Port("on", "BOOLEAN", options={"default": True}), IMAGE),
        schema("NoControl", Port("seed", "INT", options={"control_after_generate": False}), STEPS),
        schema("Pick", Port("name", "COMBO", choices=("a", "b"), options={"control_after_generate": True}), STEPS),
        schema(
            "Mixed",
            Port("late", "INT", required=False),
            Port("text", "STRING", options={"forceInput": True}),
            Port("first", "STRING"),
        ),
        schema("Upload", Port("file", "COMBO", file_in="input", options={"image_upload": True}), METHOD),
        schema("Blend", Port("mask", "MASK"), IMAGE, Port("other", "IMAGE"), outputs=("IMAGE", "MASK")),
        schema("List", Port("points", "CURVE"), IMAGE),
        schema("Save", Port("images", "IMAGE"), Port("prefix", "STRING", options={"default": "limner"}), outputs=()),
        schema("Show", Port("anything", "*"), outputs=()),
    )
}


def into(name, kind="IMAGE", link=None, widget=False):
    return {"name": name, "type": kind, "link": link} | ({"widget": {"name": name}} if widget else {})


def out(kind="IMAGE"):
    return {"name": kind, "type": kind, "links": []}


def node(name, kind, inputs=(), outputs=None, values=None, **more):
    outputs = [out()] if outputs is None else list(outputs)
    return {"id": name, "type": kind, "inputs": list(inputs), "outputs": outputs, "widgets_values": values, **more}


def workflow(nodes, links=(), subgraphs=(), **more):
    return {
        "version": 0.4,
        "nodes": list(nodes),
        "links": [list(link) for link in links],
        "definitions": {"subgraphs": list(subgraphs)},
        **more,
    }


def subgraph(uuid, nodes, links, inputs=(), outputs=("IMAGE",)):
    """links: (id, origin, slot, target, slot), -10 and -20 are the walls."""
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
    return {
        "id": uuid,
        "name": "Inner",
        "nodes": list(nodes),
        "links": [dict(zip(keys, link, strict=True)) | {"type": "*"} for link in links],
        "inputs": [{"name": name, "type": kind} for name, kind in inputs],
        "outputs": [{"name": name, "type": name} for name in outputs],
    }
