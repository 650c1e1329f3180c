"""What nodes say of themselves survives the description cache. (tests/contract holds it against the reference.)"""

import json
from importlib import import_module
from pathlib import Path

import pytest

import limner.nodes
from limner.graph import collect

MODULES = sorted(path.stem for path in Path(limner.nodes.__path__[0]).glob("[!_]*.py"))
SCHEMAS = {schema.kind: schema for name in MODULES for schema in collect(import_module(f"limner.nodes.{name}"))}


@pytest.mark.parametrize("kind", sorted(SCHEMAS))
def test_a_description_survives_the_cache(kind):
    schema = SCHEMAS[kind]
    assert type(schema).from_json(json.loads(json.dumps(schema.to_json()))) == schema


@pytest.mark.parametrize("name", ["text", "primitive", "preview_any"])
def test_nodes_of_text_need_no_torch(name):
    source = Path(limner.nodes.__path__[0], f"{name}.py").read_text()
    assert "torch" not in source
