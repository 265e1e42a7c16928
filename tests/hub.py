"""A stand-in for the Hugging Face hub, and for any other server of files, on this machine."""

import hashlib
import http.server
from pathlib import Path


class Hub(http.server.ThreadingHTTPServer):
    """As much of the hub as `hf_hub_download` sees: repository -> revision -> file -> bytes."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _HubHandler)
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.breaks_off: set[str] = set()  # names of files of which only half is sent
        self.log: list[str] = []

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

    def _answer(self, status, headers, data=b""):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            half = self.path.rsplit("/")[-1] in self.server.breaks_off
            self.wfile.write(data[: len(data) // 2] if half else data)

    def log_message(self, format, *args):  # the console is pytest's
        pass
