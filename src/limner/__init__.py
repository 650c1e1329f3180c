"""Limner: a node-graph engine for generative models that runs ComfyUI's workflows, API and node packs."""

__version__ = "0.1.0"
