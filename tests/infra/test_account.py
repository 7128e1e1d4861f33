"""CloudFormation's template for an account: the policies of infra/, and what the runbook's commands make."""

import json
import re

import pytest
import yaml
from infra_files import INFRA

TEMPLATE = INFRA / "aws" / "account.yaml"
# Values that policies of infra/ have in place of an account's.
PARAMETERS = {"Bucket": "BUCKET", "Prefix": "PREFIX", "Corpus": "CORPUS", "Admin": "admin"}
PSEUDO = {"AWS::AccountId": "ACCOUNT", "AWS::Region": "REGION"}
# Of docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference: what there is, and what each needs.
PROPERTIES = {
    "AWS::S3::Bucket": {"BucketName", "PublicAccessBlockConfiguration", "LifecycleConfiguration"},
    "AWS::S3::BucketPolicy": {"Bucket", "PolicyDocument"},
    "AWS::IAM::Role": {"RoleName", "AssumeRolePolicyDocument"},
    "AWS::IAM::InstanceProfile": {"InstanceProfileName", "Roles"},
    "AWS::IAM::Policy": {"PolicyName", "PolicyDocument", "Roles"},
}


VALUES = PARAMETERS | PSEUDO


class Loader(yaml.SafeLoader):
    """YAML with CloudFormation's functions resolved, of which one that names nothing is a KeyError."""

    def refer(self, node):
        """A parameter, or the name of a resource."""
        name = self.construct_scalar(node)
        return VALUES[name] if name in VALUES else NAMES[name]

    def substitute(self, node):
        """A text with parameters in it."""
        return re.sub(r"\$\{(.+?)\}", lambda found: VALUES[found[1]], self.construct_scalar(node))

    def take(self, node):
        """An attribute of a resource."""
        name, _, attribute = self.construct_scalar(node).partition(".")
        assert attribute == "Arn"
        return f"arn:aws:iam::ACCOUNT:role/{NAMES[name]}"


Loader.add_constructor("!Ref", Loader.refer)
Loader.add_constructor("!Sub", Loader.substitute)
Loader.add_constructor("!GetAtt", Loader.take)
NAMES = {"Store": "BUCKET", "Worker": "rasterloom", "Head": "rasterloom-head"}  # those that are referred to


@pytest.fixture
def template():
    return yaml.load(TEMPLATE.read_text(), Loader)


@pytest.fixture
def resources(template):
    return template["Resources"]


def of_type(resources, kind):
    return [one["Properties"] for one in resources.values() if one["Type"] == kind]


def ours(name):
    return json.loads((INFRA / name).read_text())


def test_it_has_what_cloudformation_knows(template, resources):
    assert template["AWSTemplateFormatVersion"] == "2010-09-09"
    assert set(template["Parameters"]) == set(PARAMETERS)
    assert [n for n, one in template["Parameters"].items() if "Default" not in one] == ["Bucket"]
    for name, wanted in NAMES.items():
        given = resources[name]["Properties"]
        assert given.get("BucketName", given.get("RoleName")) == wanted
    for one in resources.values():
        assert set(one["Properties"]) == PROPERTIES[one["Type"]]
        assert set(one) <= {"Type", "Properties", "DeletionPolicy", "UpdateReplacePolicy", "DependsOn"}
        assert set(one.get("DependsOn", ())) <= set(resources)


def test_its_policies_are_those_of_infra(resources):
    policies = of_type(resources, "AWS::IAM::Policy")
    given = {one["PolicyName"]: (one["PolicyDocument"], one["Roles"]) for one in policies}
    both, head = ["rasterloom", "rasterloom-head"], ["rasterloom-head"]
    assert given == {
        "workspace": (ours("s3/iam-policy.json"), both),
        "catalog": (ours("s3/glue-policy.json"), both),
        "nodes": (ours("ray/head-policy.json"), head),
    }
    (bucket,) = of_type(resources, "AWS::S3::BucketPolicy")
    assert bucket == {"Bucket": "BUCKET", "PolicyDocument": ours("s3/bucket-policy.json")}


def test_its_bucket_keeps_what_it_has_and_lets_nobody_in(resources):
    store = resources["Store"]
    assert store["DeletionPolicy"] == store["UpdateReplacePolicy"] == "Retain"
    public = store["Properties"]["PublicAccessBlockConfiguration"]
    assert len(public) == 4 and all(value is True for value in public.values())
    rules = store["Properties"]["LifecycleConfiguration"]["Rules"]
    assert [of_s3(rule) for rule in rules] == ours("s3/lifecycle.json")["Rules"]


def of_s3(rule):
    """A rule in the words of S3's own API."""
    rule = dict(rule)
    size, given = rule.pop("ObjectSizeGreaterThan", None), {"Prefix": rule.pop("Prefix")}
    given = {"And": {**given, "ObjectSizeGreaterThan": int(size)}} if size else given
    moved = [{"Days": t.pop("TransitionInDays"), **t} for t in rule.pop("Transitions", ())]
    return {"ID": rule.pop("Id"), **rule, "Filter": given, **({"Transitions": moved} if moved else {})}


def test_it_makes_what_the_commands_of_the_runbook_make(resources):
    runbook = (INFRA.parent / "docs" / "runbook.md").read_text()
    roles = re.search(r"for role in (.+); do", runbook)[1].split()
    assert [one["RoleName"] for one in of_type(resources, "AWS::IAM::Role")] == roles
    trust = json.loads(re.search(r"--assume-role-policy-document \\\s+'(.+)'", runbook)[1])
    for role in of_type(resources, "AWS::IAM::Role"):
        assert role["AssumeRolePolicyDocument"] == trust
    of_nodes = of_type(resources, "AWS::IAM::InstanceProfile")
    profiles = {one["InstanceProfileName"]: one["Roles"] for one in of_nodes}
    assert profiles == {role: [role] for role in roles}
    named_there = set(re.findall(r"--policy-name (\w+)", runbook))
    assert named_there == {one["PolicyName"] for one in of_type(resources, "AWS::IAM::Policy")}
