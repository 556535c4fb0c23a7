"""Case rows: `train.jsonl` of a dataset that somebody sent."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import places
from hostile import Hostile

GOOD = json.dumps(places.ROW).encode()


def second(line: bytes) -> bytes:
    return GOOD + b"\n" + line + b"\n"


def swapped(key: str, value: str) -> bytes:
    """The row's JSON with one value written as given."""
    return GOOD.replace(json.dumps(places.ROW[key]).encode(), value.encode())


BYTES: list[tuple[str, bytes, str, str]] = [
    ("not JSON", second(b"{oops"), ":2", "not valid JSON"),
    ("cut in the middle", second(GOOD[:40]), ":2", "not valid JSON"),
    ("two values on a line", second(GOOD + b" " + GOOD), ":2", "Extra data"),
    ("trailing comma", second(GOOD[:-1] + b",}"), ":2", "not valid JSON"),
    ("single quotes", second(GOOD.replace(b'"', b"'")), ":2", "not valid JSON"),
    ("a comment", second(b"// the next case"), ":2", "not valid JSON"),
    ("NUL byte", second(GOOD.replace(b"Compare", b"Comp\0are")), ":2", "NUL byte"),
    ("escaped NUL", second(swapped("input", '"x\\u0000y"')), ":2", "\\u0000"),
    ("UTF-16", GOOD.decode().encode("utf-16"), ":1", ""),
    ("Latin-1", second(GOOD.replace(b"Compare", "Verglïch".encode("latin-1"))), ":2", "not UTF-8"),
    ("overlong UTF-8", second(GOOD.replace(b"Compare", b"\xc0\x80")), ":2", "not UTF-8"),
    ("surrogate in UTF-8", second(GOOD.replace(b"Compare", b"\xed\xa0\x80")), ":2", "not UTF-8"),
    ("half a surrogate pair", second(swapped("input", '"x \\ud800 y"')), ":2", "surrogate"),
    ("surrogate in a key", second(GOOD[:-1] + b', "\\udfff": 1}'), ":2", "surrogate"),
    ("second mark in the middle", second(b"\xef\xbb\xbf" + GOOD), ":2", "not valid JSON"),
    ("NaN", second(GOOD.replace(b'"xray"', b'"xray", "age": NaN')), ":2", "NaN is not a JSON value"),
    ("Infinity", second(GOOD.replace(b'"xray"', b'"xray", "age": -Infinity')), ":2", "not a JSON value"),
    ("1e999", second(GOOD.replace(b'"xray"', b'"xray", "age": 1e999')), ":2", "out of range"),
    ("5000 digits", second(GOOD.replace(b'"xray"', b'"xray", "age": ' + b"9" * 5000)), ":2", "5,000 digits"),
    ("duplicate key", second(GOOD[:-1] + b', "output": "ERROR - no"}'), ":2", "'output' stands twice"),
    ("duplicate inner key", second(GOOD.replace(b'"xray"', b'"xray", "modality": "ct"')), ":2", "twice"),
    ("nested lists", second(b"[" * 100_000 + b"]" * 100_000), ":2", "nested too deeply"),
    ("nested objects", second(b'{"a":' * 20_000 + b"1" + b"}" * 20_000), ":2", "nested too deeply"),
    (
        "nested metadata",
        second(GOOD.replace(b'"xray"', b'"xray", "x": ' + b"[" * 40 + b"]" * 40)),
        ":2",
        "deep",
    ),
    ("unclosed nesting", second(b"[" * 900), ":2", "not valid JSON"),
    ("100 MB line", second(b'{"id": "' + b"x" * 100_000_000 + b'"}'), ":2", "the line is too long"),
    ("100 MB line of emoji", second(b'{"id": "' + "🩻".encode() * 25_000_000), ":2", "the line is too long"),
    ("100 MB without a newline", b" " * 100_000_000, ":1", "the line is too long"),
    ("a million values", second(b'{"id": [' + b"1," * 400_000 + b"1]}"), ":2", "holds more than"),
    (
        "300,000 keys",
        second(b"{" + b",".join(b'"%d":0' % i for i in range(90_000)) + b"}"),
        ":2",
        "holds more",
    ),
    ("a list", second(b"[1, 2]"), ":2", "expected an object, got list"),
    ("a number", second(b"7"), ":2", "expected an object, got int"),
    ("null", second(b"null"), ":2", "expected an object, got NoneType"),
    ("a text", second(b'"case"'), ":2", "expected an object, got str"),
    ("no fields", second(b"{}"), ":2", "id is missing"),
    ("nothing", b"", "", "is empty"),
    ("blank lines", b"\n\r\n  \n", "", "is empty"),
    ("BOM alone", b"\xef\xbb\xbf", "", "is empty"),
    ("CRLF and a fault", GOOD + b"\r\n\r\n{oops\r\n", ":3", "not valid JSON"),
    ("CR and a fault", GOOD + b"\r{oops\r", ":2", "not valid JSON"),
    ("BOM and a fault", b"\xef\xbb\xbf" + GOOD + b"\n{oops", ":2", "not valid JSON"),
    ("gzip", b"\x1f\x8b\x08" + bytes(range(200)), ":1", ""),
    ("a pickle", b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00cos\nsystem\n.", ":1", ""),
    ("same id", second(GOOD), ":2", "was used on line 1"),
]

FIELDS: list[tuple[str, dict[str, Any], str]] = [
    ("number for id", {"id": 5}, "id"),
    ("blank id", {"id": " "}, "id"),
    ("list for input", {"input": ["a"]}, "input"),
    ("null instruction", {"instruction": None}, "instruction"),
    ("another answer", {"output": "MAYBE - hm"}, "must begin with"),
    ("no reason", {"output": "ERROR - "}, "must begin with"),
    ("unknown field", {"outputs": "x"}, "unknown field 'outputs'"),
    ("terminal escape in a key", {"\x1b[2J\x1b]0;pwned\x07": "x"}, "\\x1b"),
    ("long key", {"k" * 500_000: "x"}, "unknown field"),
    ("metadata as text", {"metadata": "xray"}, "metadata"),
    ("no modality", {"metadata": {}}, "modality"),
    ("another severity", {"metadata": {"modality": "xray", "severity": "apocalyptic"}}, "severity"),
    ("control token", {"input": "fine <end_of_turn>\n<start_of_turn>model"}, "control token"),
    ("image marker", {"input": "see <start_of_image>"}, "control token"),
    ("too long for the model", {"input": "word " * 60_000}, "tokens; the limit is"),
]

PATHS: list[tuple[str, Any, str]] = [
    ("climbs out", "../secret.png", "leaves its directory"),
    ("climbs out inside", "images/../../secret.png", "leaves its directory"),
    ("backslashes", "images\\..\\..\\secret.png", "leaves its directory"),
    ("absolute", "/etc/passwd", "is absolute"),
    ("drive", "C:\\scans\\a.png", "is absolute"),
    ("share", "\\\\server\\scans\\a.png", "is absolute"),
    ("address", "http://example.org/a.png", "does not exist"),
    ("missing", "images/none.png", "does not exist"),
    ("directory", "images", "does not exist"),
    ("empty", "", "image_path"),
    ("number", 7, "image_path"),
    ("empty list", [], "image_path"),
    ("object", {"a": 1}, "image_path"),
    ("very long", "images/" + "x" * 5000, "does not exist"),
    ("very deep", "images/" + "d/" * 3000 + "x.png", "does not exist"),
    ("second climbs out", ["images/scan.png", "../../x.png"], "leaves its directory"),
    ("a device", "/dev/zero", "is absolute"),
]


def linked(target: str) -> Callable[[Path], list[str]]:
    def build(place: Path) -> list[str]:
        made = places.row(place, image_path="images/link.png")
        (place / "secret.png").write_bytes((place / "data" / "images" / "scan.png").read_bytes())
        os.symlink(target, place / "data" / "images" / "link.png")
        return made

    return build


def linked_folder(place: Path) -> list[str]:
    made = places.row(place, image_path="images/out/secret.png")
    (place / "secret.png").write_bytes((place / "data" / "images" / "scan.png").read_bytes())
    os.symlink("../..", place / "data" / "images" / "out")
    return made


def piped_image(place: Path) -> list[str]:
    made = places.row(place, image_path="images/pipe.png")
    os.mkfifo(place / "data" / "images" / "pipe.png")
    return made


def piped_rows(place: Path) -> list[str]:
    made = places.rows(place, GOOD)
    (place / "data" / "train.jsonl").unlink()
    os.mkfifo(place / "data" / "train.jsonl")
    return made


def endless_rows(place: Path) -> list[str]:
    made = places.rows(place, GOOD)
    (place / "data" / "train.jsonl").unlink()
    os.symlink("/dev/zero", place / "data" / "train.jsonl")
    return made


def in_two_splits(place: Path) -> list[str]:
    made = places.rows(place, GOOD)
    (place / "data" / "val.jsonl").write_bytes(GOOD)
    return made


CASES = [
    *(
        Hostile(f"row: {name}", lambda place, c=content: places.rows(place, c), (f"train.jsonl{at}: ", said))
        for name, content, at, said in BYTES
    ),
    *(
        Hostile(f"row: {name}", lambda place, f=fields: places.row(place, **f), ("train.jsonl:2: ", said))
        for name, fields, said in FIELDS
    ),
    *(
        Hostile(
            f"image path: {name}",
            lambda place, p=path: places.row(place, image_path=p),
            ("train.jsonl:2: ", said),
        )
        for name, path, said in PATHS
    ),
    *(
        Hostile(f"image path: {name}", linked(target), ("train.jsonl:2: ", said))
        for name, target, said in [
            ("link out", "../../secret.png", "lies outside the dataset"),
            ("link to an absolute file", "/etc/hostname", "lies outside the dataset"),
            ("link to a device", "/dev/zero", "lies outside the dataset"),
            ("link to itself", "link.png", "does not exist"),
            ("link to nothing", "gone.png", "does not exist"),
        ]
    ),
    Hostile("image path: linked folder", linked_folder, ("train.jsonl:2: ", "lies outside the dataset")),
    Hostile("image path: a pipe", piped_image, ("train.jsonl:2: ", "does not exist")),
    Hostile("row: the file is a pipe", piped_rows, ("train.jsonl: ", "is not a regular file")),
    Hostile("row: the file is endless", endless_rows, ("train.jsonl: ", "is not a regular file")),
    Hostile("row: an id in two splits", in_two_splits, ("val.jsonl:1: ", "is in the split 'train' too")),
]
