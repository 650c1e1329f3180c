"""Pictures and their names: npm packages in, one array and one index out.

Renders every emoji of the packages in package.json (no flags, keycaps, letters, skin-tone or gender twins) at 128×128
on white, in up to four styles, into data/pictures.npy (N, 128, 128, 3) uint8 and data/index.json, a list of
{"char", "style", "name", "concept"}. `concept` is the line of concepts.txt, or null for pictures that only teach the
autoencoder.
"""

from __future__ import annotations

import argparse
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

HERE = Path(__file__).parent
MODULES = HERE / "node_modules"
SIDE = 128
MARGIN = {"3d": 0.0, "flat": 0.0, "cartoon": 0.04}  # of the side; Noto's drawings touch their box
ICON_SETS = {"flat": "fluent-emoji-flat", "cartoon": "noto"}
EXTRA_SETS = {"old cartoon": "noto-v1"}
HUES = {"red": 355, "yellow": 48, "green": 130, "blue": 212, "purple": 272}  # degrees
REACH = 40  # degrees of hue around the given one that are recoloured
SKIPPED_GROUPS = {"Flags", "Symbols", "People & Body", "Component"}


@dataclass(frozen=True)
class Concept:
    """One thing the model can draw."""

    char: str
    name: str  # with its obvious adjective: "red apple"
    others: tuple[str, ...]  # "apple"
    rare: bool = False


def read_concepts(path: Path = HERE / "concepts.txt") -> list[Concept]:
    """The lines `character | name | other, names`; # starts a comment."""
    concepts = []
    for line in path.read_text("utf8").splitlines():
        if line.strip() and not line.startswith("#"):
            char, name, others, *rare = (part.strip() for part in line.split("|"))
            concepts.append(
                Concept(char, name, tuple(o.strip() for o in others.split(",") if o.strip()), rare == ["rare"])
            )
    return concepts


def code(char: str, keep_selector: bool = True) -> str:
    """A character as the packages name it: lower-case hexadecimal code points joined by dashes."""
    return "-".join(f"{ord(c):04x}" for c in char if keep_selector or ord(c) != 0xFE0F)


def on_white(picture: Image.Image, margin: float) -> np.ndarray:
    """Any picture as (128, 128, 3) uint8 on white, with a margin on all sides."""
    picture = picture.convert("RGBA")
    inner = round(SIDE * (1 - 2 * margin))
    if picture.size != (inner, inner):
        # premultiplied, so that transparent pixels do not darken the edge
        picture = picture.convert("RGBa").resize((inner, inner), Image.Resampling.LANCZOS).convert("RGBA")
    page = Image.new("RGBA", (SIDE, SIDE), "white")
    page.alpha_composite(picture, ((SIDE - inner) // 2,) * 2)
    return np.asarray(page.convert("RGB"))


@dataclass(frozen=True)
class Recolouring:
    """A 3-D picture in another colour."""

    char: str
    noun: str
    hue: float  # of the part that changes
    colour: str  # what it becomes


def read_recolourings(path: Path = HERE / "colours.txt") -> list[Recolouring]:
    """The lines `character | noun | hue | colours`; # starts a comment."""
    found = []
    for line in path.read_text("utf8").splitlines():
        if line.strip() and not line.startswith("#"):
            char, noun, hue, colours = (part.strip() for part in line.split("|"))
            found += [Recolouring(char, noun, float(hue), colour.strip()) for colour in colours.split(",")]
    return found


def recolour(page: np.ndarray, change: Recolouring) -> np.ndarray:
    """Turn the hues near `change.hue` to the new colour; yellow is also made lighter, as it is dark otherwise."""
    hsv = np.asarray(Image.fromarray(page).convert("HSV")).astype(np.float32)
    distance = (hsv[..., 0] * (360 / 255) - change.hue + 180) % 360 - 180
    weight = np.clip((REACH + 10 - np.abs(distance)) / 10, 0, 1)
    target = HUES[change.colour] + distance * 0.4  # shading by hue stays, weaker
    hsv[..., 0] = np.where(weight > 0, target % 360 * (255 / 360), hsv[..., 0])
    if change.colour == "yellow":
        hsv[..., 2] = hsv[..., 2] + weight * (255 - hsv[..., 2]) * 0.6
    return np.asarray(Image.fromarray(hsv.round().astype(np.uint8), "HSV").convert("RGB"))


class Icons:
    """One iconify package: SVG bodies by character."""

    def __init__(self, package: str) -> None:
        folder = MODULES / "@iconify-json" / package
        data = json.loads((folder / "icons.json").read_text("utf8"))
        self.names: dict[str, str] = json.loads((folder / "chars.json").read_text("utf8"))
        if not self.names:  # some releases ship an empty table; Noto's own fits its predecessor
            self.names = json.loads((MODULES / "@iconify-json/noto/chars.json").read_text("utf8"))
        self.icons, self.aliases = data["icons"], data.get("aliases", {})
        self.size = data.get("width", 16), data.get("height", 16)

    def render(self, char: str) -> Image.Image | None:
        """The picture of a character, or None when the package has none."""
        name = self.names.get(code(char)) or self.names.get(code(char, keep_selector=False))
        name = self.aliases.get(name, {}).get("parent", name)
        icon = self.icons.get(name)
        if icon is None:
            return None
        width, height = icon.get("width", self.size[0]), icon.get("height", self.size[1])
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}" '
            f'width="{2 * SIDE}" height="{2 * SIDE}">{icon["body"]}</svg>'
        )
        return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg))))


def render_3d(char: str) -> Image.Image | None:
    """The 3-D picture of a character, or None when the package has none."""
    for name in (code(char), code(char, keep_selector=False), code(char) + "-fe0f"):
        path = MODULES / "@lobehub/fluent-emoji-3d/assets" / f"{name}.webp"
        if path.exists():
            return Image.open(path)
    return None


def usable(names: dict[str, dict[str, object]]) -> dict[str, str]:
    """Character → name of everything worth drawing."""
    return {c: str(e["name"]) for c, e in names.items() if e["group"] not in SKIPPED_GROUPS and "’clock" not in c}


def main() -> None:
    """Render everything and write the array and the index."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "data")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    concepts = {c.char.replace("\ufe0f", ""): c for c in read_concepts()}
    names = usable(json.loads((MODULES / "unicode-emoji-json/data-by-emoji.json").read_text("utf8")))
    sets = {style: Icons(package) for style, package in (ICON_SETS | EXTRA_SETS).items()}

    pictures, index = [], []
    for char, name in names.items():
        concept = concepts.get(char.replace("\ufe0f", ""))
        drawn = {"3d": render_3d(char)} | {style: icons.render(char) for style, icons in sets.items()}
        if concept and (missing := [style for style, picture in drawn.items() if picture is None]):
            print(f"{char} {name}: no picture in {', '.join(missing)}")
        for style, picture in drawn.items():
            if picture is not None:
                pictures.append(on_white(picture, MARGIN.get(style, 0.0)))
                index.append({"char": char, "style": style, "name": name, "concept": concept and concept.name})
    for change in read_recolourings():
        drawn_3d = render_3d(change.char)
        if drawn_3d is None:
            raise SystemExit(f"{change.char}: no 3-D picture to recolour")
        pictures.append(recolour(on_white(drawn_3d, 0.0), change))
        name = f"{change.colour} {change.noun}"
        index.append({"char": change.char, "style": "3d", "name": name, "concept": name})
    found = {entry["concept"] for entry in index if entry["concept"]}
    for concept in concepts.values():
        if concept.name not in found:
            print(f"{concept.char} {concept.name}: not in any package")
    np.save(out / "pictures.npy", np.stack(pictures))
    (out / "index.json").write_text(json.dumps(index, ensure_ascii=False, indent=0), "utf8")
    print(f"{len(pictures)} pictures, {len(found)} concepts of concepts.txt, {len(names)} characters")


if __name__ == "__main__":
    main()
