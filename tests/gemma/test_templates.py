"""Chat templates of strangers, in a process of their own."""

import shutil

import pytest

from mlx_medlora.errors import InputError
from mlx_medlora.gemma import templates
from mlx_medlora.gemma.config import read_config
from mlx_medlora.gemma.processor import Encoder, load_processor

TURNS = [
    {"role": "system", "content": [{"type": "text", "text": "Antworte: ä 🩻"}]},
    {"role": "user", "content": [{"type": "text", "text": "Is this\nright?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "CORRECT - yes"}]},
]


@pytest.fixture
def stranger(tiny_medgemma, tmp_path):
    """The embedded model with a template that says the same in other bytes."""
    home = tmp_path / "model"
    shutil.copytree(tiny_medgemma, home)
    file = home / "chat_template.jinja"
    file.write_text(file.read_text() + "{# mine #}")
    return home


def test_both_templates_in_use_are_known(tiny_medgemma, shared):
    assert templates.is_known((tiny_medgemma / "chat_template.jinja").read_text())
    assert templates.is_known((shared / "gemma3-tokenizer" / "chat_template.jinja").read_text())
    assert not templates.is_known("{{ messages }}")


def test_the_process_gives_what_transformers_gives(tiny_medgemma, stranger):
    config = read_config(tiny_medgemma)
    known, other = (Encoder(load_processor(home), config) for home in (tiny_medgemma, stranger))
    for with_answer in (True, False):
        turns = TURNS if with_answer else TURNS[:-1]
        ours, theirs = (one.encode(turns, [], with_answer=with_answer) for one in (known, other))
        assert ours.ids.tolist() == theirs.ids.tolist()
        assert ours.supervised.tolist() == theirs.supervised.tolist()


def test_one_process_serves_all_and_a_fault_ends_none(tmp_path):
    text = "{% if messages[0]['content'] == 'x' %}{{ raise_exception('no') }}{% endif %}{{ bos_token }}"
    render = templates.Renderer(text, {"bos_token": "<bos>"}, tmp_path / "t")
    first = render([{"role": "user", "content": "a"}], prompt=True)
    process = render._child
    with pytest.raises(InputError, match="cannot be used: TemplateError: no"):
        render([{"role": "user", "content": "x"}], prompt=True)
    assert (first, render._child) == ("<bos>", process)


def test_a_process_that_was_ended_is_followed_by_another(tmp_path, monkeypatch):
    monkeypatch.setattr(templates, "SECONDS", 0.3)
    text = (
        "{% if messages[0]['content'] == 'x' %}{% for i in range(9999) %}{% for j in range(9999) %}"
        "{% endfor %}{% endfor %}{% endif %}fine"
    )
    render = templates.Renderer(text, {}, tmp_path / "t")
    with pytest.raises(InputError, match=r"takes longer than 0\.3 s"):
        render([{"role": "user", "content": "x"}], prompt=True)
    monkeypatch.setattr(templates, "SECONDS", 2.0)
    assert render([{"role": "user", "content": "a"}], prompt=True) == "fine"
