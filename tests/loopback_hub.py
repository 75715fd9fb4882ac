"""A Hub on this machine's own address that can be written to: the routes the real client uses to publish and to load.

Repositories, commits and large files are kept in memory, as the Hub keeps them: a file comes either with a commit
(``regular``) or, if its ending is that of a large one, into the store of large files, by its sha256.
"""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit

from loopback import Hub

LARGE = (".safetensors", ".png")


@dataclass
class Repository:
    """``commits``: commit to file to content, oldest first; ``main`` is the last."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    @property
    def main(self) -> str:
        return next(reversed(self.commits))

    def commit(self, files: dict[str, bytes]) -> str:
        digest = hashlib.sha1(str(len(self.commits)).encode())
        for name, content in sorted(files.items()):
            digest.update(name.encode() + hashlib.sha256(content).digest())
        self.commits[digest.hexdigest()] = files
        return digest.hexdigest()


class WritableHub(Hub):
    """A Hub with one user, ``person``, who may write to the organisations in ``members``.

    ``trouble``: route (``create``, ``preupload``, ``lfs-batch``, ``lfs-upload``, ``commit``, ``paths-info``, ...) to a
    list of what the next requests to it meet: a status, ``drop`` (the connection closes without an answer), ``lost``
    (so, but after it was done), ``ok``.
    ``uploads`` counts large files that arrived. ``damage`` changes a large file on arrival.
    """

    def __init__(self, token: str = "hf_right", members: tuple[str, ...] = ("org",)):
        super().__init__()
        self.token, self.members = token, members
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.trouble: dict[str, list[int | str]] = {}
        self.routes: list[str] = []
        self.uploads = 0
        self.damage = lambda content: content
        handler = self.http.RequestHandlerClass
        handler.do_POST = lambda request: self.write(request)
        handler.do_PUT = lambda request: self.write(request)

    # ---- reading ----

    def held(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Commit and files of a revision."""
        repository = self.repositories.get(repo)
        if repository is None or not repository.commits:
            return None
        commit = repository.main if revision == "main" else revision
        return (commit, repository.commits[commit]) if commit in repository.commits else None

    def find(self, path: str) -> bytes | None:
        parts = unquote(urlsplit(path).path).strip("/").split("/")
        if len(parts) >= 5 and parts[2] == "resolve":
            found = self.held("/".join(parts[:2]), parts[3])
            return found and found[1].get("/".join(parts[4:]))
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            repo, rest = "/".join(parts[2:4]), parts[4:] or ["revision", "main"]
            found = self.held(repo, rest[1])
            if found and rest[0] == "revision":
                return json.dumps(self._info(repo, *found)).encode()
            if found and rest[0] == "tree":
                return json.dumps([self._file(*item) for item in found[1].items()]).encode()
        return None

    def headers_for(self, path: str, content: bytes) -> dict[str, str]:
        parts = unquote(urlsplit(path).path).strip("/").split("/")
        headers = super().headers_for(path, content)
        if len(parts) >= 5 and parts[2] == "resolve":
            return headers | {"X-Repo-Commit": self.held("/".join(parts[:2]), parts[3])[0]}
        return headers | {"Content-Type": "application/json"}

    @staticmethod
    def _info(repo: str, commit: str, files: dict[str, bytes]) -> dict:
        return {"id": repo, "modelId": repo, "sha": commit, "siblings": [{"rfilename": name} for name in files]}

    @staticmethod
    def _oid(content: bytes) -> str:
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def _file(self, name: str, content: bytes) -> dict:
        row = {"type": "file", "path": name, "size": len(content), "oid": self._oid(content)}
        if name.endswith(LARGE):
            row["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return row

    # ---- writing ----

    def write(self, request: BaseHTTPRequestHandler) -> None:
        """Answer a POST or PUT."""
        self.requests.append(f"{request.command} {request.path}")
        content = self._body(request)
        parts = unquote(urlsplit(request.path).path).strip("/").split("/")
        route = self._route(parts)
        self.routes.append(route)
        trouble = (self.trouble.get(route) or ["ok"]).pop(0)
        if trouble == "lost":
            self._do(request, route, parts, content)
        if trouble in ("drop", "lost"):
            request.close_connection = True
            return
        status, answer = (
            (trouble, {"error": "made to fail"}) if trouble != "ok" else self._do(request, route, parts, content)
        )
        body = json.dumps(answer).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    @staticmethod
    def _body(request: BaseHTTPRequestHandler) -> bytes:
        if request.headers.get("Transfer-Encoding") != "chunked":
            return request.rfile.read(int(request.headers.get("Content-Length") or 0))
        content = b""
        while size := int(request.rfile.readline(), 16):
            content += request.rfile.read(size)
            request.rfile.readline()
        request.rfile.readline()
        return content

    @staticmethod
    def _route(parts: list[str]) -> str:
        if parts[:3] == ["api", "repos", "create"]:
            return "create"
        if parts[:2] == ["api", "validate-yaml"]:
            return "validate-yaml"
        if parts[:2] == ["api", "models"]:
            return parts[4]
        return "lfs-upload" if parts[0] == "large" else "lfs-batch"

    def _do(self, request: BaseHTTPRequestHandler, route: str, parts: list[str], content: bytes) -> tuple[int, object]:
        if route == "lfs-upload":  # the real one is another host, and its addresses carry their own permission
            content = self.damage(content)
            self.large[parts[1]] = content
            self.uploads += 1
            return 200, {}
        if route == "paths-info":
            repo, revision, wanted = "/".join(parts[2:4]), parts[5], parse_qs(content.decode())["paths"]
            found = self.held(repo, revision)
            return 200, [self._file(name, held) for name, held in found[1].items() if name in wanted]
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return 401, {"error": "Invalid credentials"}
        if route == "validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if route == "create":
            return self._create(json.loads(content))
        repo = "/".join(parts[2:4]) if parts[0] == "api" else "/".join(parts[:2]).removesuffix(".git")
        if repo.split("/")[0] not in self.members:
            return 403, {"error": "Forbidden"}
        files = self.held(repo, "main")[1]
        if route == "preupload":
            return 200, {"files": [self._mode(files, file["path"]) for file in json.loads(content)["files"]]}
        if route == "lfs-batch":
            return 200, {"transfer": "basic", "objects": [self._place(o) for o in json.loads(content)["objects"]]}
        return self._commit(repo, files, content)

    def _create(self, asked: dict) -> tuple[int, object]:
        repo = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] not in self.members:
            return 403, {"error": "Forbidden"}
        if repo in self.repositories:
            return 409, {"error": "You already created this model repo", "url": f"{self.url}/{repo}"}
        self.repositories[repo] = Repository()
        self.repositories[repo].commit({".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        return 200, {"url": f"{self.url}/{repo}", "name": repo}

    def _mode(self, files: dict[str, bytes], path: str) -> dict:
        row = {"path": path, "uploadMode": "lfs" if path.endswith(LARGE) else "regular", "shouldIgnore": False}
        if path in files:
            row["oid"] = hashlib.sha256(files[path]).hexdigest() if path.endswith(LARGE) else self._oid(files[path])
        return row

    def _place(self, wanted: dict) -> dict:
        if wanted["oid"] in self.large:
            return wanted
        return wanted | {"actions": {"upload": {"href": f"{self.url}/large/{wanted['oid']}"}}}

    def _commit(self, repo: str, files: dict[str, bytes], content: bytes) -> tuple[int, object]:
        changed = dict(files)
        for line in content.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header" and value.get("parentCommit") not in (None, self.repositories[repo].main):
                return 412, {"error": "A commit has happened since"}
            if item["key"] == "file":
                changed[value["path"]] = base64.b64decode(value["content"])
            if item["key"] == "lfsFile":
                if value["oid"] not in self.large:
                    return 400, {"error": f"large file {value['oid']} has not been uploaded"}
                changed[value["path"]] = self.large[value["oid"]]
        commit = self.repositories[repo].commit(changed)
        return 200, {"commitUrl": f"{self.url}/{repo}/commit/{commit}", "commitOid": commit}
