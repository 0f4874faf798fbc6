"""Hostile text in every string that a page shows, opened in Chromium: no script runs, no host is asked."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import shutil
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from playwright.sync_api import Browser, Error, sync_playwright
from starlette.types import ASGIApp

from benchmarks.attack_ground import Ground
from benchmarks.chromium import FLAGS, chromium_path
from benchmarks.remote import free_port
from benchmarks.serving import untrained_service
from pipelines.explorer.app import make_app
from pipelines.explorer.collection import Collection
from pipelines.service.http.access import COOKIE
from student.cli import main as student_main
from teacher_cache.archive.format.signature import statements_of
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import InputError, TeacherCacheError
from teacher_cache.exact.canonical import seal, unseal
from teacher_cache.program.progress import silent
from teacher_cache.sharing.catalog import put_catalog
from teacher_cache.sharing.catalog_file import CATALOG_FILE, PAGE_FILE, read_catalog
from teacher_cache.sharing.catalog_page import page_html
from teacher_cache.storage.store import Store

PAYLOADS = (
    "<script>window.hit=1</script>",
    "<img src=x onerror=window.hit=1>",
    "'\"><svg onload=window.hit=1>",
    "javascript:window.hit=1",
    "</style><style>@import 'http://127.0.0.1:9/x';</style>",
    "<img src=http://127.0.0.1:9/x>",
    "<meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'>",
    "{{7*7}}${7*7}<%= 7*7 %>",
    "\u202e\u2066<b>x</b>",
    "<base href=http://127.0.0.1:9/><a href=//127.0.0.1:9>x</a>",
)
_DOCUMENTS = (
    "labels/manifest.json",
    "labels/figures/labels.json",
    "labels/croissant.json",
    "catalog.json",
    *("data/dataset.json", "run/config.json"),
)
_PATIENCE_MS = 10_000


@dataclasses.dataclass
class PagesResult:
    """Pages opened, strings replaced, and what must not have happened."""

    pages: int = 0
    strings: int = 0
    failures: list[str] = dataclasses.field(default_factory=list)


def attack_pages(ground: Ground, folder: Path) -> PagesResult | None:
    """Open pages of archives with hostile strings in Chromium; None where there is no Chromium."""
    path = chromium_path()
    if path is None:
        return None
    result = PagesResult()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        for number, payload in enumerate(PAYLOADS):
            copy = folder / f"pages{number}"
            shutil.copytree(ground.whole, copy)
            result.strings += _replace_all(copy, payload)
            with contextlib.suppress(TeacherCacheError):  # a catalog that leaves all out is a refusal
                put_catalog(Store(copy), silent)
            (copy / PAGE_FILE).write_text(page_html(read_catalog(Store(copy)), payload))
            _open_all(browser, [(copy / PAGE_FILE).as_uri()], payload, result)
            with contextlib.suppress(InputError), _served(_explorer(copy)) as url:
                pages = ["index.html", "confusions.html", "classes/0.html", "samples/row/all/0.html"]
                pages += ["samples/label/all/0.html", "samples/row/1/0.html", "samples/0/0.html"]
                pages += [f"samples/{urllib.parse.quote(payload, safe='')}/all/0.html", "nowhere"]
                _open_all(browser, [url + page for page in pages], payload, result)
            report = copy / "report.html"
            if student_main(["report", str(copy / "run"), f"--out={report}"]) == 0:
                _open_all(browser, [report.as_uri()], payload, result)
            _service(browser, ground, copy, folder / f"service{number}", payload, result)
        browser.close()
    return result


def _service(
    browser: Browser, ground: Ground, copy: Path, folder: Path, payload: str, result: PagesResult
) -> None:
    """Open the pages of a service over the archives of a copy."""
    shutil.copytree(copy / "labels", folder / "archives" / "small" / "labels")
    shutil.copy(copy / CATALOG_FILE, folder / "archives" / CATALOG_FILE)
    serving = untrained_service(folder, "small", str(ground.whole / "data"))
    token = serving.new_token(payload[:64], "vision", ("read", "request"))
    serving.start()
    try:
        cookie = {"name": COOKIE, "value": token, "url": serving.url}
        pages = ["/", "/requests", "/explorer/small/labels/index.html"]
        pages += ["/explorer/small/labels/confusions.html", "/explorer/small/labels/samples/row/all/0.html"]
        pages += [f"/explorer/{urllib.parse.quote(payload, safe='')}/labels/index.html"]
        _open_all(browser, [serving.url + page for page in pages], payload, result, cookie)
    finally:
        serving.kill()


def _explorer(folder: Path) -> ASGIApp:
    return make_app(Collection(ArchiveReader(str(folder / "labels")), None))


def _replace_all(folder: Path, payload: str) -> int:
    """Put a payload into every string of the documents that their readers still take; return how many."""
    checks: dict[str, Callable[[], object]] = {
        "labels": lambda: Collection(ArchiveReader(str(folder / "labels")), None),
        "catalog.json": lambda: read_catalog(Store(folder)),
        "data": lambda: PackedDataset(str(folder / "data")),
        "run": lambda: student_main(["report", str(folder / "run"), f"--out={folder / 'x.html'}"]),
    }
    names = [
        *_DOCUMENTS,
        *(str(file.relative_to(folder)) for file in folder.glob("labels/signatures/*.json")),
    ]
    count = 0
    for name in names:
        file = folder / name
        if not file.is_file():
            continue
        check = checks[CATALOG_FILE if name == CATALOG_FILE else name.partition("/")[0]]
        document, is_sealed = _opened(file)
        for holder, key in list(_strings(document)):
            before, holder[key] = holder[key], payload
            _write(file, document, is_sealed=is_sealed)
            try:
                check()
                is_taken = "signatures" not in name or bool(statements_of(Store(folder / "labels")))
            except (InputError, OSError):
                is_taken = False
            if not is_taken:
                holder[key] = before
            count += is_taken
        _write(file, document, is_sealed=is_sealed)
    return count


def _opened(file: Path) -> tuple[Any, bool]:
    try:
        return unseal(file.read_bytes()), True
    except ValueError:
        return json.loads(file.read_text()), False


def _write(file: Path, document: Any, *, is_sealed: bool) -> None:
    file.write_bytes(seal(document) if is_sealed else json.dumps(document).encode())


def _strings(value: Any) -> Iterator[tuple[Any, Any]]:
    pairs: Any = value.items() if isinstance(value, dict) else enumerate(value)
    for name, inner in list(pairs):
        if isinstance(inner, str):
            yield value, name
        elif isinstance(inner, (dict, list)):
            yield from _strings(inner)


def _open_all(
    browser: Browser, urls: list[str], payload: str, result: PagesResult, cookie: Any = None
) -> None:
    context = browser.new_context()
    if cookie is not None:
        context.add_cookies([cookie])
    page, asked = context.new_page(), collections.Counter[str]()
    page.on("request", lambda request: asked.update([request.url]))
    page.on("dialog", lambda dialog: result.failures.append(f"{payload}: a dialog: {dialog.message}"))
    for url in urls:
        asked.clear()
        try:
            answer = page.goto(url, timeout=_PATIENCE_MS)
        except Error as error:
            result.failures.append(f"{payload}: {url}: {error}")
            continue
        result.pages += 1
        page.wait_for_timeout(20)
        own = urllib.parse.urlsplit(url)
        others = [one for one in asked if urllib.parse.urlsplit(one).netloc != own.netloc or ":9/" in one]
        if page.evaluate("window.hit") or others or page.url != url:
            result.failures.append(f"{payload}: {url}: a script ran, or another host was asked: {others}")
        if answer is not None and answer.status >= 500:
            result.failures.append(f"{payload}: {url}: {answer.status}")
    context.close()


@contextlib.contextmanager
def _served(app: ASGIApp) -> Iterator[str]:
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        threading.Event().wait(0.02)
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join()
