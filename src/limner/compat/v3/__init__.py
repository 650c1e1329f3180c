"""The V3 API for nodes, `comfy_api.latest`: classes that say what they are by a Schema and work by `execute`."""

from limner.compat.v3.node import ComfyExtension, ComfyNode, NodeOutput
from limner.compat.v3.schema import Hidden, HiddenHolder, Schema

__all__ = ["ComfyExtension", "ComfyNode", "Hidden", "HiddenHolder", "NodeOutput", "Schema"]
