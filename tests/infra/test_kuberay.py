"""Manifests for KubeRay, built from base and overlay: what KubeRay and a restricted namespace take."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from infra_files import INFRA, Shell
from kustomize import build

import rasterloom
from rasterloom.recipe.loader import load_recipe

KUBERAY = INFRA / "kuberay"
OVERLAYS = sorted(path.parent for path in KUBERAY.glob("overlays/*/*/kustomization.yaml"))
SCHEMA = Path(__file__).parents[3] / "shared" / "schemas" / "kuberay-rayjobs-v1.json"  # where there is one
PINS = dict(
    line.split("==")
    for line in (INFRA.parent / "constraints.txt").read_text().splitlines()
    if "==" in line[:60]
)
LOCKED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


QUEUED = [path for path in OVERLAYS if path.parent.name.endswith("-queued")]
QUEUE_NAME = "kueue.x-k8s.io/queue-name"


def manifests(overlay):
    """Manifests of an overlay, by kind."""
    found = {one["kind"]: one for one in build(overlay)}
    queue = {"LocalQueue"} if overlay in QUEUED else set()
    assert set(found) == {"ServiceAccount", "RayJob", "ConfigMap"} | queue
    return found


def name_of(overlay):
    return f"{overlay.parent.name}-{overlay.name}"


@pytest.fixture(params=OVERLAYS, ids=name_of)
def built(request):
    return manifests(request.param)


def pods(job):
    cluster = job["spec"]["rayClusterSpec"]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def resources(pod):
    return pod["containers"][0]["resources"]


def test_every_base_has_an_overlay_and_a_queued_one():
    bases = {path.parent.name for path in KUBERAY.glob("base/*/rayjob.yaml")}
    assert {path.name for path in OVERLAYS} == {path.name for path in QUEUED} == bases


@pytest.fixture(scope="module")
def validator():
    """A validator as strict as `kubeconform -strict`, which neither PyPI nor Debian has."""
    from jsonschema import Draft202012Validator

    if not SCHEMA.exists():
        pytest.skip("the schemas of KubeRay are not in the repository")
    schema = json.loads(SCHEMA.read_text())
    return Draft202012Validator(closed(schema.get("openAPIV3Schema", schema)))


def test_a_job_has_the_fields_that_kuberay_knows(built, validator):
    assert [f"{list(error.path)}: {error.message}" for error in validator.iter_errors(built["RayJob"])] == []


@pytest.mark.parametrize("overlay", OVERLAYS[:1], ids=name_of)
def test_a_misspelt_field_or_a_value_of_another_type_is_refused_wherever_it_is(overlay, validator):
    job = manifests(overlay)["RayJob"]
    open_to_all = {"metadata", "labels", "nodeSelector", "rayStartParams", "limits", "requests"}
    for within, name in list(places(job["spec"])):
        right = within[name]
        within[name] = None if isinstance(right, dict) else {}
        assert not validator.is_valid(job), f"{name}: {within[name]}"
        within[name] = right
        if isinstance(right, dict) and name not in open_to_all:
            right["misspelt"] = right.get("spec", 1)
            assert not validator.is_valid(job), f"{name}.misspelt"
            del right["misspelt"]
    assert validator.is_valid(job) and not validator.is_valid({**job, "misspelt": 1})


def places(value):
    """Every place in a manifest: what it is in, and its name or index there."""
    for name, one in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, name
        if isinstance(one, dict | list):
            yield from places(one)


def closed(schema):
    """The schema with unknown fields refused, as `kubectl apply --validate=strict` refuses them."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: closed(value) for name, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    loose = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if schema.get("type") == "object" and schema.get("properties") and not loose:
        schema["additionalProperties"] = False
    return schema


def test_a_job_ends_and_is_tried_again_once(built):
    spec = built["RayJob"]["spec"]
    assert spec["backoffLimit"] == 1 and 0 < spec["activeDeadlineSeconds"] <= 7 * 86400
    assert spec["shutdownAfterJobFinishes"] and "clusterSelector" not in spec
    assert spec["rayClusterSpec"]["rayVersion"] == PINS["ray"]
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token", "secretName": "ray-token"}


@pytest.mark.parametrize(("codes", "ends", "tries"), [("0", 0, 1), ("2", 2, 1), ("4", 4, 1), ("1 0", 0, 2)])
def test_its_driver_heeds_exit_codes(tmp_path, built, codes, ends, tries):
    shell = Shell(tmp_path, {"python": 'log "python $*"; exit "$(next_code)"'})
    assert shell.run("bash", "-c", built["RayJob"]["spec"]["entrypoint"], CODES=codes)[0] == ends
    assert shell.count("python -m rasterloom run /recipe/recipe.yaml") == tries


def test_its_pods_may_run_in_a_restricted_namespace(built):
    """By the pod security standard `restricted`, https://kubernetes.io/docs/concepts/security/."""
    spec = built["RayJob"]["spec"]
    submitter = spec["submitterPodTemplate"]["spec"]
    for pod in (submitter, *pods(built["RayJob"])):
        given = pod["securityContext"]
        assert (
            given["runAsNonRoot"]
            and given["runAsUser"]
            and given["seccompProfile"] == {"type": "RuntimeDefault"}
        )
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert all(
            set(v) & {"configMap", "emptyDir", "persistentVolumeClaim"} for v in pod.get("volumes", ())
        )
        (container,) = pod["containers"]
        assert container["securityContext"] == LOCKED
    autoscaler = spec["rayClusterSpec"].get("autoscalerOptions")
    assert autoscaler is None or autoscaler["securityContext"] == LOCKED


def test_the_head_alone_may_speak_to_kubernetes(built):
    head, *workers = pods(built["RayJob"])
    assert "automountServiceAccountToken" not in head
    assert all(pod["automountServiceAccountToken"] is False for pod in workers)
    assert {pod["serviceAccountName"] for pod in (head, *workers)} == {
        built["ServiceAccount"]["metadata"]["name"]
    }


def test_its_containers_have_images_resources_and_volumes(built):
    for pod in pods(built["RayJob"]):
        (container,) = pod["containers"]
        limits, requests = container["resources"]["limits"], container["resources"]["requests"]
        kind = "gpu" if "nvidia.com/gpu" in limits else "cpu"
        assert container["image"].endswith(f":{rasterloom.__version__}-{kind}")
        for name in {*limits, *requests} - {
            "cpu"
        }:  # Kubernetes wants both the same for all but CPUs and memory
            assert limits[name] == requests[name], name
        mounted = {mount["name"] for mount in container.get("volumeMounts", ())}
        assert mounted == {volume["name"] for volume in pod.get("volumes", ())}


def test_its_driver_is_kept_off_the_head_and_off_what_may_vanish(built):
    spec = built["RayJob"]["spec"]
    cluster, needs = spec["rayClusterSpec"], json.loads(spec["entrypointResources"])
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    homes = []
    for group in cluster["workerGroupSpecs"]:
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        has = json.loads(json.loads(group["rayStartParams"].get("resources", '"{}"')))
        if all(has.get(name, 0) >= amount for name, amount in needs.items()):
            homes.append(group["template"]["spec"])
    assert homes and all("spot" not in json.dumps(pod) for pod in homes)
    for pod in homes:  # the driver reads the recipe
        assert {"name": "recipe", "configMap": {"name": built["ConfigMap"]["metadata"]["name"]}} in pod[
            "volumes"
        ]


def test_its_recipe_asks_for_what_the_groups_have(built, tmp_path):
    (tmp_path / "recipe.yaml").write_text(built["ConfigMap"]["data"]["recipe.yaml"])
    run = load_recipe(tmp_path / "recipe.yaml").run
    groups = built["RayJob"]["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    has = set().union(
        *(json.loads(json.loads(group["rayStartParams"].get("resources", '"{}"'))) for group in groups)
    )
    asked = {name for takes in (*run.steps.values(), run.driver) for name in takes.resources}
    assert asked <= has


def test_what_belongs_to_one_cloud_is_in_an_overlay():
    base = "".join(path.read_text() for path in KUBERAY.glob("base/*/*.yaml") if path.name != "account.yaml")
    for word in ("amazonaws", "karpenter", "p4d", "s3://", "EFA", "BUCKET"):
        assert word not in base


@pytest.mark.parametrize("overlay", OVERLAYS, ids=name_of)
def test_a_job_waits_for_its_turn_where_its_overlay_says_so(overlay):
    found = manifests(overlay)
    labels = found["RayJob"]["metadata"].get("labels", {})
    if overlay not in QUEUED:
        assert QUEUE_NAME not in labels
        return
    local = found["LocalQueue"]
    assert labels == {QUEUE_NAME: local["metadata"]["name"]}
    assert len({one["metadata"]["namespace"] for one in found.values()}) == 1
    # What Kueue demands of a RayJob, https://kueue.sigs.k8s.io/docs/tasks/run/rayjobs/.
    spec = found["RayJob"]["spec"]
    cluster = spec["rayClusterSpec"]
    assert spec["shutdownAfterJobFinishes"] and "clusterSelector" not in spec and "suspend" not in spec
    assert not cluster.get("enableInTreeAutoscaling") and len(cluster["workerGroupSpecs"]) <= 7
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]


@pytest.mark.parametrize("overlay", QUEUED, ids=name_of)
def test_the_queue_has_room_for_a_job(overlay):
    """A resource without a quota, or with too little of it, would keep a job waiting for ever."""
    flavor, queue = build(KUBERAY / "queue")
    found = manifests(overlay)
    assert found["LocalQueue"]["spec"] == {"clusterQueue": queue["metadata"]["name"]}
    (group,) = queue["spec"]["resourceGroups"]
    (quotas,) = group["flavors"]
    assert quotas["name"] == flavor["metadata"]["name"]
    room = {one["name"]: amount(one["nominalQuota"]) for one in quotas["resources"]}
    assert set(room) == set(group["coveredResources"])
    spec = found["RayJob"]["spec"]
    cluster = spec["rayClusterSpec"]
    counted = [(spec["submitterPodTemplate"]["spec"], 1), (cluster["headGroupSpec"]["template"]["spec"], 1)]
    counted += [(one["template"]["spec"], one["replicas"]) for one in cluster["workerGroupSpecs"]]
    needs = Counter()
    for pod, replicas in counted:
        for name, value in {**resources(pod)["limits"], **resources(pod)["requests"]}.items():
            needs[name] += replicas * amount(value)
    assert {name for name, value in needs.items() if value > room.get(name, 0)} == set()
    assert any(value > room[name] / 2 for name, value in needs.items()), "two would run at once"


def amount(quantity):
    """A quantity of Kubernetes as a number."""
    number, unit = re.fullmatch(r"([0-9]+)(m|Mi|Gi|)", str(quantity)).groups()
    return int(number) * {"m": 0.001, "Mi": 2**20, "Gi": 2**30, "": 1}[unit]


def test_the_training_nodes_are_whole_p4d():
    (job,) = [one for one in build(KUBERAY / "overlays" / "aws" / "train") if one["kind"] == "RayJob"]
    pod = pods(job)[1]
    assert pod["nodeSelector"] == {"node.kubernetes.io/instance-type": "p4d.24xlarge"}
    limits = resources(pod)["limits"]
    assert (limits["nvidia.com/gpu"], limits["vpc.amazonaws.com/efa"]) == ("8", "4")
    assert limits["hugepages-2Mi"] == "5120Mi"
    assert any(v.get("emptyDir", {}).get("medium") == "Memory" for v in pod["volumes"])


def test_yaml_has_no_anchors():
    """Not every tool that reads manifests resolves them."""
    for path in KUBERAY.rglob("*.yaml"):
        assert not any(isinstance(t, yaml.AnchorToken | yaml.AliasToken) for t in yaml.scan(path.read_text()))
