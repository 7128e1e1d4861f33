import pytest

from rasterloom.train.model.freeze import frozen
from rasterloom.train.model.packed_lm import build_model
from rasterloom.train.model.shapes import parameter_shapes, shape_of


@pytest.fixture
def names(profile):
    return list(parameter_shapes(shape_of("tiny", profile.vocab_size)))


def test_the_names_are_those_of_the_model(names, profile):
    assert sorted(names) == sorted(name for name, _ in build_model("tiny", profile).named_parameters())


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ([], set()),
        (["embeddings", "head"], {"model.embed_tokens.weight", "lm_head.weight"}),
        (["model.layers.*.mlp.up_proj.weight"], {f"model.layers.{n}.mlp.up_proj.weight" for n in range(3)}),
    ],
)
def test_groups_and_patterns(names, patterns, expected):
    assert frozen(names, patterns) == expected


def test_layers_by_number(names):
    of_two = {name for name in names if name.startswith(("model.layers.0.", "model.layers.1."))}
    assert frozen(names, ["layers.0-1"]) == of_two
    assert frozen(names, ["layers.1"]) == {name for name in of_two if ".1." in name}
    assert len(frozen(names, ["layers.1-40"])) == len(of_two)  # those that there are


def test_norms_are_all_norms(names):
    found = frozen(names, ["norms"])
    assert "model.norm.weight" in found and "model.layers.2.self_attn.q_norm.bias" in found
    assert found == {name for name in names if "norm" in name}


@pytest.mark.parametrize("pattern", ["encoder", "layers.3", "layers.7-9", "model.layer.*", "layers"])
def test_a_pattern_that_names_nothing_is_reported_with_what_there_is(names, pattern):
    with pytest.raises(ValueError) as error:
        frozen(names, ["head", pattern])
    assert str(error.value) == (
        f"freeze: {pattern!r} names no parameter; there are embeddings, head, norms, layers.0-2, and "
        "parameters such as model.layers.0.mlp.gate_proj.weight"
    )


def test_something_is_left_to_train(names):
    with pytest.raises(ValueError, match=r"freeze: embeddings, .*, model.norm.\* leave nothing"):
        frozen(names, ["embeddings", "layers.0-2", "head", "model.norm.*"])
