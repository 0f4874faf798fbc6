"""A small server that speaks the hub's calls that are used: revision, tree, paths-info, resolve, commit.

    python hub_server.py PORT OWNER/NAME     prints "ready" once it answers

It keeps the files of every commit in memory, asks for a token to write, and never for Git LFS.
"""

import base64
import hashlib
import http.server
import json
import re
import sys
import threading
import urllib.parse

TOKEN = "hf_test"
_API = re.compile(
    r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree|paths-info|preupload|commit)/([^/]+)(?:/(.*))?)?"
)
_RESOLVE = re.compile(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.*)")


class Hub(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repo: str
    commits: dict[str, dict[str, bytes]]
    head: str
    lock = threading.Lock()

    def files(self, revision: str) -> dict[str, bytes] | None:
        return self.commits.get(self.head if revision == "main" else urllib.parse.unquote(revision))

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        found = _RESOLVE.fullmatch(path)
        if found:
            return self.resolve(*found.groups())
        api = _API.fullmatch(path)
        if not api or api[1] != self.repo:
            return self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        kind, revision = api[2] or "revision", api[3] or "main"
        files = self.files(revision)
        if files is None:
            return self.answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        sha = self.head if revision == "main" else revision
        if kind == "revision":
            return self.answer(
                200, {"id": self.repo, "sha": sha, "private": False, "siblings": [], "tags": []}
            )
        folder = urllib.parse.unquote(api[4] or "").strip("/")
        is_recursive = urllib.parse.parse_qs(query).get("recursive", ["false"])[0].lower() in ("true", "1")
        entries = self.entries(files, folder, is_recursive)
        if folder and not entries:
            return self.answer(404, {"error": "no such folder"}, {"X-Error-Code": "EntryNotFound"})
        return self.answer(200, entries)

    do_HEAD = do_GET

    def entries(self, files: dict[str, bytes], folder: str, is_recursive: bool) -> list[dict]:
        start = f"{folder}/" if folder else ""
        found = {}
        for name, data in files.items():
            if not name.startswith(start):
                continue
            parts = name[len(start) :].split("/")
            for depth in range(1, len(parts)):
                parent = start + "/".join(parts[:depth])
                if is_recursive or depth == 1:
                    found[parent] = {"type": "directory", "path": parent, "oid": "0" * 40, "size": 0}
            if is_recursive or len(parts) == 1:
                found[name] = self.entry(name, data)
        return list(found.values())

    def entry(self, name: str, data: bytes) -> dict:
        return {"type": "file", "path": name, "oid": hashlib.sha1(data).hexdigest(), "size": len(data)}

    def resolve(self, repo: str, revision: str, name: str) -> None:
        files = self.files(revision) if repo == self.repo else None
        name = urllib.parse.unquote(name)
        if files is None or name not in files:
            return self.answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        data, status, headers = files[name], 200, {"ETag": f'"{hashlib.sha1(files[name]).hexdigest()}"'}
        headers |= {"X-Repo-Commit": self.head, "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            data, status = data[first : last + 1], 206
        return self.answer(status, data, headers)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        api = _API.fullmatch(self.path.partition("?")[0])
        if not api or api[1] != self.repo:
            return self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if api[2] == "paths-info":
            text = body.decode()
            asked = (
                json.loads(text)["paths"] if text.startswith("{") else urllib.parse.parse_qs(text)["paths"]
            )
            files = self.files(api[3]) or {}
            found = [self.entry(name, files[name]) for name in asked if name in files]
            folders = [name for name in asked if any(file.startswith(f"{name}/") for file in files)]
            return self.answer(200, found + [
                {"type": "directory", "path": name, "oid": "0" * 40, "size": 0} for name in folders
            ])  # fmt: skip
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(403, {"error": "a token is needed"})
        if api[2] == "preupload":
            asked = json.loads(body)["files"]
            modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in asked]
            return self.answer(200, {"files": modes})
        with self.lock:
            files = dict(self.commits[self.head])
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                if entry["key"] == "deletedFile":
                    files.pop(entry["value"]["path"], None)
            Hub.head = hashlib.sha1(str(len(self.commits)).encode()).hexdigest()
            self.commits[Hub.head] = files
        url = f"http://127.0.0.1/datasets/{self.repo}/commit/{Hub.head}"
        return self.answer(200, {"commitUrl": url, "commitOid": Hub.head, "success": True})

    def answer(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header(
            "Content-Type", "application/octet-stream" if isinstance(content, bytes) else "application/json"
        )
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


if __name__ == "__main__":
    Hub.repo, Hub.head = sys.argv[2], "0" * 40
    Hub.commits = {Hub.head: {}}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Hub)
    print("ready", flush=True)
    server.serve_forever()
