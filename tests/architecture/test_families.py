"""A model family is one file: nothing else of the core knows its name."""

import ast
import pkgutil
from importlib import import_module

import pytest

from limner.models.detect import families
from tests.architecture.source import Source, sources

CORE = ("models", "weights", "memory", "engine", "store", "graph", "server")


def own_families(module: str) -> set[str]:
    """The names of the families that a module of `limner.models` offers."""
    found = import_module(module)
    offered = (*getattr(found, "FAMILIES", ()), *((found.FAMILY,) if hasattr(found, "FAMILY") else ()))
    return {family.name for family in offered}


def strings(tree: ast.Module) -> set[str]:
    """Every string of a file, but for the kinds of prediction, which have words of their own."""
    kinds = {
        id(node.args[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Prediction" and node.args
    }
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in kinds)
    return {node.value for node in constants if isinstance(node.value, str)}


@pytest.mark.parametrize("source", [one for one in sources() if one.package in CORE], ids=lambda one: one.name)
def test_the_core_names_a_family_only_in_its_own_file(source: Source) -> None:
    top = source.package == "models" and source.name.count("/") == 1
    own = own_families(source.module) if top else set()
    named = strings(source.tree) & (set(families()) - own)
    assert not named, f"{source.name} names {sorted(named)}; what it needs to know of them is a field of Family"


def test_every_family_is_of_a_file_of_its_own_folder() -> None:
    package = import_module("limner.models")
    modules = [f"limner.models.{module.name}" for module in pkgutil.iter_modules(package.__path__)]
    assert set().union(*map(own_families, modules)) == set(families())
