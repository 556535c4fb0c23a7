import os

import pytest

from mlx_medlora import textfiles
from mlx_medlora.errors import InputError
from mlx_medlora.textfiles import read_lines, read_text


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"\xef\xbb\xbfa\r\nb\r\n", ["a", "b"]),
        (b"a\rb", ["a", "b"]),
        (b"a\n\n\xc3\xa4\n", ["a", "", "ä"]),
        (b"", []),
        ("🩻".encode(), ["🩻"]),
    ],
)
def test_line_ends_and_byte_order_marks_of_every_kind(tmp_path, content, lines):
    path = tmp_path / "x"
    path.write_bytes(content)
    assert list(read_lines(path)) == list(enumerate(lines, start=1))
    assert read_text(path) == content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def test_a_file_longer_than_a_block_keeps_its_line_numbers(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"x" * 9000 + b"\nab\n" + b"\xff\n")
    found = read_lines(path)
    assert [next(found)[0], next(found)[0]] == [1, 2]
    with pytest.raises(InputError, match=r"x:3: not UTF-8"):
        next(found)


def test_limits(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_text("abcdef\n")
    with pytest.raises(InputError, match="has 7 bytes; 3 is the most"):
        read_text(path, 3)
    assert read_text(path, 7) == "abcdef\n"
    monkeypatch.setattr(textfiles, "LINE_CHARACTERS", 7)
    assert list(read_lines(path)) == [(1, "abcdef")]
    monkeypatch.setattr(textfiles, "LINE_CHARACTERS", 6)
    with pytest.raises(InputError, match="x:1: the line is too long"):
        list(read_lines(path))


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, said in (("none", "no such file"), ("", "is a directory"), ("pipe", "not a regular file")):
        for read in (read_text, lambda path: list(read_lines(path))):
            with pytest.raises(InputError, match=said):
                read(tmp_path / name)
