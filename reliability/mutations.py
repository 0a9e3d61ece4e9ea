"""Damage to valid files, the same for the same seed: bytes, texts, and the values of JSON and YAML.

A mutation that knows the format reaches code that random bytes never reach. So a JSON or YAML file
is also changed as a tree: a value becomes another one, a key is lost, two parts change places.
"""

import contextlib
import copy
import gzip
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import yaml

TOKENS = (
    *(b"", b"\0", b"\n", b"\r", b"\x1b[31m", b"\xff\xfe", b"\xed\xa0\x80", b'"', b"'", b",", b";"),
    *(b"-1", b"0", b"1e999", b"NaN", b"inf", b"2147483648", b"9" * 5000, b"1_0", b"0x10"),
    *(b"..", b"../../x", b"/etc/passwd", b"C:\\x", b"CON", b"=1+1", b"@x", b"$x$", b"%n%s"),
    *(b"[" * 100_000, b'{"a":' * 20_000, b"{}", b"[]", b"null", b"true", b"#", b"::", b"&a [*a]"),
    *(b"!!python/object/apply:os.system [id]", b"2001-99-99", b"!!int x", b"\t", b"<script>"),
)
"""What is put into a file: numbers at the limits, other folders, parts of other formats."""
NUMBERS = (0, 1, -1, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
_DEEP: Any = None
for _ in range(200):
    _DEEP = [_DEEP]
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, 5e-324),
    *(float("nan"), float("inf"), "", " ", "\0", "a\nb", "\x1b[2J", "../../x", "/etc/passwd", "."),
    *("x" * 300, "=1+1", "<script>", "$x$", "\ud800", "1", "nan", "auto", [], {}, [[]], [None]),
    *({"": None}, {"a": {"a": {}}}, _DEEP, [0] * 3, [1, 2], [-1, 0, 1], ["a", "a"], [True] * 3),
)
"""What a value of a tree becomes."""


def damaged(seeds: Sequence[bytes], kind: str, generator: random.Random) -> bytes:
    """A damaged file.

    Args:
        seeds: valid files.
        kind: ``bytes``, ``gzip``, ``text``, ``json``, ``yaml`` or
            ``safetensors``.
        generator: every choice is of it.
    """
    content = generator.choice(seeds)
    if kind == "gzip" and generator.random() < 0.7:
        inner = damaged([gzip.decompress(seed) for seed in seeds], "bytes", generator)
        return gzip.compress(inner, 1, mtime=0)
    if kind in _TREES and generator.random() < 0.7:
        parse, write = _TREES[kind]
        tree = parse(content)
        for _ in range(generator.choice((1, 1, 1, 2, 4))):
            tree = _changed(tree, generator)
        with contextlib.suppress(RecursionError, TypeError):  # no file can say this tree
            return write(tree)
    for _ in range(generator.choice((1, 1, 2, 3, 8))):
        change = generator.choice(_BINARY if kind in ("bytes", "gzip", "safetensors") else _TEXTUAL)
        content = change(content, seeds, generator)
    return content


def _json(tree: Any) -> bytes:
    return json.dumps(tree).encode()


def _yaml(tree: Any) -> bytes:
    return yaml.safe_dump(tree, sort_keys=False).encode("utf-8", "surrogatepass")


def _safetensors(content: bytes) -> Any:
    """The header of a file of tensors, with the JSON in its metadata, and the tensors."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    about = header.get("__metadata__", {})
    header["__metadata__"] = {name: json.loads(text) for name, text in about.items()}
    return {"header": header, "tensors": content[end:]}


def _whole_safetensors(tree: Any) -> bytes:
    tree = tree if isinstance(tree, dict) else {}
    header, tensors = tree.get("header"), tree.get("tensors")
    if isinstance(header, dict) and isinstance(about := header.get("__metadata__"), dict):
        header["__metadata__"] = {name: json.dumps(value) for name, value in about.items()}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + (tensors if isinstance(tensors, bytes) else b"")


_TREES: dict[str, tuple[Callable[[bytes], Any], Callable[[Any], bytes]]] = {
    "json": (json.loads, _json),
    "yaml": (yaml.safe_load, _yaml),
    "safetensors": (_safetensors, _whole_safetensors),
}


def _changed(tree: Any, generator: random.Random) -> Any:
    """A copy of a tree of which one part is another one."""
    tree = copy.deepcopy(tree)
    places = list(_places(tree))
    if not places:
        return generator.choice(VALUES)
    parent, key = generator.choice(places)
    what = generator.randrange(6)
    if what == 0:
        del parent[key]
    elif what == 1:  # a part of the tree, at another place
        other, other_key = generator.choice(places)
        parent[key] = copy.deepcopy(other[other_key])
    elif what == 2 and isinstance(parent, dict):
        parent[generator.choice(("", "x", "../x", "\0", str(key).upper()))] = parent.pop(key)
    elif what == 3 and isinstance(parent, list):
        parent.insert(key, copy.deepcopy(parent[key]))
    elif what == 4 and isinstance(parent[key], int | float):
        parent[key] = generator.choice((-parent[key], parent[key] * 1e6, str(parent[key])))
    else:
        parent[key] = copy.deepcopy(generator.choice(VALUES))
    return tree


def _places(tree: Any) -> Any:
    """Every place of a value in a tree: what holds it, and its key or number there."""
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield from ((part, key) for key in part)
            waiting += part.values()
        elif isinstance(part, list):
            yield from ((part, number) for number in range(len(part)))
            waiting += part


def _flipped(content: bytes, seeds: Sequence[bytes], generator: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(generator.choice((1, 1, 2, 8))):
        if changed:
            changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
    return bytes(changed)


def _cut(content: bytes, seeds: Sequence[bytes], generator: random.Random) -> bytes:
    return content[: generator.randrange(len(content) + 1)]


def _spliced(content: bytes, seeds: Sequence[bytes], generator: random.Random) -> bytes:
    other = generator.choice(seeds)
    return (
        content[: generator.randrange(len(content) + 1)]
        + other[generator.randrange(len(other) + 1) :]
    )


def _lost(content: bytes, seeds: Sequence[bytes], generator: random.Random) -> bytes:
    start = generator.randrange(len(content) + 1)
    return content[:start] + content[start + generator.choice((1, 4, 16, 200)) :]


def _repeated(content: bytes, seeds: Sequence[bytes], generator: random.Random) -> bytes:
    start = generator.randrange(len(content) + 1)
    end = start + generator.choice((1, 4, 16, 200))
    return content[:end] + content[start:]


def _with_token(content: bytes, seeds: Sequence[bytes], generator: random.Random) -> bytes:
    start = generator.randrange(len(content) + 1)
    return content[:start] + generator.choice(TOKENS) + content[start:]


def _numbered(content: bytes, seeds: Sequence[bytes], generator: random.Random) -> bytes:
    """Bytes overwritten by a number of 1, 2, 4 or 8 bytes, more often near the beginning."""
    size = generator.choice((1, 2, 4, 8))
    number = generator.choice(NUMBERS) % 256**size
    start = int(len(content) * generator.random() ** 3)
    written = generator.choice((number.to_bytes(size, "little"), number.to_bytes(size, "big")))
    return content[:start] + written + content[start + size :]


def _other_word(content: bytes, seeds: Sequence[bytes], generator: random.Random) -> bytes:
    """A word of a text, or a number in it, replaced by a token."""
    words = content.split(generator.choice((b" ", b",", b"\n")))
    number = generator.randrange(len(words))
    at = content.find(words[number])
    return content[:at] + generator.choice(TOKENS) + content[at + len(words[number]) :]


_BINARY = (_flipped, _flipped, _cut, _spliced, _lost, _repeated, _with_token, _numbered, _numbered)
_TEXTUAL = (_flipped, _cut, _spliced, _lost, _repeated, _with_token, _other_word, _other_word)
