"""Taking secrets and names of people out of what is shown to others."""

from __future__ import annotations

import getpass
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STARS = "***"
SECRET_NAME = re.compile(
    r"(api[_-]?key|apikey|token|secret|password|passwd|passphrase|authorization|credential|cookie|private[_-]?key)",
    re.IGNORECASE,
)
NO_SECRETS = re.compile(
    r"tokens$|tokenizer|max_token|tokens?_(?:count|normalization|weight|merg|ids|limit|per)", re.IGNORECASE
)
"""Names that hold the word and are settings of models."""
SECRETS = re.compile(
    r"""
    \b(?:limner_|(?:sk|pk|rk|hf|ghp|gho|ghu|ghs|github_pat|glpat|xox[abprs]|comfyui|civitai|r8|tgp|fal)[_-])
    (?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{16,}
    | AKIA[0-9A-Z]{16}
    | AIza[0-9A-Za-z_-]{30,}
    | eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?
    | -----BEGIN[^-]+PRIVATE\ KEY-----.*?(?:-----END[^-]+PRIVATE\ KEY-----|\Z)
    """,
    re.VERBOSE | re.DOTALL,
)
"""What keys of known services and JSON Web Tokens look like."""
BEARER = re.compile(r"\b(Bearer|Basic|Token)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
ASSIGNED = re.compile(
    r"""(?P<name>["']?[\w-]*(?:api[_-]?key|token|secret|password|passwd|authorization)[\w-]*["']?\s*(?:=|:)\s*)"""
    r"""(?P<value>"[^"\n]*"|'[^'\n]*'|[^\s"'&,;}\])]+)""",
    re.IGNORECASE,
)
FLAG = re.compile(r"(--api-key[ =])\S+")
USER_IN_ADDRESS = re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")
HOMES = re.compile(r"(?P<head>/home/|/Users/|[A-Za-z]:\\+Users\\+)[^/\\\s\"':]+")


def is_secret(name: str) -> bool:
    """Whether a value of that name is to be kept back."""
    return SECRET_NAME.search(name) is not None and NO_SECRETS.search(name) is None


def redact_text(text: str) -> str:
    """A text without keys, passwords, and the names of home folders."""
    for pattern, with_ in ((SECRETS, STARS), (BEARER, rf"\1 {STARS}"), (FLAG, rf"\1{STARS}")):
        text = pattern.sub(with_, text)
    text = ASSIGNED.sub(_keep_name, text)
    text = USER_IN_ADDRESS.sub(f"{STARS}:{STARS}", text)
    home = str(Path.home())
    if len(home) > 1:
        text = text.replace(home, "~")
    text = HOMES.sub(r"\g<head>USER", text)
    user = _user()
    return re.sub(rf"(?<![\w-]){re.escape(user)}(?![\w-])", "USER", text) if len(user) > 2 and user != "root" else text


def _keep_name(found: re.Match[str]) -> str:
    name = found["name"]
    return found[0] if not is_secret(name) or found["value"] in ("null", "None", "true", "false") else name + STARS


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""


def redact(value: Any, secret: bool = False) -> Any:
    """JSON without secrets: under names that mean one, and in texts that look like one.

    A node whose kind or inputs speak of keys loses every text of its widgets, which have no names of their own.
    secret: whether the value belongs to such a name.
    """
    if isinstance(value, Mapping):
        widgets = speaks_of_keys(value)
        return {
            redact_text(str(name)): redact(
                one, secret or is_secret(str(name)) or (widgets and name == "widgets_values")
            )
            for name, one in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(one, secret) for one in value]
    if isinstance(value, str):
        return STARS if secret and value else redact_text(value)
    return value


def speaks_of_keys(node: Mapping[Any, Any]) -> bool:
    """Whether an object is a node of a saved workflow that takes a secret in a widget."""
    if "widgets_values" not in node:
        return False
    names = [str(node.get("type", "")), str(node.get("title", ""))]
    names += [str(port.get("name", "")) for port in node.get("inputs") or () if isinstance(port, Mapping)]
    return any(is_secret(name) for name in names)
