"""Prompts as values: schemas, parsing, validation, planning, signatures, UI-workflow conversion. Free of torch."""

from limner.graph.convert import MissingNodeTypes, convert_workflow, is_api_prompt, is_ui_workflow, unwrap
from limner.graph.describe import describe
from limner.graph.dynamic import (
    DependencyCycleError,
    DuplicateNodeError,
    DynamicPrompt,
    NodeInputError,
    NodeNotFoundError,
)
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
from limner.graph.plan import Plan, Schedule, plan
from limner.graph.prompt import Link, Listed, NodeCall, Prompt, PromptError, nearest, normalised, parse
from limner.graph.registry import FileLookup, NoFiles, Registry, SchemaTable, Snapshot, collect
from limner.graph.run import CURRENT_RUN, Blocker, Run
from limner.graph.schema import Port, Schema
from limner.graph.source import NodeSource
from limner.graph.validate import Validation, kinds_match, validate

__all__ = [
    "CURRENT_RUN",
    "AnyKind",
    "Blocker",
    "Bool",
    "Choice",
    "Conditioning",
    "DependencyCycleError",
    "DuplicateNodeError",
    "DynamicPrompt",
    "FileIn",
    "FileLookup",
    "Float",
    "Folder",
    "Hidden",
    "Image",
    "Int",
    "Kind",
    "Latent",
    "Link",
    "Listed",
    "Mask",
    "MissingNodeTypes",
    "NoFiles",
    "NodeCall",
    "NodeFunction",
    "NodeInputError",
    "NodeNotFoundError",
    "NodeResult",
    "NodeSource",
    "Optional",
    "Plan",
    "Port",
    "Prompt",
    "PromptError",
    "Registry",
    "Run",
    "Schedule",
    "Schema",
    "SchemaTable",
    "Sigmas",
    "Snapshot",
    "Text",
    "Ui",
    "Validation",
    "collect",
    "convert_workflow",
    "describe",
    "is_api_prompt",
    "is_ui_workflow",
    "kinds_match",
    "nearest",
    "node",
    "normalised",
    "parse",
    "plan",
    "unwrap",
    "validate",
]
