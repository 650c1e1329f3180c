"""UI workflows, as the front end saves them, become prompts, as the engine runs them."""

from limner.graph.convert.formats import is_api_prompt, is_ui_workflow, unwrap
from limner.graph.convert.prompt import MissingNodeTypes, convert_workflow

__all__ = ["MissingNodeTypes", "convert_workflow", "is_api_prompt", "is_ui_workflow", "unwrap"]
