"""Tables for `prepare`, settings in YAML, and images."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import places
from hostile import Hostile
from PIL import Image

HEAD = places.COLUMNS.encode()
GOOD = ",".join(places.CELLS).encode()


def after(*lines: bytes) -> bytes:
    return b"\n".join([HEAD, GOOD, *lines])


TABLES: list[tuple[str, str, bytes, str, str]] = [
    ("NUL in CSV", "csv", after(b"b,xray,scan.png,40,F,no\0ne,rest,CORRECT"), ":3", "NUL byte"),
    ("unclosed quote", "csv", after(b'b,"xray,scan.png,40,F,none,rest,CORRECT', b"x"), ":3", "not valid CSV"),
    (
        "huge field",
        "csv",
        after(b"b,xray,scan.png,40,F," + b"x" * 300_000 + b",r,CORRECT"),
        ":3",
        "field limit",
    ),
    ("huge quoted field", "csv", after(b'b,"' + b"x\n" * 200_000 + b'",a'), ":3", "field limit"),
    ("text behind a quote", "csv", after(b'b,"xray"oops,scan.png,40,F,none,rest,CORRECT'), ":3", "not valid"),
    ("100 MB line", "csv", after(b"x" * 100_000_000), ":3", "the line is too long"),
    ("too few cells", "csv", after(b"b,xray"), ":3", "2 cells, the header 8"),
    ("too many cells", "csv", after(GOOD + b",,,"), ":3", "cells, the header 8"),
    ("header alone", "csv", HEAD, "", "no cases"),
    ("empty", "csv", b"", "", "no cases"),
    ("a column twice", "csv", HEAD + b",id\n" + GOOD + b",b", ":1", "twice"),
    ("a nameless column", "csv", HEAD + b",\n" + GOOD + b",b", ":1", "without a name"),
    ("2000 columns", "csv", HEAD + b"".join(b",c%d" % i for i in range(2000)) + b"\n", ":1", "columns"),
    ("misspelt column", "csv", HEAD.replace(b"finding", b"findings") + b"\n" + GOOD, ":1", "did you mean"),
    ("no label", "csv", HEAD.replace(b",label", b",verdict") + b"\n" + GOOD, ":1", "lacks the column"),
    ("Latin-1", "csv", after("b,xray,scan.png,40,F,Fälle,rest,CORRECT".encode("latin-1")), ":3", "UTF-8"),
    ("UTF-16", "csv", after(b"").decode().encode("utf-16"), ":1", ""),
    ("two million short rows", "csv", HEAD + b"\n" + b"a\n" * 2_100_000, "", "1000 or more rows are wrong"),
    ("five thousand bad rows", "csv", HEAD + b"\n" + b"a\n" * 5000, "", "1000 or more rows are wrong"),
    ("a workbook", "xlsx", b"PK\x03\x04", "", "is not known"),
    ("a pickle", "pkl", b"\x80\x04.", "", "is not known"),
    ("an array of numpy", "npy", b"\x93NUMPY", "", "is not known"),
    ("JSON object", "json", b'{"cases": []}', ":1", "expected an array"),
    ("JSON scalar", "json", b"17", ":1", "expected an array"),
    ("JSON empty", "json", b"", ":1", "not valid JSON"),
    ("JSON empty array", "json", b"[]", "", "no cases"),
    ("JSON array of numbers", "json", b"[1, 2]", "", "expected an object, got int"),
    ("JSON unclosed", "json", b'[\n{"id": 1}', ":2", "not valid JSON"),
    ("JSON without a comma", "json", b'[\n{"id": 1}\n{"id": 2}]', ":3", "expected ',' or ']'"),
    ("JSON trailing comma", "json", b'[\n{"id": 1},\n]', ":3", "not valid JSON"),
    ("JSON and more", "json", b"[{}] []", ":1", "stands after the array"),
    ("JSON NaN on line 3", "json", b'[\n{"id": 1},\n{"id": NaN}]', ":3", "NaN is not a JSON value"),
    ("JSON twice on line 2", "json", b'[\n{"id": 1, "id": 2}]', ":2", "'id' stands twice"),
    ("JSON nested", "json", b"[" * 60 + b"]" * 60, ":1", "nested too deeply"),
    ("JSON very nested", "json", b"[" * 200_000, ":1", "nested too deeply"),
    ("JSON of 5 million", "json", b"[" + b"{}," * 5_000_000 + b"{}]", "", "holds more than"),
    ("JSON of 120 MB", "json", b'["' + b"x" * 120_000_000 + b'"]', "", "is the most that is read"),
    ("JSON of 2000 names", "json", json.dumps([{f"c{i}": 1} for i in range(2000)]).encode(), ":1", "columns"),
    ("JSONL not JSON", "jsonl", b'{"id": 1}\n{oops', ":2", "not valid JSON"),
    ("JSONL of empty rows", "jsonl", b"{}\n" * 3_000_000, "", "1000 or more rows are wrong"),
    ("JSONL of lists", "jsonl", b"[]\n[]", "", "expected an object, got list"),
]

CELLS: list[tuple[str, dict[str, str], str]] = [
    ("another label", {"label": "PERHAPS"}, "ERROR or CORRECT"),
    ("formula as label", {"label": "=1+1"}, "ERROR or CORRECT"),
    ("formula as image", {"image": "=cmd|'/C calc'!A0"}, "is not in"),
    ("same id", {"id": "a"}, "was used on line 2"),
    ("no finding", {"finding": ""}, "finding"),
    ("image climbs out", {"image": "../scan.png"}, "leaves its directory"),
    ("absolute image", {"image": "/etc/passwd"}, "is absolute"),
    ("image with a long name", {"image": "x" * 4000}, "is not in"),
    ("image with a deep name", {"image": "d/" * 3000 + "x.png"}, "is not in"),
    ("missing image", {"image": "none.png"}, "is not in"),
    ("folder as image", {"image": "."}, "is not in"),
]

YAML: list[tuple[str, bytes, str, str]] = [
    (
        "builds an object",
        b"lr: 1\nrank: !!python/object/apply:os.system ['id']\n",
        ":2",
        "could not determine",
    ),
    ("builds a module", b"!!python/module:os\n", ":1", ""),
    ("another tag", b"rank: !secret 1\n", ":1", "could not determine"),
    ("an anchor", b"lr: 0.1\nrank: &a 4\n", ":2", "anchors"),
    (
        "a billion laughs",
        b"a: &a [x,x,x,x,x,x,x,x,x]\n"
        + b"\n".join(
            b"%c: &%c [%s]" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 9)) for i in range(20)
        ),
        ":1",
        "anchors",
    ),
    ("an endless alias", b"target: &a [*a]\n", ":1", "anchors"),
    ("merged keys", b"<<: {rank: 4}\n", ":1", "name of an option"),
    ("nested lists", b"target: " + b"[" * 3000, ":1", "nested too deeply"),
    ("nested mappings", b"{a: " * 3000, ":1", "nested too deeply"),
    ("a date that is none", b"lr: 2024-13-45\n", ":1", "not a value"),
    ("an integer that is none", b"rank: !!int abc\n", ":1", "not a value"),
    ("5000 digits", b"lr: 0.1\nrank: " + b"9" * 5000, ":2", ""),
    ("a key twice", b"lr: 0.1\nrank: 4\nlr: 0.2\n", ":3", "given twice"),
    ("a list as key", b"? [a, b]\n: 1\n", ":1", "name of an option"),
    ("a number as key", b"1: 2\n", ":1", "name of an option"),
    ("a list", b"- lr\n", ":1", "expected a mapping"),
    ("a text", b"lr\n", ":1", "expected a mapping"),
    ("two documents", b"lr: 0.1\n---\nlr: 0.2\n", ":2", "not valid YAML"),
    ("tab indent", b"lr:\n\t- 1\n", ":2", "not valid YAML"),
    ("unclosed", b"lr: [1\n", "", "not valid YAML"),
    ("NUL", b"lr: 0.1\nrank: \0\n", ":2", "NUL byte"),
    ("control character", b"lr: 0.1\nrank: \x07\n", ":2", "not valid YAML"),
    ("Latin-1", b"lr: 0.1\nrank: \xe4\n", ":2", "not UTF-8"),
    ("100 MB", b"#" * 100_000_000, "", "is the most that is read"),
    ("unknown option", b"lr: 0.1\nlearning_rate: 2\n", ":2", "unknown option"),
    ("negative rank", b"rank: -1\n", ":1", "rank"),
    ("rank of a billion", b"rank: 1000000000\n", ":1", "rank"),
    ("NaN rate", b"lr: .nan\n", ":1", "lr"),
    ("infinite rate", b"lr: .inf\n", ":1", "lr"),
    ("text as rate", b"lr: fast\n", ":1", "lr"),
    ("list as rate", b"lr: [1, 2]\n", ":1", "lr"),
    ("mapping as target", b"target: {a: 1}\n", ":1", "target"),
]


def encoded(kind: str, mode: str = "RGB", size: tuple[int, int] = (32, 32), **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, options.pop("color", 0)).save(stream, kind, **options)
    return stream.getvalue()


def png(width: int, height: int, data: bytes = b"", depth: int = 8, colour: int = 0) -> bytes:
    """A PNG with a header of its own."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def many_scans() -> bytes:
    """A progressive JPEG whose last scan stands there a thousand times."""
    whole = encoded("JPEG", "L", (2000, 2000), progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * 1000 + b"\xff\xd9"


PNG, JPEG, TIFF, GIF = (encoded(kind) for kind in ("PNG", "JPEG", "TIFF", "GIF"))
IMAGES: list[tuple[str, str, bytes, str]] = [
    ("empty", "x.png", b"", "is empty"),
    ("text", "x.png", b"patient,age\n", "not an image"),
    ("HTML", "x.jpg", b"<html><script>alert(1)</script>", "not an image"),
    ("SVG", "x.svg", b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "not an image"),
    (
        "EPS, which runs Ghostscript",
        "x.eps",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "not an image",
    ),
    ("PDF", "x.pdf", b"%PDF-1.4\n", "not an image"),
    ("DICOM", "x.dcm", b"\0" * 128 + b"DICM" + b"\0" * 100, "not an image"),
    ("a zip", "x.png", b"PK\x03\x04" + b"\0" * 60, "not an image"),
    ("a pickle", "x.png", b"\x80\x04cos\nsystem\n.", "not an image"),
    ("PNG cut short", "x.png", PNG[: len(PNG) // 2], "damaged"),
    ("JPEG cut short", "x.jpg", JPEG[: len(JPEG) - 40], "damaged"),
    ("JPEG header alone", "x.jpg", JPEG[:20], ""),
    ("TIFF cut short", "x.tiff", TIFF[:-100], ""),
    ("GIF cut short", "x.gif", GIF[:20], ""),
    ("PNG signature alone", "x.png", PNG[:8], ""),
    ("wrong checksum", "x.png", PNG[:40] + b"\xff" + PNG[41:], ""),
    ("zero wide", "x.png", png(0, 10), ""),
    ("zero high", "x.png", png(10, 0), ""),
    ("2 x 50", "x.png", encoded("PNG", "L", (2, 50)), "only 2 x 50 pixels"),
    ("four thousand million pixels", "x.png", png(2**31 - 1, 2**31 - 1), ""),
    ("claims 60000 x 60000", "x.png", png(60_000, 60_000), "too large"),
    ("claims 9000 x 9000", "x.png", png(9000, 9000), "the limit is 64,000,000"),
    ("bomb of 400 million pixels", "x.png", encoded("PNG", "1", (20_000, 20_000)), "too large"),
    ("bomb of 100 million pixels", "x.png", encoded("PNG", "L", (10_000, 10_000)), "the limit is"),
    ("bomb in TIFF", "x.tiff", encoded("TIFF", "1", (20_000, 20_000), compression="group4"), "too large"),
    ("bomb in GIF", "x.gif", encoded("GIF", "L", (60_000, 1500)), "the limit is"),
    ("claims more than it has", "x.png", png(4000, 4000, b"\0" * 100), ""),
    ("a thousand scans", "x.jpg", many_scans(), "scans"),
    ("no such depth", "x.png", png(9, 9, b"\0" * 99, depth=3), ""),
    ("no such colour", "x.png", png(9, 9, b"\0" * 99, colour=5), ""),
    (
        "text of 100 MB in a PNG",
        "x.png",
        PNG[:33]
        + (
            lambda body: (
                struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
            )
        )(b"k\0\0" + zlib.compress(b"x" * 100_000_000))
        + PNG[33:],
        "damaged",
    ),
]


def linked_scan(target: str) -> Any:
    def build(place: Path) -> list[str]:
        made = places.cells(place, image="link.png")
        (place / "secret.png").write_bytes(PNG)
        os.symlink(target, place / "scans" / "link.png")
        return made

    return build


def piped(place: Path) -> list[str]:
    made = places.table(place, HEAD)
    (place / "cases.csv").unlink()
    os.mkfifo(place / "cases.csv")
    return made


def endless(place: Path) -> list[str]:
    made = places.table(place, HEAD)
    (place / "cases.csv").unlink()
    os.symlink("/dev/zero", place / "cases.csv")
    return made


def directory(place: Path) -> list[str]:
    made = places.table(place, HEAD)
    (place / "cases.csv").unlink()
    (place / "cases.csv").mkdir()
    return made


def endless_settings(place: Path) -> list[str]:
    made = places.options(place, b"")
    (place / "recipe.yaml").unlink()
    os.symlink("/dev/zero", place / "recipe.yaml")
    return made


CASES = [
    *(
        Hostile(
            f"table: {name}",
            lambda place, c=content, k=kind: places.table(place, c, k),
            (f"cases.{kind}{at}: ", said),
        )
        for name, kind, content, at, said in TABLES
    ),
    *(
        Hostile(f"cell: {name}", lambda place, c=cells: places.cells(place, **c), ("cases.csv:3: ", said))
        for name, cells, said in CELLS
    ),
    *(
        Hostile(
            f"YAML: {name}", lambda place, c=content: places.options(place, c), (f"recipe.yaml{at}: ", said)
        )
        for name, content, at, said in YAML
        if at
    ),
    *(
        Hostile(f"YAML: {name}", lambda place, c=content: places.options(place, c), ("recipe.yaml:", said))
        for name, content, at, said in YAML
        if not at
    ),
    *(
        Hostile(f"image: {name}", lambda place, c=content, n=file: places.image(place, c, n), (file, said))
        for name, file, content, said in IMAGES
    ),
    *(
        Hostile(f"image: {name}", linked_scan(target), ("cases.csv:3: ", said))
        for name, target, said in [
            ("link out", "../secret.png", "lies outside"),
            ("link to a device", "/dev/zero", "lies outside"),
            ("link to itself", "link.png", "link.png"),
        ]
    ),
    Hostile("table: a pipe", piped, ("cases.csv: ", "not a regular file")),
    Hostile("table: endless", endless, ("cases.csv: ", "not a regular file")),
    Hostile("table: a directory", directory, ("cases.csv: ", "is a directory")),
    Hostile("YAML: endless", endless_settings, ("recipe.yaml: ", "not a regular file")),
]
