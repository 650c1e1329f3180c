"""Prompts as values: schemas, parsing, validation, planning, signatures, UI-workflow conversion. Free of torch."""

from limner.graph.convert import MissingNodeTypes, convert_workflow, is_api_prompt, is_ui_workflow, unwrap
from limner.graph.kinds import (
    AnyKind,
    Bool,
    Choice,
    Conditioning,
    FileIn,
    Float,
    Folder,
    Hidden,
    Image,
    Int,
    Kind,
    Latent,
    Mask,
    Optional,
    Sigmas,
    Text,
)
from limner.graph.node import NodeFunction, NodeResult, Ui, node
from limner.graph.run import Run
from limner.graph.schema import Port, Schema

__all__ = [
    "AnyKind",
    "Bool",
    "Choice",
    "Conditioning",
    "FileIn",
    "Float",
    "Folder",
    "Hidden",
    "Image",
    "Int",
    "Kind",
    "Latent",
    "Mask",
    "MissingNodeTypes",
    "NodeFunction",
    "NodeResult",
    "Optional",
    "Port",
    "Run",
    "Schema",
    "Sigmas",
    "Text",
    "Ui",
    "convert_workflow",
    "is_api_prompt",
    "is_ui_workflow",
    "node",
    "unwrap",
]
