"""A local Hugging Face Hub: create, upload (LFS included), list and download repositories.

Holds models, datasets and Spaces in memory with their branches, implements the endpoints that `huggingface_hub`,
`transformers` and `datasets` call, and fails on request. Use `serve_hub()`; pass its `environment` to a new process,
because the libraries read the address when they are imported.
"""

import base64
import hashlib
import json
import os
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit


# Larger files and files with these suffixes are uploaded through LFS; the size limit is lower than that of the Hub.
LFS_LIMIT = 10_000  # bytes
LFS_KINDS = (".parquet", ".safetensors", ".mp4", ".bin")
DATE = "2026-01-01T00:00:00.000Z"
REPO = r"(?P<repo>[^/]+/[^/]+)"
REVISION = r"(?P<revision>[^/]+)"
API = rf"/api/(?P<kind>models|datasets|spaces)/{REPO}"
PLACE = rf"(/(?P<kind>datasets|spaces))?/{REPO}"
TOKEN = "hf_stand_in"


@dataclass
class Hub:
    """State of the server: `repos[kind, name]` maps the paths of "main" to bytes; `address` is its URL.

    `branches[kind, name, branch]` are the other branches, `commits[sha]` the files of each commit, `private` the
    private repositories, `space_sdks` the SDK of each Space. `faults` maps a pattern of "METHOD /path" to an HTTP
    status, or to None: the connection is dropped.
    """

    address: str = ""
    repos: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    branches: dict[tuple[str, str, str], dict[str, bytes]] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: set[tuple[str, str]] = field(default_factory=set)
    space_sdks: dict[str, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    faults: dict[str, int | None] = field(default_factory=dict)

    def environment(self, home: str | Path) -> dict[str, str]:
        """Environment of a process that uses this server as the Hub and keeps its cache in `home`."""
        clean = {
            name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
        }
        return {
            **clean,
            "HF_ENDPOINT": self.address,
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }


@contextmanager
def serve_hub():
    """Run the server on a free port within a `with` block; yields its `Hub`."""
    hub = Hub()
    handler = type("Handler", (HubHandler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self):
        self.dispatch(
            [
                (r"/api/whoami-v2", self.tell_user),
                (rf"{API}(/revision/{REVISION})?", self.tell_repo),
                (rf"{API}/tree/{REVISION}(?P<folder>/.*)?", self.list_tree),
                (rf"{API}/refs", self.list_refs),
                (rf"{PLACE}/resolve/{REVISION}/(?P<path>.+)", self.send_file),
            ]
        )

    do_HEAD = do_GET

    def do_POST(self):
        self.dispatch(
            [
                (r"/api/repos/create", self.create_repo),
                (r"/oauth/device", self.give_device_code),
                (r"/oauth/token", lambda: self.answer({"access_token": TOKEN, "token_type": "bearer"})),
                (r"/api/validate-yaml", lambda: self.answer({"warnings": [], "errors": []})),
                (rf"{API}/branch/{REVISION}", self.create_branch),
                (rf"{API}/preupload/{REVISION}", self.plan_upload),
                (rf"{API}/paths-info/{REVISION}", self.tell_paths),
                (rf"{API}/commit/{REVISION}", self.commit),
                (rf"{PLACE}\.git/info/lfs/objects/batch", self.plan_lfs),
            ]
        )

    def do_PUT(self):
        self.dispatch(
            [(r"/objects/(?P<oid>[0-9a-f]+)", self.store_object), (rf"{API}/settings", self.change_settings)]
        )

    def do_DELETE(self):
        self.dispatch([(rf"{API}/branch/{REVISION}", self.delete_branch)])

    def dispatch(self, routes) -> None:
        url = urlsplit(self.path)
        request = f"{self.command} {unquote(url.path)}"
        self.hub.requests.append(request)
        self.query = parse_qs(url.query)
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        for pattern, status in self.hub.faults.items():
            if re.search(pattern, request):
                code = "RepoNotFound" if status == 404 else "Fault"
                return self.drop_connection() if status is None else self.fail(code, status)
        is_writing = self.command in ("POST", "PUT", "DELETE") and not url.path.startswith(("/objects/", "/oauth/"))
        if is_writing and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.fail("Unauthorized", 401)
        for pattern, action in routes:
            match = re.fullmatch(pattern, unquote(url.path))
            if match:
                values = {name: value or "" for name, value in match.groupdict().items()}
                if "kind" in values:
                    values["kind"] = values["kind"] or "models"
                return action(**values)
        self.fail("EntryNotFound")

    def tell_user(self) -> None:
        self.answer({"type": "user", "name": "user", "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def give_device_code(self) -> None:
        """The device code of `hf auth login`; the next token request counts as authorised."""
        codes = {"device_code": "device", "user_code": "USER-CODE", "verification_uri": f"{self.hub.address}/oauth"}
        self.answer({**codes, "interval": 0, "expires_in": 60})

    def create_repo(self) -> None:
        wanted = json.loads(self.body)
        kind = f"{wanted.get('type') or 'model'}s"
        name = f"{wanted.get('organization') or 'user'}/{wanted['name']}"
        status = 409 if (kind, name) in self.hub.repos else 200
        if status == 200:
            self.hub.repos[kind, name] = {}
            self.set_visibility(kind, name, wanted)
            if kind == "spaces":
                self.hub.space_sdks[name] = wanted["sdk"]
        prefix = "" if kind == "models" else f"{kind}/"
        self.answer({"url": f"{self.hub.address}/{prefix}{name}", "name": name, "id": name}, status)

    def set_visibility(self, kind: str, repo: str, wanted: dict) -> None:
        visibility = wanted.get("visibility") or ("private" if wanted.get("private") else "public")
        change = self.hub.private.add if visibility == "private" else self.hub.private.discard
        change((kind, repo))

    def change_settings(self, kind: str, repo: str) -> None:
        if self.files(kind, repo, "main") is not None:
            self.set_visibility(kind, repo, json.loads(self.body))
            self.answer({"private": (kind, repo) in self.hub.private})

    def create_branch(self, kind: str, repo: str, revision: str) -> None:
        files = self.files(kind, repo, "main")
        if files is None:
            return
        if (kind, repo, revision) in self.hub.branches:
            return self.fail("Conflict", 409)
        self.hub.branches[kind, repo, revision] = dict(files)
        self.answer({})

    def delete_branch(self, kind: str, repo: str, revision: str) -> None:
        del self.hub.branches[kind, repo, revision]
        self.answer({})

    def list_refs(self, kind: str, repo: str) -> None:
        main = self.files(kind, repo, "main")
        if main is not None:
            branches = {name: files for (*place, name), files in self.hub.branches.items() if place == [kind, repo]}
            refs = [
                {"name": name, "ref": f"refs/heads/{name}", "targetCommit": self.sha(files)}
                for name, files in {"main": main, **branches}.items()
            ]
            self.answer({"branches": refs, "converts": [], "tags": []})

    def tell_repo(self, kind: str, repo: str, revision: str) -> None:
        files = self.files(kind, repo, revision)
        if files is not None:
            siblings = [{"rfilename": path, "size": len(data)} for path, data in sorted(files.items())]
            facts = {
                "id": repo,
                "modelId": repo,
                "sha": self.sha(files),
                "private": (kind, repo) in self.hub.private,
                "gated": False,
                "tags": [],
            }
            self.answer({**facts, "disabled": False, "siblings": siblings, "lastModified": DATE, "createdAt": DATE})

    def list_tree(self, kind: str, repo: str, revision: str, folder: str) -> None:
        files = self.files(kind, repo, revision)
        if files is None:
            return
        prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
        inside = {path: data for path, data in files.items() if path.startswith(prefix)}
        if prefix and not inside:
            return self.fail("EntryNotFound")
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries = {}
        for path, data in sorted(inside.items()):
            parts = path[len(prefix) :].split("/")
            for depth in range(1, len(parts)):
                name = prefix + "/".join(parts[:depth])
                if recursive or depth == 1:
                    entries[name] = {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
            if recursive or len(parts) == 1:
                entries[path] = describe_file(path, data)
        self.answer(list(entries.values()))

    def tell_paths(self, kind: str, repo: str, revision: str) -> None:
        files = self.files(kind, repo, revision)
        if files is None:
            return
        if self.headers.get("Content-Type", "").startswith("application/json"):
            wanted = json.loads(self.body)["paths"]
        else:
            wanted = parse_qs(self.body.decode())["paths"]
        entries = [describe_file(path, files[path]) for path in wanted if path in files]
        for path in wanted:
            if any(known.startswith(f"{path}/") for known in files):
                entries.append({"type": "directory", "path": path, "oid": "0" * 40, "size": 0})
        self.answer(entries)

    def plan_upload(self, kind: str, repo: str, revision: str) -> None:
        if self.files(kind, repo, revision) is None:
            return
        files = json.loads(self.body)["files"]
        modes = [("lfs" if is_lfs(file["path"], file["size"]) else "regular", file["path"]) for file in files]
        self.answer({"files": [{"path": path, "uploadMode": mode, "shouldIgnore": False} for mode, path in modes]})

    def plan_lfs(self, kind: str, repo: str) -> None:
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.objects:
                entry["actions"] = {"upload": {"href": f"{self.hub.address}/objects/{wanted['oid']}", "header": {}}}
            objects.append(entry)
        self.answer({"transfer": "basic", "objects": objects})

    def store_object(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.fail("BadRequest", 400)
        self.hub.objects[oid] = self.body
        self.answer({})

    def commit(self, kind: str, repo: str, revision: str) -> None:
        files = self.files(kind, repo, revision)
        if files is None:
            return
        for line in self.body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                files.pop(value["path"], None)
            elif entry["key"] == "deletedFolder":
                for path in [path for path in files if path.startswith(value["path"])]:
                    del files[path]
        oid = self.sha(files)
        self.hub.commits[oid] = dict(files)
        url = f"{self.hub.address}/{'' if kind == 'models' else f'{kind}/'}{repo}/commit/{oid}"
        self.answer({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": "", "pullRequestUrl": None})

    def send_file(self, kind: str, repo: str, revision: str, path: str) -> None:
        files = self.files(kind, repo, revision)
        if files is None:
            return
        if path not in files:
            return self.fail("EntryNotFound")
        data, status, extra = files[path], 200, {}
        etag = hashlib.sha256(data).hexdigest()
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if span:
            first, last = int(span[1]), int(span[2] or len(data) - 1)
            extra = {"Content-Range": f"bytes {first}-{min(last, len(data) - 1)}/{len(data)}"}
            data, status = data[first : last + 1], 206
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": self.sha(files), "Accept-Ranges": "bytes", **extra}
        self.send(data, status, {"Content-Type": "application/octet-stream", **headers})

    def files(self, kind: str, repo: str, revision: str) -> dict[str, bytes] | None:
        """A repository's files at a branch or commit; where there are none, answers 404 and returns None."""
        files = self.hub.repos.get((kind, repo))
        if files is None:
            self.fail("RepoNotFound")
            return None
        if revision in ("", "main"):
            return files
        for known in (self.hub.branches.get((kind, repo, revision)), self.hub.commits.get(revision)):
            if known is not None:
                return known
        if revision == self.sha(files):
            return files
        self.fail("RevisionNotFound")
        return None

    def drop_connection(self) -> None:
        self.close_connection = True
        self.connection.close()

    def sha(self, files: dict[str, bytes]) -> str:
        digest = hashlib.sha1()
        for path, data in sorted(files.items()):
            digest.update(path.encode() + hashlib.sha1(data).digest())
        return digest.hexdigest()

    def answer(self, value, status: int = 200) -> None:
        self.send(json.dumps(value).encode(), status, {"Content-Type": "application/json"})

    def fail(self, code: str, status: int = 404) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": code, "Content-Type": "application/json"}
        self.send(json.dumps({"error": code}).encode(), status, headers)

    def send(self, data: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *arguments) -> None:
        """Write nothing to the test output; `Hub.requests` lists the requests."""


def describe_file(path: str, data: bytes) -> dict:
    """One entry of a tree listing."""
    entry = {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
    if is_lfs(path, len(data)):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry


def is_lfs(path: str, size: int) -> bool:
    return size > LFS_LIMIT or path.endswith(LFS_KINDS)
