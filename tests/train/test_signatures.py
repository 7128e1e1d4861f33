"""Our calls fit the oldest and the newest versions that pyproject.toml allows, installed or not.

tests/data/signatures.json has the signatures, read off the packages' own files.
"""

import ast
import inspect
import json
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from packaging.requirements import Requirement

import rasterloom
from rasterloom.train.model import attention
from rasterloom.train.model.attention import Segments, packed_attention

ROOT = Path(__file__).parents[2]
SIGNATURES = json.loads((ROOT / "tests/data/signatures.json").read_text())
KERNELS = [
    (package, version, kernel, where)
    for package, kernel, where in (
        ("torch", "torch_varlen", "torch.nn.attention.varlen"),
        ("flash_attn", "flash_attn", "flash_attn"),
        ("flash_attn_interface", "flash_attn_3", "flash_attn_interface"),
    )
    for version in SIGNATURES[package]
]


def function_of(signature, found):
    """A function of this signature that notes its arguments and returns the first."""
    scope = {"found": found}
    exec(
        f"def function({signature}):\n    found.append(locals())\n    return list(locals().values())[0]",
        scope,
    )
    return scope["function"]


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize(("package", "version", "kernel", "where"), KERNELS)
def test_kernels_of_attention_take_what_they_are_called_with(
    package, version, kernel, where, kv_heads, monkeypatch
):
    found = []
    ((name, signature),) = SIGNATURES[package][version].items()
    function = function_of(signature, found)
    monkeypatch.setitem(sys.modules, where, SimpleNamespace(**{name: function}))
    monkeypatch.setattr(attention, "kernel_for", lambda *_: kernel)
    attention._asks_for_grouping.cache_clear()
    q, k, v = (torch.zeros(1, h, 13, 8) for h in (4, kv_heads, kv_heads))
    segments = Segments([7, 5, 1], torch.device("cpu"))
    out, _ = packed_attention(torch.nn.Identity(), q, k, v, segments=segments, scaling=0.3)
    attention._asks_for_grouping.cache_clear()
    assert out.shape == (1, 13, 4, 8)
    (given,) = found
    assert given.get("causal") or given["window_size"] == (-1, 0)
    assert 0.3 in (given.get("scale"), given.get("softmax_scale"))
    assert given.get("enable_gqa", kv_heads < 4) == (kv_heads < 4)
    assert not given.get("deterministic")


@pytest.mark.parametrize("package", ["flash_attn", "flash_attn_interface"])
def test_kernels_of_attention_are_deterministic_where_torchs_are(package, monkeypatch):
    found, kernel = [], {name: kernel for name, _, kernel, _ in KERNELS}[package]
    (signature,) = next(iter(SIGNATURES[package].values())).values()
    namespace = SimpleNamespace(flash_attn_varlen_func=function_of(signature, found))
    monkeypatch.setitem(sys.modules, package, namespace)
    monkeypatch.setattr(attention, "kernel_for", lambda *_: kernel)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    q = torch.zeros(1, 4, 5, 8)
    segments = Segments([5], torch.device("cpu"))
    packed_attention(torch.nn.Identity(), q, q, q, segments=segments, scaling=0.3)
    assert found[0]["deterministic"] is True


def calls(names):
    """Calls of functions by these names in our training code: place, name, arguments."""
    for file in sorted((Path(rasterloom.__file__).parent / "train").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if name in names:
                    yield f"{file.name}:{node.lineno}", name, node


@pytest.mark.parametrize("version", SIGNATURES["deepspeed"])
def test_deepspeed_takes_what_it_is_called_with(version):
    signatures = SIGNATURES["deepspeed"][version]
    seen = set()
    for place, name, call in calls(signatures):
        if name == "save_checkpoint" and "tag" not in {keyword.arg for keyword in call.keywords}:
            continue  # a function of ours
        bound = inspect.signature(function_of(signatures[name], []))
        try:
            bound.bind(*call.args, **{k.arg: None for k in call.keywords if k.arg})
        except TypeError as error:
            raise AssertionError(f"{place}: {name}: {error}") from None
        seen.add(name)
    assert seen == set(signatures)


def test_no_version_is_allowed_that_nobody_has_looked_at():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["gpu"]]
    ranges = {one.name.replace("-", "_"): one.specifier for one in map(Requirement, needed)}
    for package in ("torch", "flash_attn", "deepspeed"):
        versions = list(SIGNATURES[package])
        assert all(version in ranges[package] for version in versions), package
        assert f"{int(versions[-1].split('.')[0]) + 1}.0" not in ranges[package]
    assert "2.10.0" not in ranges["torch"] and "2.16.0" not in ranges["torch"]
    assert "2.8.3" not in ranges["flash_attn"]  # its backward pass fails from 524,288 tokens on
    # It reduces gradients of compiled layers that are not written yet: `test_deepspeed_compat`.
    assert "0.19.0" not in ranges["deepspeed"]
