"""Policies of AWS, and requests of its clients recorded on loopback."""

import fnmatch
import json
import threading
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from infra_files import INFRA

ACCOUNT, REGION = "123456789012", "us-east-1"
OPERATORS = {
    "StringEquals": lambda value, wanted: value == wanted,
    "StringLike": fnmatch.fnmatchcase,
}


@dataclass(frozen=True)
class Asked:
    """One request, in IAM's words."""

    action: str
    resource: str
    context: dict[str, str] = field(default_factory=dict, hash=False)


def policy(name, **names):
    """Policy of infra/, with its placeholders filled in."""
    text = (INFRA / name).read_text()
    for old, new in {"ACCOUNT": ACCOUNT, "REGION": REGION, **names}.items():
        text = text.replace(old, new)
    return json.loads(text)


def allows(given, asked):
    """True if a policy of Allow statements allows a request."""
    return any(_allows(statement, asked) for statement in given["Statement"])


def _allows(statement: dict[str, Any], asked: Asked) -> bool:
    assert statement["Effect"] == "Allow" and set(statement) <= {
        "Sid",
        "Effect",
        "Action",
        "Resource",
        "Condition",
    }
    conditions = [
        any(key in asked.context and OPERATORS[name](asked.context[key], one) for one in _list(wanted))
        for name, keys in statement.get("Condition", {}).items()
        for key, wanted in keys.items()
    ]
    return (
        any(fnmatch.fnmatchcase(asked.action, one) for one in _list(statement["Action"]))
        and any(fnmatch.fnmatchcase(asked.resource, one) for one in _list(statement["Resource"]))
        and all(conditions)
    )


def _list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def actions(given):
    """All actions of a policy."""
    return {action for statement in given["Statement"] for action in _list(statement["Action"])}


OF_BUCKETS = {"uploads": "s3:ListBucketMultipartUploads", "location": "s3:GetBucketLocation"}
OF_OBJECTS = {
    "GET": "s3:GetObject",
    "HEAD": "s3:GetObject",
    "PUT": "s3:PutObject",
    "DELETE": "s3:DeleteObject",
}
OF_UPLOADS = {"GET": "s3:ListMultipartUploadParts", "DELETE": "s3:AbortMultipartUpload"}


def s3_requests(seen: Iterable[tuple[str, str, Any]]) -> set[Asked]:
    """Requests of S3, by methods and paths such as `/bucket/key`."""
    asked = [(method, path) for method, path, *_ in seen]
    return {_s3_request(*one) for one in asked if one != ("HEAD", "/")}  # for its clock, without a signature


def _s3_request(method: str, path: str) -> Asked:
    parts = urlsplit(path)
    query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
    where = f"arn:aws:s3:::{bucket}"
    if not key and "delete" in query:
        return Asked("s3:DeleteObject", f"{where}/?")  # the keys are in the body
    if not key:
        special = next((action for name, action in OF_BUCKETS.items() if name in query), None)
        if special:
            return Asked(special, where)
        assert method in ("GET", "HEAD"), (method, path)
        return Asked("s3:ListBucket", where, {"s3:prefix": query["prefix"]} if "prefix" in query else {})
    if "uploadId" in query and method in OF_UPLOADS:
        return Asked(OF_UPLOADS[method], f"{where}/{key}")
    return Asked(OF_OBJECTS["PUT" if method == "POST" else method], f"{where}/{key}")


@contextmanager
def served(answer):
    """Serve POST requests on loopback, and yield the address.

    ``answer`` is given headers and body, and returns an exit status, a content type and a body.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, kind, said = answer(self.headers, body)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


class Glue:
    """Glue's Data Catalog in memory, as far as pyiceberg asks it."""

    def __init__(self) -> None:
        self.asked: set[Asked] = set()
        self._databases: dict[str, dict[str, Any]] = {}
        self._tables: dict[tuple[str, str], dict[str, Any]] = {}
        self._lock = threading.Lock()

    def answer(self, headers: Any, body: bytes) -> tuple[int, str, bytes]:
        """Answer a request of Glue's JSON protocol."""
        operation, given = headers["X-Amz-Target"].partition(".")[2], json.loads(body)
        with self._lock:
            self._note(operation, given)
            try:
                status, said = 200, getattr(self, f"_{operation}")(given)
            except KeyError as error:
                status, said = 400, {"__type": "EntityNotFoundException", "Message": str(error)}
        return status, "application/x-amz-json-1.1", json.dumps(said).encode()

    def _note(self, operation: str, given: dict[str, Any]) -> None:
        """Remember an action on each of the resources that IAM looks at."""
        base = f"arn:aws:glue:{REGION}:{ACCOUNT}"
        database = (
            given.get("DatabaseName") or given.get("Name") or given.get("DatabaseInput", {}).get("Name")
        )
        table = given.get("Name") if "DatabaseName" in given else None
        table = table or given.get("TableInput", {}).get("Name")
        self.asked.add(Asked(f"glue:{operation}", f"{base}:catalog"))
        self.asked.add(Asked(f"glue:{operation}", f"{base}:database/{database or 'any'}"))
        if "DatabaseName" in given:
            self.asked.add(Asked(f"glue:{operation}", f"{base}:table/{database}/{table or 'any'}"))

    def _GetDatabases(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"DatabaseList": list(self._databases.values())}

    def _GetDatabase(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"Database": self._databases[given["Name"]]}

    def _CreateDatabase(self, given: dict[str, Any]) -> dict[str, Any]:
        self._databases[given["DatabaseInput"]["Name"]] = given["DatabaseInput"]
        return {}

    def _GetTable(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"Table": self._tables[given["DatabaseName"], given["Name"]]}

    def _CreateTable(self, given: dict[str, Any]) -> dict[str, Any]:
        return self._keep(given, "0")

    def _UpdateTable(self, given: dict[str, Any]) -> dict[str, Any]:
        before = self._tables[given["DatabaseName"], given["TableInput"]["Name"]]
        return self._keep(given, str(int(before["VersionId"]) + 1))

    def _keep(self, given: dict[str, Any], version: str) -> dict[str, Any]:
        table = {**given["TableInput"], "DatabaseName": given["DatabaseName"], "VersionId": version}
        self._tables[given["DatabaseName"], given["TableInput"]["Name"]] = table
        return {}


class Ec2:
    """EC2 with one node, as far as Ray's autoscaler asks it."""

    NODE = (
        "<item><instanceId>i-1</instanceId><instanceState><code>16</code><name>running</name></instanceState>"
        "<tagSet><item><key>ray-cluster-name</key><value>rasterloom</value></item></tagSet></item>"
    )

    def __init__(self) -> None:
        self.asked: set[Asked] = set()

    def answer(self, headers: Any, body: bytes) -> tuple[int, str, bytes]:
        """Answer a request of EC2's query protocol."""
        given = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        operation = given["Action"]
        self._note(operation, given)
        nodes = f"<instancesSet>{self.NODE}</instancesSet>"
        inside = {
            "DescribeInstances": f"<reservationSet><item>{nodes}</item></reservationSet>",
            "RunInstances": nodes,
            "CreateTags": "<return>true</return>",
            "TerminateInstances": "<instancesSet/>",
        }[operation]
        return 200, "text/xml", f"<{operation}Response>{inside}</{operation}Response>".encode()

    def _note(self, operation: str, given: dict[str, str]) -> None:
        node = f"arn:aws:ec2:{REGION}:{ACCOUNT}:instance/i-1"
        tag = "ray-cluster-name"
        if operation == "RunInstances":
            of_node = [value for name, value in given.items() if name.startswith("TagSpecification")]
            assert tag in of_node and "rasterloom" in of_node
            self.asked.add(Asked("ec2:RunInstances", node, {f"aws:RequestTag/{tag}": "rasterloom"}))
            self.asked.add(Asked("ec2:CreateTags", node, {"ec2:CreateAction": "RunInstances"}))
            parts = {
                "ImageId": "image",
                "SubnetId": "subnet",
                "KeyName": "key-pair",
                "BlockDeviceMapping": "volume",
            }
            parts |= {"NetworkInterface": "network-interface", "Placement": "placement-group"}
            for name, kind in {**parts, "SecurityGroupId": "security-group"}.items():
                if any(field.startswith(name) for field in given):
                    owner = "" if kind == "image" else ACCOUNT
                    self.asked.add(Asked("ec2:RunInstances", f"arn:aws:ec2:{REGION}:{owner}:{kind}/x"))
            role = given["IamInstanceProfile.Name"]
            passed = {"iam:PassedToService": "ec2.amazonaws.com"}
            self.asked.add(Asked("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/{role}", passed))
        elif operation.startswith("Describe"):
            self.asked.add(Asked(f"ec2:{operation}", "*"))
        else:
            self.asked.add(Asked(f"ec2:{operation}", node, {f"aws:ResourceTag/{tag}": "rasterloom"}))
