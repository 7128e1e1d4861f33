"""A stand-in for the Hugging Face hub: data sets, their files, commits and tags over its HTTP API."""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_test"


@dataclass
class Repo:
    private: bool
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{}])  # files of each, the newest last
    messages: list[str] = field(default_factory=list)
    tags: dict[str, int] = field(default_factory=dict)

    def at(self, revision: str) -> int | None:
        if revision == "main":
            return len(self.commits) - 1
        return next((n for n in range(len(self.commits)) if oid(n) == revision), self.tags.get(revision))


@dataclass
class Hub:
    """The content of a hub. ``fail`` answers 500 to the first requests whose path holds one of its keys."""

    repos: dict[str, Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: int = 0
    fail: dict[str, int] = field(default_factory=dict)
    url: str = ""


def oid(number: int) -> str:
    return hashlib.sha1(str(number).encode()).hexdigest()


def start(hub: Hub) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, content=b"", status=200, **headers):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def missing(self, code):
        self.answer({"error": code}, 404, X_Error_Code=code)

    def serve(self):
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        path = unquote(urlsplit(self.path).path)
        for part, times in self.hub.fail.items():
            if part in path and times > 0:
                self.hub.fail[part] -= 1
                self.answer({"error": "out of order"}, 500)
                return
        if not path.startswith("/objects/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer({"error": "Invalid username or password."}, 401)
            return
        self.route(path.strip("/").split("/"))

    do_GET = do_HEAD = do_POST = do_PUT = serve

    def route(self, parts):
        match parts:
            case ["api", "repos", "create"]:
                self.create(json.loads(self.body))
            case ["api", "validate-yaml"]:
                self.answer({"warnings": [], "errors": []})
            case ["objects", digest]:
                assert hashlib.sha256(self.body).hexdigest() == digest
                self.hub.objects[digest] = self.body
                self.hub.uploads += 1
                self.answer()
            case ["datasets", owner, name, "info", "lfs", "objects", "batch"] if name.endswith(".git"):
                self.batch(json.loads(self.body)["objects"])
            case ["datasets", owner, name, "resolve", revision, *path]:
                self.file(self.hub.repos[f"{owner}/{name}"], revision, "/".join(path))
            case ["api", "datasets", owner, name, *rest]:
                self.of_repo(self.hub.repos[f"{owner}/{name}"], rest)
            case _:
                self.missing("RepoNotFound")

    def create(self, asked):
        name = f"{asked['organization']}/{asked['name']}"
        answer = {"url": f"{self.hub.url}/datasets/{name}"}
        if name in self.hub.repos:
            self.answer({**answer, "error": "You already created this dataset repo"}, 409)
            return
        self.hub.repos[name] = Repo(asked.get("private") or asked.get("visibility") == "private")
        self.answer(answer)

    def batch(self, objects):
        found = []
        for one in objects:
            actions = {"upload": {"href": f"{self.hub.url}/objects/{one['oid']}"}}
            found.append(one if one["oid"] in self.hub.objects else {**one, "actions": actions})
        self.answer({"transfer": "basic", "objects": found})

    def file(self, repo, revision, path):
        at = repo.at(revision)
        if at is None:
            self.missing("RevisionNotFound")
        elif path not in repo.commits[at]:
            self.answer({"error": "EntryNotFound"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=oid(at))
        else:
            data = repo.commits[at][path]
            etag = f'"{hashlib.sha256(data).hexdigest()}"'
            self.answer(data, ETag=etag, X_Repo_Commit=oid(at))

    def of_repo(self, repo, parts):
        match parts:
            case ["preupload", _]:
                asked = json.loads(self.body)["files"]
                mode = {True: "lfs", False: "regular"}
                files = [
                    {
                        "path": f["path"],
                        "shouldIgnore": False,
                        "uploadMode": mode[f["path"][-8:] == ".parquet"],
                    }
                    for f in asked
                ]
                self.answer({"files": files})
            case ["tree", revision, *_]:
                files = repo.commits[repo.at(revision)]
                self.answer(
                    [{"type": "file", "path": p, "size": len(d), "oid": ""} for p, d in files.items()]
                )
            case ["refs"]:
                tags = [
                    {"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": oid(n)}
                    for tag, n in repo.tags.items()
                ]
                self.answer({"branches": [], "converts": [], "tags": tags})
            case ["tag", revision]:
                repo.tags[json.loads(self.body)["tag"]] = repo.at(revision)
                self.answer({})
            case ["commit", _]:
                self.commit(repo, next(name for name, one in self.hub.repos.items() if one is repo))
            case _:
                self.missing("EntryNotFound")

    def commit(self, repo, name):
        files = dict(repo.commits[-1])
        for line in self.body.splitlines():
            entry = json.loads(line)
            match entry["key"], entry["value"]:
                case "header", value:
                    repo.messages.append(value["summary"])
                case "file", value:
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile", value:
                    files[value["path"]] = self.hub.objects[value["oid"]]
                case "deletedFile", value:
                    del files[value["path"]]
        repo.commits.append(files)
        number = oid(len(repo.commits) - 1)
        self.answer(
            {
                "success": True,
                "commitOid": number,
                "commitUrl": f"{self.hub.url}/datasets/{name}/commit/{number}",
            }
        )
