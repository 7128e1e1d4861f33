"""A version on the hub: what is uploaded, when nothing is, and what the hub refuses."""

from dataclasses import replace

import hub as stand_in
import pytest
from hub import Hub

from rasterloom.pipelines.import_export.push_dataset import push
from rasterloom.versions.refs import delete, tag


@pytest.fixture
def hub(monkeypatch, tmp_path):
    found = Hub()
    server = stand_in.start(found)
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", found.url)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", found.url + template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", stand_in.TOKEN)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield found
    server.shutdown()
    server.server_close()


@pytest.fixture
def tagged(undisturbed):
    tag(undisturbed.corpus, "v1")
    yield undisturbed
    delete(undisturbed.corpus, "v1")


def files_of(repo):
    return {path: data for path, data in repo.commits[-1].items() if not path.startswith(".")}


def test_a_version_is_one_commit_with_its_tag_and_a_second_push_does_nothing(
    rasterloom, tagged, hub, tmp_path
):
    code, printed, said = rasterloom(
        "versions", "push", tagged.recipe_file, "hf://me/small", "--at", "v1", "--folder", tmp_path / "kept"
    )
    assert code == 0, said
    assert f"{hub.url}/datasets/me/small, tag v1" in printed.replace("\n", "")
    repo = hub.repos["me/small"]
    assert repo.private and len(repo.commits) == 2 and repo.tags == {"v1": 1}
    assert repo.messages == [f"{tagged.corpus.name}@v1"]
    exported = {
        str(path.relative_to(tmp_path / "kept")): path.read_bytes()
        for path in (tmp_path / "kept").rglob("*")
        if path.is_file() and not path.relative_to(tmp_path / "kept").parts[0].startswith(".")
    }
    assert files_of(repo) == exported and {"README.md", "export.json"} < exported.keys()

    uploads = hub.uploads
    code, printed, _ = rasterloom("versions", "push", tagged.recipe_file, "hf://me/small", "--at", "v1")
    assert code == 0 and "was there already" in printed.replace("\n", " ")
    assert (len(repo.commits), hub.uploads) == (2, uploads)


def test_data_of_the_version_before_are_replaced_and_other_files_stay(undisturbed, hub):
    assert push(undisturbed.corpus, "hf://me/small", public=True).new
    repo = hub.repos["me/small"]
    assert not repo.private and not repo.tags
    repo.commits.append({**repo.commits[-1], "data/train-00099.parquet": b"old", "NOTES.md": b"mine"})
    del repo.commits[-1]["export.json"]
    assert push(undisturbed.corpus, "hf://me/small").new
    assert "data/train-00099.parquet" not in repo.commits[-1]
    assert repo.commits[-1]["NOTES.md"] == b"mine"


def test_a_tag_of_the_hub_does_not_move(tagged, hub):
    version = replace(tagged.corpus, ref="v1")
    assert push(version, "hf://me/small").tag == "v1"
    hub.repos["me/small"].commits[1]["export.json"] = b"{}"
    with pytest.raises(ValueError, match="another version as v1, and a tag"):
        push(version, "hf://me/small")


def test_a_push_that_was_cut_off_goes_on(undisturbed, hub, tmp_path):
    hub.fail["/commit/"] = 1
    with pytest.raises(RuntimeError, match="the hub answers 500"):
        push(undisturbed.corpus, "hf://me/small")
    (left,) = tmp_path.glob("rasterloom-*/push/*")
    before = {path: path.stat().st_mtime_ns for path in left.glob("data/*")}
    uploads = hub.uploads
    seen = []
    assert push(undisturbed.corpus, "hf://me/small", advance=lambda done, _: seen.append(done)).new
    assert before and not seen and hub.uploads == uploads
    assert not left.exists()


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("me/small", "me/small is no data set of the hub, which is named hf://OWNER/NAME"),
        ("hf://small", "is no data set of the hub, which"),
        ("hf://me/..", "Repo id"),
        ("hf://me/sm all", "Repo id"),
    ],
)
def test_a_place_that_is_none(undisturbed, hub, place, said):
    with pytest.raises(ValueError, match=said):
        push(undisturbed.corpus, place)
    assert not hub.repos


def test_who_may_not_write_is_told_before_anything_is_exported(rasterloom, undisturbed, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    code, _, said = rasterloom("versions", "push", undisturbed.recipe_file, "hf://me/small")
    assert code == 2 and "set HF_TOKEN to a token that may write" in said.replace("\n", " ")
    assert not hub.uploads


def test_a_hub_that_is_not_there(rasterloom, undisturbed, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    code, _, said = rasterloom("versions", "push", undisturbed.recipe_file, "hf://me/small")
    assert code == 1 and "hf://me/small: " in said and "Traceback" not in said
