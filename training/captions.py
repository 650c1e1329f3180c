"""What a picture is called: templates around the names of concepts.txt."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

from common import DATA
from prepare import Concept, read_concepts

UNCOUNTED = {
    "sushi", "popcorn", "coffee", "beer", "wine", "honey", "french fries", "fries", "glasses", "tennis", "fire",
    "flame", "orange fire", "green broccoli",
    "broccoli", "bread", "cheese", "yellow cheese", "corn", "yellow corn", "ice cream",
    "planet earth", "earth", "saturn", "dice", "red cherries", "cherries", "purple grapes", "grapes", "poop",
    "video game",
}  # fmt: skip
# (form, weight); {n} is the name, {a} the name with its article
STYLED = (("{a}, {s} style", 6), ("{n}, {s} style", 1), ("{a}, {s}", 1), ("a {s} picture of {a}", 1))
BARE = (("{a}", 3), ("{n}", 2), ("a picture of {a}", 1))
STYLE_WITHOUT_A_WORD = "3d"  # what is drawn when a prompt names no style


@dataclass(frozen=True)
class Subject:
    """One picture to be drawn: its number in data/latents.npz and what it may be called."""

    row: int
    names: tuple[str, ...]
    style: str
    kind: str  # "common", "rare" or "recoloured"


def with_article(name: str) -> str:
    """ "apple" → "an apple"; plurals and stuff stay as they are."""
    if name in UNCOUNTED:
        return name
    return ("an " if name[0] in "aeiou" and not name.startswith(("uni", "ufo")) else "a ") + name


def forms(style: str) -> tuple[tuple[str, int], ...]:
    """The templates for a style."""
    if style == STYLE_WITHOUT_A_WORD:
        return (*STYLED, *BARE)
    return STYLED


def caption(subject: Subject, chance: random.Random) -> str:
    """One caption for a picture: a random form around a random name."""
    chosen = forms(subject.style)
    form = chance.choices([form for form, _ in chosen], [weight for _, weight in chosen])[0]
    name = chance.choice(subject.names)
    return form.format(n=name, a=with_article(name), s=subject.style)


def subjects(styles: tuple[str, ...]) -> list[Subject]:
    """All pictures to be drawn in these styles, in the order of the index."""
    concepts = {c.name: c for c in read_concepts()}
    index = json.loads((DATA / "index.json").read_text("utf8"))
    found = []
    for entry in index:
        if entry["concept"] and entry["style"] in styles:
            concept = concepts.get(entry["concept"], Concept(entry["char"], entry["concept"], ()))
            kind = "rare" if concept.rare else "common" if concept.name in concepts else "recoloured"
            found.append(Subject(len(found), (concept.name, *concept.others), entry["style"], kind))
    return found


def all_captions() -> Iterator[str]:
    """Every caption there can be."""
    for subject in subjects(("3d", "flat", "cartoon")):
        for form, _ in forms(subject.style):
            for name in subject.names:
                yield form.format(n=name, a=with_article(name), s=subject.style)
