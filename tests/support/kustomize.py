"""Overlays as `kubectl kustomize` builds them.

As far as infra/kuberay uses it; anything else is refused.
"""

import copy

import yaml

FIELDS = {
    "apiVersion",
    "kind",
    "namespace",
    "resources",
    "components",
    "configMapGenerator",
    "generatorOptions",
    "patches",
}


def build(folder, onto=()):
    """Manifests of a folder with a kustomization.yaml, in order.

    Args:
        onto: what a component is added to.
    """
    asked = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(asked) <= FIELDS, set(asked) - FIELDS
    version, kind = ("v1alpha1", "Component") if onto else ("v1beta1", "Kustomization")
    assert (asked["apiVersion"], asked["kind"]) == (f"kustomize.config.k8s.io/{version}", kind)
    found = list(onto)
    for name in asked["resources"]:
        path = (folder / name).resolve()
        if path.is_dir():
            found += build(path)
        else:
            assert path.parent == folder.resolve(), f"kustomize reads no file outside {folder}: {name}"
            found += yaml.safe_load_all(path.read_text())
    for wanted in asked.get("configMapGenerator", ()):
        assert asked["generatorOptions"] == {"disableNameSuffixHash": True}
        data = {name: (folder / name).read_text() for name in wanted["files"]}
        metadata = {"name": wanted["name"]}
        found.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    for name in asked.get("components", ()):
        found = build((folder / name).resolve(), found)
    for patch in asked.get("patches", ()):
        kind, name = patch["target"]["kind"], patch["target"].get("name")
        targets = [one for one in found if one["kind"] == kind and name in (None, one["metadata"]["name"])]
        assert len(targets) == 1, patch["target"]
        for operation in yaml.safe_load(patch["patch"]):
            _apply(targets[0], **operation)
    if "namespace" in asked:
        for one in found:
            one["metadata"]["namespace"] = asked["namespace"]
    return found


def _apply(manifest, op, path, value):
    """One operation of RFC 6902: the place must be there, and for `replace` what is replaced too."""
    *way, last = [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:]]
    place = manifest
    for part in way:
        place = place[int(part)] if isinstance(place, list) else place[part]
    if isinstance(place, list):
        assert (op, last) == ("add", "-"), path
        place.append(copy.deepcopy(value))
        return
    assert (last in place) == (op == "replace") and op in ("add", "replace"), (op, path)
    place[last] = copy.deepcopy(value)
