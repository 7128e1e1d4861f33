"""A workspace on S3 with a REST catalog, both of a real server."""

import io
import itertools
import json
import random
import uuid
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from aws import REGION, Asked, Glue, actions, allows, policy, s3_requests, served
from faultproxy import FaultProxy
from pyiceberg.utils.config import Config

from rasterloom.pipelines.execution.ray_cluster import start_ray
from rasterloom.pipelines.training.preflight import job_of
from rasterloom.pipelines.workflow import Workflow
from rasterloom.recipe.loader import load_recipe
from rasterloom.recipe.run import Run
from rasterloom.versions.corpus import TABLES, Corpus
from rasterloom.versions.history import log, made
from rasterloom.versions.reader_program import reader_program

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"


@pytest.fixture
def on_s3(workshop, seaweedfs):
    """The workshop's recipe with its workspace on S3."""
    return workshop.on_s3(seaweedfs)


def test_the_tables_are_those_of_a_local_workspace(on_s3, undisturbed, monkeypatch):
    on_s3.run("--until", "tokens")
    mine, theirs = on_s3.tables(), undisturbed.tables()
    for table, rows in theirs.items():
        assert [row for row in mine[table] if row not in rows] == []
    assert mine == theirs
    assert "7 steps, 0 ran now" in on_s3.run("--until", "tokens")

    credential = on_s3.recipe.catalog["credential"]  # which the programs do not hold
    monkeypatch.setenv("PYICEBERG_CATALOG__RASTERLOOM__CREDENTIAL", credential)
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())  # which was read when it was imported
    for library in ("pyiceberg", "duckdb", "polars", "ray"):
        if library == "ray":
            start_ray(Run(cpus=2))
        with redirect_stdout(io.StringIO()) as printed:
            exec(compile(reader_program(on_s3.corpus, "images", library), library, "exec"), {})
        assert str(len(mine["images"])) in printed.getvalue()

    # With tokens, and nothing trained yet, every stage can be planned, and copies nothing.
    stage = "{target: 64, steps: 1, batch_tokens: 4096, lr: 1.0e-3}"
    on_s3.recipe_file.write_text(
        on_s3.recipe_file.read_text() + f"train: {{init: tiny, stages: [{stage}, {stage}]}}\n"
    )
    recipe = on_s3.recipe
    jobs = [job_of(on_s3.corpus, step, recipe.run) for step in Workflow(recipe).stages]
    assert jobs[0].init == "tiny" and jobs[1].init.startswith(on_s3.corpus.store.path())


def test_two_runs_at_once_make_each_version_once(on_s3, undisturbed):
    both = [on_s3.start("--until", "tokens") for _ in range(2)]
    printed = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert on_s3.tables() == undisturbed.tables()
    made = sorted(version.record.step for version in log(on_s3.corpus))
    assert made == ["images", "pairs", "scores", "selection", "tokens/64"]


@pytest.fixture
def proxies(on_s3, seaweedfs, monkeypatch):
    """Proxies that the run's requests to the data and to the catalog go through."""
    ports = {"data": seaweedfs.ports["s3.port"], "catalog": seaweedfs.ports["s3.port.iceberg"]}
    found = {name: FaultProxy(f"127.0.0.1:{port}") for name, port in ports.items()}
    recipe = on_s3.recipe_file
    recipe.write_text(
        recipe.read_text().replace(f"127.0.0.1:{ports['catalog']}/", f"{found['catalog'].address}/")
    )
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{found['data'].address}")
    yield found
    for proxy in found.values():
        proxy.close()


def test_what_expires_ends_a_run_in_one_line_and_the_same_command_goes_on(on_s3, undisturbed, proxies):
    """First the credentials expire in the middle of `images`, then the catalog's token for good, then now
    and then: it is made new by itself."""
    data, catalog = proxies.values()

    def fails():
        process = on_s3.start("--until", "tokens")
        printed, _ = process.communicate(timeout=300)
        assert process.returncode == 1 and "Traceback" not in printed, printed
        for proxy in proxies.values():
            proxy.choose = lambda *_: None
        whole = undisturbed.tables()
        for version in log(on_s3.corpus):
            assert on_s3.rows(version.table) == whole[version.table], "no version is there in part"
        return printed.splitlines()[-1]

    shards = "staging/images"
    data.choose = lambda method, path, number: "expired" if seen_writes(data, shards) > 2 else None
    assert "the session token has expired: get new credentials and run again" in fails()
    published = on_s3.corpus.store.list(f"{on_s3.corpus.name}/staging/images")
    assert any(name.endswith(".json") for name in published)

    asked = len(catalog.seen) + 4
    catalog.choose = lambda method, path, number: (
        "unauthorized" if number > asked and "oauth" not in path else None
    )
    assert "the catalog does not let us in: NotAuthorizedException: The token has expired; renew" in fails()

    served = itertools.count()

    def short_lived(method, path, number):
        """A token serves four requests."""
        nonlocal served
        if "oauth" in path:
            served = itertools.count()
        return "unauthorized" if "oauth" not in path and next(served) >= 4 else None

    catalog.choose = short_lived
    on_s3.run("--until", "tokens")
    catalog.choose = lambda *_: None
    assert sum(fault == "unauthorized" for *_, fault in catalog.seen) > 5
    assert on_s3.tables() == undisturbed.tables()


def seen_writes(proxy, part):
    return sum(method == "PUT" and part in path for method, path, _ in proxy.seen)


def test_a_run_through_faults_ends_with_the_same_tables(on_s3, undisturbed, proxies):
    """One request in twenty is spoilt, of the data's and of the catalog's: nothing is lost or doubled."""
    chance = random.Random(5)
    kinds = ("500", "503", "reset", "reset_after")
    for proxy in proxies.values():
        proxy.choose = lambda *_: chance.choice(kinds) if chance.random() < 0.05 else None
    on_s3.run("--until", "tokens")
    spoilt = {name: sum(f is not None for *_, f in p.seen) for name, p in proxies.items()}
    assert spoilt["data"] > 20 and spoilt["catalog"] > 0, spoilt
    for proxy in proxies.values():
        proxy.choose = lambda *_: None
    assert on_s3.tables() == undisturbed.tables()


def test_a_run_asks_aws_for_what_its_policies_allow(workshop, seaweedfs, monkeypatch, rasterloom):
    """With Glue as its catalog: every request of a run, and of what keeps a workspace in order."""
    glue, data = Glue(), FaultProxy(f"127.0.0.1:{seaweedfs.ports['s3.port']}")
    workshop.on_s3(seaweedfs)
    with served(glue.answer) as address:
        name = workshop.recipe.corpus
        catalog = {"type": "glue", "glue.endpoint": address, "glue.region": REGION}
        catalog["warehouse"] = f"s3://lake/{name}/warehouse"
        old = json.dumps(seaweedfs.catalog)
        workshop.recipe_file.write_text(workshop.recipe_file.read_text().replace(old, json.dumps(catalog)))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{data.address}")
        workshop.run("--until", "selection")
        key = workshop.rows("pairs")[0]["key"]
        for words in (
            ("doctor", workshop.recipe_file),
            ("versions", "tag", workshop.recipe_file, "v1"),
            ("versions", "takedown", workshop.recipe_file, key),
            ("versions", "gc", workshop.recipe_file, "--yes"),
        ):
            code, printed, error = rasterloom(*words)
            assert code == 0, printed + error
    data.close()
    asked = s3_requests(data.seen)
    asked.discard(
        Asked("s3:ListBucket", "arn:aws:s3:::lake")
    )  # a HEAD of the bucket, whose refusal is no error
    for name, requests, rare in (
        ("s3/iam-policy.json", asked, {"s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"}),
        ("s3/glue-policy.json", glue.asked, set()),
    ):
        given = policy(name, BUCKET="lake", PREFIX=workshop.recipe.corpus, CORPUS=workshop.recipe.corpus)
        assert {one for one in requests if not allows(given, one)} == set()
        assert actions(given) - {one.action for one in requests} <= rare


def test_the_quickstart_runs_on_s3_by_its_workspace_alone(
    seaweedfs, quickstart, rasterloom, free_port, tmp_path
):
    """examples/quickstart-small.yaml as it is, but for where its site and its workspace lie."""
    site, port, name = tmp_path / "site-small", free_port(), f"c{uuid.uuid4().hex}"
    text = (QUICKSTART.parent / "quickstart-small.yaml").read_text()
    for old, new in {
        "corpus: small": f"corpus: {name}",
        "workspace: ../work/small": f"workspace: s3://lake/{name}\ncatalog: {json.dumps(seaweedfs.catalog)}",
        "../work/site-small": str(site),
        "127.0.0.1:48766": f"127.0.0.1:{port}",
    }.items():
        assert old in text
        text = text.replace(old, new)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    quickstart("website").build_site(site, 12, port)
    with quickstart("server").serve(site, port):
        code, printed, error = rasterloom("run", recipe, "--until", "tokens")
    assert code == 0, printed + error
    corpus = Corpus.of(load_recipe(recipe))
    rows = {table: sum(file.rows for file in corpus.files(table)) for table in TABLES}
    assert rows["pairs"] == rows["images"] == rows["scores"] == rows["selection"] > 50
    records = {v.table: v.record for v in made(corpus)}
    for table in ("images", "selection"):
        assert sum(records[table].counts.values()) == rows[table], "every row is counted once"
    code, printed, _ = rasterloom("versions", "verify", recipe)
    assert code == 0 and f"{rows['images']} of {rows['images']} rows stand" in printed
    assert rasterloom("versions", "tag", recipe, "v1")[0] == 0
    code, printed, error = rasterloom("versions", "export", recipe, tmp_path / "out", "--at", "v1")
    assert code == 0 and sorted(p.name for p in (tmp_path / "out").iterdir()), error

    # A mixture of its own tokens and of a version's, and the checkpoint that it leaves on S3.
    mixture = f"[{{target: 64, weight: 1}}, {{target: 96, weight: 2, corpus: {name}@v1}}]"
    head, tail = text.split("  stages:\n")[0], text[text.index("\nsample:") :]
    stages = f"  stages:\n    - {{steps: 2, batch_tokens: 1024, mixture: {mixture}}}\n"
    assert "heldout: 0.05" in head
    head = head.replace("heldout: 0.05", "heldout: 0.3")  # of so few images
    recipe.write_text(head + stages + tail)
    code, printed, error = rasterloom("train", recipe)
    assert code == 0 and f"pinned/{name}-v1-96" in printed, printed + error
    code, printed, error = rasterloom(
        "evaluate", recipe, "--step", "2", "--target", "64", "--pictures", "0", "--format", "json"
    )
    assert code == 0, error
    (found,) = json.loads(printed)["checkpoints"]
    assert found["name"] == "1-64-96 step 2" and found["heldout"]["all"]["rows"] > 0
