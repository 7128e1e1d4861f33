"""What is secret stands nowhere: not in the workspace, the report, or what good and bad runs say."""

import gzip
import json
import os
import subprocess
import sys

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rasterloom.errors import FAILED, USELESS

SECRETS = ("hush4711s3", "hush4712source", "hush4713database", "4714471447", "hush4715bucket")
S3, OF_SOURCE, OF_DATABASE, NUMBER, OF_BUCKET = SECRETS


@pytest.fixture(scope="module")
def run_once(workshop_at, undisturbed, seaweedfs_in, tmp_path_factory):
    """A workshop on a server with a login of its own, which stands in the recipe too, and what a run said."""
    with seaweedfs_in(tmp_path_factory.mktemp("secret"), key="keyholder", secret=S3) as server:
        shop = workshop_at(tmp_path_factory.mktemp("run") / "recipe.yaml").on_s3(server)
        assert S3 in shop.recipe_file.read_text()
        yield shop, server, shop.run()


def objects(buckets):
    client = boto3.session.Session().client("s3")
    for bucket in buckets:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for item in page.get("Contents", ()):
                yield item["Key"], client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()


def words_of(name, data):
    """All text of a file, unpacked."""
    if name.endswith(".parquet"):
        table = pq.read_table(pa.BufferReader(data))
        texts = [table[f.name].to_pylist() for f in table.schema if pa.types.is_string(f.type)]
        return json.dumps(texts) + str(pq.read_metadata(pa.BufferReader(data)).metadata)
    if name.endswith(".gz"):
        data = gzip.decompress(data)
    return data.decode(errors="replace")


def test_nothing_of_a_good_run_tells(run_once):
    shop, _, printed = run_once
    seen = []
    for name, data in objects(("lake", "tables")):
        seen.append(name)
        found = [secret for secret in SECRETS if secret in words_of(name, data) or secret.encode() in data]
        assert not found, name
    kinds = ("index.html", "metadata.json", ".parquet", "/records/report/last.json", "/shards/")
    assert all(any(kind in name for name in seen) for kind in kinds), seen
    properties = [s.summary.additional_properties for s in shop.corpus.table("images").snapshots()]
    assert properties and S3 not in str(properties) and S3 not in printed


def said(recipe, *command, **variables):
    command = [sys.executable, "-m", "rasterloom", *command, str(recipe)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **variables}, timeout=300
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("workspace: s3://", f"workspace: s3://me:{OF_BUCKET}@", "s3://…@lake"),
        ("{site}/pairs-photos.parquet", f"https://me:{OF_SOURCE}@example.org/x.parquet", "https://…@"),
        ("http://127.0.0.1", f"http://me:{OF_DATABASE}@127.0.0.1:9/?", "http://…@127.0.0.1"),
        (f'"credential": "keyholder:{S3}"', f'"credential": {NUMBER}', "catalog.credential: "),
    ],
)
def test_no_error_tells(run_once, tmp_path, old, new, words):
    shop, _, _ = run_once
    text = shop.recipe_file.read_text()
    old = old.format(site=shop.site[0])
    assert old in text
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text.replace(old, new))
    for command in ("plan", "doctor", "run"):
        code, printed = said(recipe, command)
        assert not [secret for secret in SECRETS if secret in printed], printed
        assert "Traceback" not in printed, printed
    assert code != 0 and words in printed, printed


def test_no_refusal_tells(run_once):
    """Wrong keys, another key's secret, and a server that is away."""
    shop, _, _ = run_once
    for variables in (
        {"AWS_SECRET_ACCESS_KEY": SECRETS[1]},
        {"AWS_ACCESS_KEY_ID": "stranger"},
        {"AWS_ENDPOINT_URL": f"http://me:{SECRETS[2]}@127.0.0.1:9"},
    ):
        code, printed = said(shop.recipe_file, "run", **variables)
        assert code in (FAILED, USELESS) and "Traceback" not in printed, printed
        assert not [secret for secret in SECRETS if secret in printed], printed
