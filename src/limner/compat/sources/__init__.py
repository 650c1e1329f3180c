"""Adapters: how classes of packs become schemas and calls. One file a kind of class."""
