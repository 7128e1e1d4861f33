"""Policies for AWS, held against what real clients ask for."""

import json

import pytest
import yaml
from aws import ACCOUNT, REGION, Asked, Ec2, actions, allows, policy, s3_requests, served
from infra_files import INFRA

S3 = {"BUCKET": "lake", "PREFIX": "work"}


def test_the_evaluator_judges_as_iam_does():
    given = policy("s3/iam-policy.json", **S3)
    inside, outside = "arn:aws:s3:::lake/work/a", "arn:aws:s3:::lake/other/a"
    assert allows(given, Asked("s3:GetObject", inside)) and not allows(given, Asked("s3:GetObject", outside))
    assert not allows(given, Asked("s3:GetObject", "arn:aws:s3:::lake/workshop/a"))
    assert not allows(given, Asked("s3:PutObjectAcl", inside))
    for prefix, allowed in {"work": True, "work/a/": True, "workshop/": False, "": False}.items():
        assert allows(given, Asked("s3:ListBucket", "arn:aws:s3:::lake", {"s3:prefix": prefix})) is allowed
    assert not allows(given, Asked("s3:ListBucket", "arn:aws:s3:::lake"))


def test_requests_of_s3_in_iams_words():
    seen = [
        ("GET", "/lake?list-type=2&prefix=work%2Fa", None),
        ("PUT", "/lake/work/a%20b?partNumber=1&uploadId=2", None),
        ("POST", "/lake/work/a?uploads=", None),
        ("DELETE", "/lake/work/a?uploadId=2", None),
        ("GET", "/lake?uploads&prefix=work", None),
    ]
    assert {(asked.action, asked.resource.rpartition(":")[2]) for asked in s3_requests(seen)} == {
        ("s3:ListBucket", "lake"),
        ("s3:PutObject", "lake/work/a b"),
        ("s3:PutObject", "lake/work/a"),
        ("s3:AbortMultipartUpload", "lake/work/a"),
        ("s3:ListBucketMultipartUploads", "lake"),
    }


@pytest.mark.parametrize("name", ["s3/iam-policy.json", "s3/glue-policy.json", "ray/head-policy.json"])
def test_no_policy_allows_whole_services(name):
    given = policy(name)
    assert not any("*" in action for action in actions(given))
    everywhere = [s for s in given["Statement"] if s["Resource"] == "*"]
    assert all(action.startswith("ec2:Describe") for s in everywhere for action in s["Action"])


def test_the_bucket_admits_its_roles_alone():
    bucket = json.loads((INFRA / "s3" / "bucket-policy.json").read_text())
    assert all(statement["Effect"] == "Deny" for statement in bucket["Statement"])
    assert bucket["Statement"][0]["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    config = yaml.safe_load((INFRA / "ray" / "aws-p4d.yaml").read_text())
    kinds = config["available_node_types"].values()
    used = {f"role/{kind['node_config']['IamInstanceProfile']['Name']}" for kind in kinds}
    admitted = bucket["Statement"][1]["Condition"]["StringNotLike"]["aws:PrincipalArn"]
    assert used <= {name.partition(":ACCOUNT:")[2] for name in admitted}


def test_the_head_of_ray_up_may_do_what_the_autoscaler_does(monkeypatch):
    """Ray's own provider starts, tags, looks at and ends a node of each type."""
    for name, value in {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    config = yaml.safe_load((INFRA / "ray" / "aws-p4d.yaml").read_text())
    types = config["available_node_types"]
    ec2 = Ec2()
    with served(ec2.answer) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL_EC2", address)
        from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

        monkeypatch.setattr("ray.autoscaler._private.aws.node_provider.TAG_BATCH_DELAY", 0)
        provider = AWSNodeProvider({**config["provider"], "region": REGION}, config["cluster_name"])
        for name, kind in types.items():
            if name == config["head_node_type"]:
                continue  # `ray up` starts it, with the rights of who runs that
            # As Ray fills it in when the cluster is made.
            filled = {**kind["node_config"], "SubnetIds": ["subnet-1"], "KeyName": "key"}
            if "NetworkInterfaces" not in filled:
                filled["SecurityGroupIds"] = ["sg-1"]
            provider.create_node(filled, {"ray-user-node-type": name}, 1)
        (node,) = provider.non_terminated_nodes({})
        provider.set_node_tags(node, {"ray-node-status": "up-to-date"})
        provider.terminate_node(node)
    given = policy("ray/head-policy.json")
    assert {asked for asked in ec2.asked if not allows(given, asked)} == set()
    assert {asked.action for asked in ec2.asked} == actions(given)
    others = f"arn:aws:ec2:{REGION}:{ACCOUNT}:instance/i-2"
    foreign = {"aws:ResourceTag/ray-cluster-name": "another"}
    assert not allows(given, Asked("ec2:TerminateInstances", others, foreign))
