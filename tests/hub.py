"""A stand-in for the Hugging Face hub, and for any other server of files, on this machine."""

import base64
import hashlib
import http.server
import json
from pathlib import Path
from urllib.parse import unquote


class Hub(http.server.ThreadingHTTPServer):
    """As much of the hub as `hf_hub_download`, `create_repo` and `upload_folder` see of it.

    repository -> revision -> file -> bytes. It takes uploads with the `token`.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _HubHandler)
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.breaks_off: set[str] = set()  # names of files of which only half is sent
        self.log: list[str] = []
        self.token = "hf_token"
        self.full = False  # whether large files are refused
        self.private: set[str] = set()
        self.commits: list[dict[str, str]] = []
        self.large: dict[str, bytes] = {}  # by their SHA-256

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, repo, folder, revision="main"):
        files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
        self.repos.setdefault(repo, {})[revision] = files


class _HubHandler(http.server.BaseHTTPRequestHandler):
    server: Hub  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_HEAD(self):
        self.server.log.append(f"{self.command} {self.path}")
        if self.path == "/":
            return self._answer(200, {})
        repo, _, rest = self.path.removeprefix("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        revisions = self.server.repos.get(repo)
        if revisions is None:
            return self._answer(404, {"X-Error-Code": "RepoNotFound"})
        if revision not in revisions:
            return self._answer(404, {"X-Error-Code": "RevisionNotFound"})
        commit = {"X-Repo-Commit": hashlib.sha1(f"{repo} {revision}".encode()).hexdigest()}
        if file not in revisions[revision]:
            return self._answer(404, {**commit, "X-Error-Code": "EntryNotFound"})
        data = revisions[revision][file]
        return self._answer(200, {**commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}, data)

    do_GET = do_HEAD

    def do_POST(self):
        self.server.log.append(f"{self.command} {self.path}")
        body = self._body()
        if self.headers["Authorization"] != f"Bearer {self.server.token}":
            return self._json({"error": "Invalid username or password."}, 401)
        if self.path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        if self.path.endswith(".git/info/lfs/objects/batch"):
            return self._json({"objects": [self._large(x) for x in json.loads(body)["objects"]]})
        repo, _, place = self.path.removeprefix("/api/models/").partition("/preupload/")
        if place:
            files = [self._mode(file["path"]) for file in json.loads(body)["files"]]
            return self._json({"files": files})
        repo, _, revision = repo.partition("/commit/")
        return self._commit(repo, unquote(revision), map(json.loads, body.splitlines()))

    def do_PUT(self):
        self.server.log.append(f"{self.command} {self.path}")
        data = self._body()
        if self.server.full:
            return self._answer(507, {})
        self.server.large[self.path.removeprefix("/large/")] = data
        self._answer(200, {})

    def _body(self):
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"]))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _create(self, wanted):
        repo = f"{wanted['organization']}/{wanted['name']}"
        if repo in self.server.repos:
            return self._json({"url": f"{self.server.address}/{repo}"}, 409)
        self.server.repos[repo] = {"main": {}}
        if wanted.get("private") or wanted.get("visibility") == "private":
            self.server.private.add(repo)
        return self._json({"url": f"{self.server.address}/{repo}"})

    def _mode(self, path):
        mode = "lfs" if path.endswith(".safetensors") else "regular"
        return {"path": path, "uploadMode": mode, "shouldIgnore": False}

    def _large(self, wanted):
        upload = {"href": f"{self.server.address}/large/{wanted['oid']}"}
        return {**wanted, "actions": {"upload": upload}}

    def _commit(self, repo, revision, lines):
        if revision not in self.server.repos[repo]:
            return self._json({"error": f"Invalid rev id: {revision}"}, 404)
        header, *operations = lines
        files = dict(self.server.repos[repo][revision])
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        self.server.repos[repo][revision] = files
        self.server.commits.append(header["value"])
        url = f"{self.server.address}/{repo}/commit/{len(self.server.commits):040}"
        return self._json({"commitUrl": url, "commitOid": url[-40:]})

    def _json(self, content, status=200):
        self._answer(status, {"Content-Type": "application/json"}, json.dumps(content).encode())

    def _answer(self, status, headers, data=b""):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            half = self.path.rsplit("/")[-1] in self.server.breaks_off
            self.wfile.write(data[: len(data) // 2] if half else data)

    def log_message(self, format, *args):  # the console is pytest's
        pass
