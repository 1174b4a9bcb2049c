"""The small part of YAML that a YOLO `data.yaml` uses: paths, a count, and class names as a list or a mapping."""

from __future__ import annotations

import json
import re

from leandet.errors import UserError

Value = str | list[str] | dict[str, str]
WANTED = frozenset({"path", "train", "val", "valid", "test", "nc", "names", "kpt_shape"})
_TOKEN = re.compile(r"""\s*("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^,:\[\]{}"']+[^,:\[\]{}]*|[,:\[\]{}])""")


def parse_yaml(text: str, name: str) -> dict[str, Value]:
    """The wanted top-level keys of a `data.yaml`; other keys are passed over.

    Args:
        text: the whole file.
        name: stands in messages.

    Returns:
        each of path, train, val, test, nc, names, kpt_shape that is there: text, list or mapping (scalars as text).

    Raises:
        UserError: with name:line, if a wanted key is written in a way that is not understood.
    """
    found: dict[str, Value] = {}
    for key, line, block in _blocks(text):
        if key not in WANTED:
            continue
        where = f"{name}:{line}"
        first = block[0].strip()
        if first[:1] in ("[", "{"):
            found[key] = _flow(" ".join(row.strip() for row in block), where)
        elif first:
            found[key] = _scalar(first, where)
        elif len(block) > 1:
            found[key] = _indented(block[1:], where)
    return found


def _blocks(text: str) -> list[tuple[str, int, list[str]]]:
    """(key, line number, [rest of its line, lines below it]) for each top-level key, comments removed."""
    blocks: list[tuple[str, int, list[str]]] = []
    for number, line in enumerate(text.splitlines(), 1):
        bare = _without_comment(line)
        if not bare.strip() or bare.startswith(("---", "...")):
            continue
        match = re.match(r"""["']?(\w+)["']?\s*:(?:\s+|$)(.*)""", bare)
        if match:
            blocks.append((match[1], number, [match[2]]))
        elif blocks:
            blocks[-1][2].append(bare)
    return blocks


def _without_comment(line: str) -> str:
    quote, escaped = "", False
    for at, char in enumerate(line):
        if escaped:
            escaped = False
        elif quote:
            escaped = quote == '"' and char == "\\"
            quote = "" if char == quote else quote
        elif char in "\"'" and (at == 0 or line[at - 1] in " ,[{:-"):
            quote = char
        elif char == "#" and (at == 0 or line[at - 1].isspace()):
            return line[:at].rstrip()
    return line.rstrip()


def _scalar(text: str, where: str) -> str:
    text = text.strip()
    if text[:1] == '"':
        try:
            value = json.loads(text)
        except ValueError as error:
            raise UserError(f"{where}: {text[:60]} is not a quoted text that can be read: mend the quotes.") from error
        return str(value)
    if text[:1] == "'":
        if len(text) < 2 or text[-1] != "'":
            raise UserError(f"{where}: {text[:60]} has no closing quote: add it.")
        return text[1:-1].replace("''", "'")
    if text[:1] in ("&", "*", "!", "|", ">", "%", "@", "`"):
        raise UserError(f"{where}: {text[:60]} uses YAML that is not read here: write plain text, a list or a mapping.")
    return text


def _indented(lines: list[str], where: str) -> Value:
    rows = [line.strip() for line in lines]
    if all(row.startswith("- ") or row == "-" for row in rows):
        return [_scalar(row[1:], where) for row in rows]
    pairs: dict[str, str] = {}
    for row in rows:
        match = re.fullmatch(r"""(\d+|"[^"]*"|'[^']*'|[^\s:]+)\s*:\s+(.+)""", row)
        if not match:
            raise UserError(f"{where}: '{row[:60]}' is neither '- name' nor 'number: name': write one of the two.")
        pairs[_scalar(match[1], where)] = _scalar(match[2], where)
    return pairs


def _flow(text: str, where: str) -> Value:
    """`[a, 'b']` or `{0: a, 1: b}` on one or several lines."""
    parts: list[str] = []
    at = 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if not match:
            raise UserError(f"{where}: '{text[at : at + 40]}' cannot be read: mend the quotes.")
        parts.append(match[1].strip())
        at = match.end()
    closing = {"[": "]", "{": "}"}[parts[0]]
    if parts[-1] != closing or any(part in ("[", "]", "{", "}") for part in parts[1:-1]):
        raise UserError(f"{where}: the list or mapping must be flat and end with '{closing}'.")
    groups: list[list[str]] = [[]]
    for part in parts[1:-1]:
        if part == ",":
            groups.append([])
        else:
            groups[-1].append(part)
    groups = [group for group in groups if group]
    if closing == "]":
        return [_scalar("".join(group), where) for group in groups]
    if any(len(group) != 3 or group[1] != ":" for group in groups):
        raise UserError(f"{where}: a mapping is written {{0: name, 1: name}}.")
    return {_scalar(key, where): _scalar(value, where) for key, _, value in groups}
