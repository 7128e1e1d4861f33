"""The repository's own files, for strangers and the release."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import rasterloom

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == rasterloom.__version__
    assert citation["license"] == PROJECT["license"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_a_workflow_may_do_little_and_runs_what_it_pins(path):
    text = path.read_text()
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {}, "each job asks for its own"
    for line in re.findall(r"uses: (.*)", text):
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line
    assert re.findall(r"pip install (?!-c constraints)(?!\S+==)\S+", text) == []
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            # What GitHub puts into a script is text of others: they take it from variables.
            assert "${{" not in step.get("run", "")
            done = subprocess.run(["bash", "-n"], input=step.get("run", ""), text=True, capture_output=True)
            assert done.returncode == 0, done.stderr
            for script in re.findall(r"python (\S+\.py)", step.get("run", "")):
                subprocess.run([sys.executable, script, "--help"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("path", FORMS, ids=lambda p: p.name)
def test_a_form_asks_for_something(path):
    form = yaml.safe_load(path.read_text())
    if path.stem == "config":
        assert all({"name", "url", "about"} == set(link) for link in form["contact_links"])
        return
    assert form["name"] and form["description"]
    identities = [field["id"] for field in form["body"]]
    assert len(identities) == len(set(identities))
    for field in form["body"]:
        assert field["type"] in ("textarea", "input", "dropdown", "checkboxes")
        assert field["attributes"]["label"]
    assert any(field.get("validations", {}).get("required") for field in form["body"])


def test_what_the_package_imports_is_declared():
    """In the requirements or an extra, by its own name: what comes with others may go with them."""
    declared = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    for texts in PROJECT["optional-dependencies"].values():
        declared |= {canonicalize_name(Requirement(text).name) for text in texts}
    owners = packages_distributions()
    found = set()
    for path in (ROOT / "rasterloom").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"rasterloom"}:
                found |= {(name, canonicalize_name(owner)) for owner in owners.get(name, [name])[:1]}
    # FlashAttention 3 is on no index: who has a GPU for it builds it.
    missing = {name for name, owner in found if owner not in declared} - {"flash_attn_interface"}
    assert len(found) > 20 and not missing, missing
