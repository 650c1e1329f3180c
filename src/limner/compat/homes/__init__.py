"""Homes: modules whose public names are those of a module of ComfyUI, in terms of Limner's own parts."""
