"""What nodes say of themselves is what the reference says of its nodes of the same name, apart from prose."""

import json
from importlib import import_module
from pathlib import Path

import pytest

import limner.nodes
from limner.graph import collect
from limner.graph.describe import describe

REFERENCE = json.loads(Path(__file__).with_name("object_info.json").read_text())
PROSE = {"tooltip", "description", "output_tooltips"}
MODULES = sorted(path.stem for path in Path(limner.nodes.__path__[0]).glob("[!_]*.py"))
SCHEMAS = {schema.kind: schema for name in MODULES for schema in collect(import_module(f"limner.nodes.{name}"))}


def without_prose(plain):
    if isinstance(plain, dict):
        return {key: without_prose(value) for key, value in plain.items() if key not in PROSE}
    return [without_prose(value) for value in plain] if isinstance(plain, list) else plain


def test_every_node_of_the_reference_excerpt_exists_and_no_other():
    assert set(SCHEMAS) == set(REFERENCE)


@pytest.mark.parametrize("kind", sorted(SCHEMAS))
def test_a_node_is_described_as_the_reference_describes_it(kind):
    assert without_prose(describe(SCHEMAS[kind])) == REFERENCE[kind]


@pytest.mark.parametrize("kind", sorted(SCHEMAS))
def test_a_description_survives_the_cache(kind):
    schema = SCHEMAS[kind]
    assert type(schema).from_json(json.loads(json.dumps(schema.to_json()))) == schema


@pytest.mark.parametrize("name", ["text", "primitive", "preview_any"])
def test_nodes_of_text_need_no_torch(name):
    source = Path(limner.nodes.__path__[0], f"{name}.py").read_text()
    assert "torch" not in source
