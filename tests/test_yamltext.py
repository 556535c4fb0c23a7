import pytest
import yaml

from mlx_medlora.errors import InputError
from mlx_medlora.yamltext import read_mapping


@pytest.mark.parametrize(
    "text",
    ["", "# nothing\n", "lr: 2e-3\ntarget: [q_proj, v_proj]\nlayers: last:4\n", "a: {b: [1, null, yes]}\n"],
)
def test_plain_settings_are_what_yaml_says(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    values, lines = read_mapping(path)
    assert values == (yaml.safe_load(text) or {})
    assert list(lines) == list(values)


def test_each_option_has_its_line(tmp_path):
    (tmp_path / "x.yaml").write_text("# a recipe\nlr: 1\n\nrank:\n  4\n")
    assert read_mapping(tmp_path / "x.yaml")[1] == {"lr": 2, "rank": 4}


def test_an_alias_is_refused_with_its_line(tmp_path):
    (tmp_path / "x.yaml").write_text("lr: 1\na: &x [1]\nb: *x\n")
    with pytest.raises(InputError, match=r"x\.yaml:2: anchors and aliases"):
        read_mapping(tmp_path / "x.yaml")
