"""Pages of the service for people: catalog, explorer, requests, and the progress of each."""

from __future__ import annotations

import datetime
import functools
from typing import Any
from urllib.parse import quote

import jinja2
import pydantic
from fastapi import APIRouter, Form, HTTPException, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp

from pipelines.explorer.app import make_app
from pipelines.explorer.collection import Collection
from pipelines.service.access import COOKIE
from pipelines.service.answers import job_answer
from pipelines.service.api import JobId, may_change
from pipelines.service.ask import Ask
from pipelines.service.service import Service
from pipelines.service.tokens import User
from teacher_cache.archive.read import ArchiveReader
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import InputError
from teacher_cache.sharing.catalog_file import CATALOG_FILE, read_catalog
from teacher_cache.sharing.catalog_page import text_of_bytes
from teacher_cache.storage.store import Store

_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_MAX_TOKEN = 256
_JOBS = 200
_EXPLORERS = 4
"""Number of archives whose explorers stay open."""
_NAMES = ("service.css", "service.js")
_TYPES = {"css": "text/css", "js": "text/javascript"}


class Pages:
    """Pages of a service.

    Args:
        service: Service whose jobs and archives are shown.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        loaders = [
            jinja2.PackageLoader("pipelines.service", "pages"),
            jinja2.PackageLoader("teacher_cache.sharing", "pages"),
        ]
        self._environment = jinja2.Environment(
            loader=jinja2.ChoiceLoader(loaders), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        self._environment.filters |= {
            "bytes": text_of_bytes,
            "time": _time,
            "number": _number,
        }

    def page(self, name: str, user: User | None, status: int = 200, **values: Any) -> Response:
        """Return a page from its template."""
        text = self._environment.get_template(f"{name}.html.jinja").render(user=user, **values)
        return HTMLResponse(text.encode("utf-8", "replace"), status)

    def file(self, name: str) -> Response:
        """Return the style or the script of the pages."""
        text = self._environment.get_template(name).render()
        return Response(text, media_type=_TYPES[name.rpartition(".")[2]])

    def catalog(self, user: User) -> Response:
        """Return the page of archives."""
        service = self._service
        root = Store(service.config.archives)
        catalog = read_catalog(root) if root.stat(CATALOG_FILE) is not None else None
        return self.page("catalog_of_service", user, catalog=catalog, netloc=service.config.netloc)

    def requests(self, user: User, problem: str = "", status: int = 200) -> Response:
        """Return the page of requests, with the form for a new one."""
        service = self._service
        jobs = [job_answer(row, service.config) for row in service.books.jobs(None, _JOBS)]
        return self.page("requests", user, status, jobs=jobs, offer=service.offer(), problem=problem)

    def request(self, user: User, job: str, problem: str = "", status: int = 200) -> Response:
        """Return the page of a request. Raises HTTPException if there is none."""
        row = self._service.books.job(job)
        if row is None:
            raise HTTPException(404, "there is no such request")
        answer = job_answer(row, self._service.config)
        may_act = row["team"] == user.team or "admin" in user.scopes
        return self.page(
            "request",
            user,
            status,
            job=answer,
            askers=self._service.books.askers(job),
            may_cancel=may_act and "request" in user.scopes,
            problem=problem,
        )

    @functools.lru_cache(maxsize=_EXPLORERS)  # noqa: B019  # a server has one Pages
    def explorer(self, archive: str, manifest_sha256: str) -> ASGIApp:
        """Return the explorer of an archive at a manifest, with its images if the service has them."""
        config = self._service.config
        del manifest_sha256
        reader = ArchiveReader(f"{config.archives}/{archive}")
        data = config.data.get(archive.partition("/")[0])
        dataset = None if data is None else PackedDataset(data)
        if dataset is not None and dataset.info.sha256 != reader.spec.dataset["sha256"]:
            dataset = None
        return make_app(Collection(reader, dataset), hosts=None)


def make_pages(service: Service) -> APIRouter:
    """Return the routes of the pages."""
    routes, pages, access = APIRouter(include_in_schema=False), Pages(service), service.access

    def user_or_login(request: Request) -> User | None:
        user = access.user_of(request)
        if user is None or "read" not in user.scopes:
            return None
        access.limit(user)
        return user

    def login(to: str, problem: str = "", status: int = 401) -> Response:
        return pages.page("login", None, status, to=to, problem=problem)

    @routes.get("/")
    def catalog(request: Request) -> Response:
        user = user_or_login(request)
        return login("/") if user is None else pages.catalog(user)

    @routes.get("/pages/{name}")
    def file(name: str) -> Response:
        if name not in _NAMES:
            raise HTTPException(404, "there is no such file")
        return pages.file(name)

    @routes.get("/requests")
    def requests(request: Request) -> Response:
        user = user_or_login(request)
        return login("/requests") if user is None else pages.requests(user)

    @routes.post("/requests")
    async def ask(request: Request) -> Response:
        user = await run_in_threadpool(user_or_login, request)
        if user is None:
            return login("/requests")
        form = {name: value for name, value in (await request.form()).items() if value != ""}
        return await run_in_threadpool(_submit, user, form)

    def _submit(user: User, form: dict[str, Any]) -> Response:
        if "request" not in user.scopes:
            return pages.requests(user, "This token may not ask for labels: it has no scope request.", 403)
        try:
            asked = {**form, "follow": form.get("follow") == "on"}
            asked |= {name: int(form[name]) for name in ("topk", "img_size") if name in form}
            job = service.submit(Ask(**asked), user)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            return pages.requests(user, f"{' '.join(map(str, first['loc']))}: {first['msg']}", 400)
        except (InputError, ValueError, TypeError) as error:
            return pages.requests(user, str(error), 400)
        return RedirectResponse(f"/requests/{job.id}", 303)

    @routes.get("/requests/{job}")
    def request_page(job: JobId, request: Request) -> Response:
        user = user_or_login(request)
        return login(f"/requests/{job}") if user is None else pages.request(user, job)

    @routes.post("/requests/{job}/{action}")
    def act(job: JobId, action: str, request: Request) -> Response:
        user = user_or_login(request)
        if user is None:
            return login(f"/requests/{job}")
        needed = {"approve": "approve", "cancel": "request", "retry": "request"}.get(action)
        if needed is None:
            raise HTTPException(404, "there is no such action")
        if needed not in user.scopes:
            return pages.request(user, job, f"This token has no scope {needed}.", 403)
        if needed == "request":
            may_change(service.books.job(job), user)
        try:
            service.ledger.act(action, job, user)  # type: ignore[arg-type]
        except InputError as error:
            return pages.request(user, job, str(error), 409)
        return RedirectResponse(f"/requests/{job}", 303)

    @routes.post("/login")
    def enter(token: str = Form(max_length=_MAX_TOKEN), to: str = Form("/", max_length=256)) -> Response:
        user = service.tokens.user(token.strip())
        if user is None or "read" not in user.scopes:
            return login(to, "This token is unknown, has expired, or may not read.")
        place = to if to.startswith("/") and not to.startswith(("//", "/\\")) else "/"
        response = RedirectResponse(quote(place, safe="/"), 303)
        is_secure = service.config.url.startswith("https:")
        response.set_cookie(
            COOKIE, token.strip(), httponly=True, samesite="strict", secure=is_secure, max_age=86400
        )
        return response

    @routes.post("/logout")
    def leave() -> Response:
        response = RedirectResponse("/", 303)
        response.delete_cookie(COOKIE)
        return response

    @routes.get("/explorer/{dataset}/{name}/{rest:path}")
    async def explore(dataset: str, name: str, rest: str, request: Request) -> Response:
        user = await run_in_threadpool(user_or_login, request)
        if user is None:
            return login(f"/explorer/{dataset}/{name}/")
        app = await run_in_threadpool(_explorer, f"{dataset}/{name}")
        return _Forwarded(app, f"/{rest}")

    def _explorer(archive: str) -> ASGIApp:
        objects = service.objects
        digest = objects.digest(f"{archive}/manifest.json")
        if digest is None:
            raise HTTPException(404, "there is no such archive, or it is not finished")
        try:
            return pages.explorer(archive, digest)
        except InputError as error:
            raise HTTPException(404, error.value) from error

    return routes


class _Forwarded(Response):
    """Response of another application, below a path of this one."""

    def __init__(self, app: ASGIApp, path: str) -> None:
        super().__init__()
        self._app, self._path = app, path

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Let the other application answer."""
        inner = {**scope, "path": self._path, "raw_path": self._path.encode(), "root_path": ""}
        for name in ("endpoint", "path_params", "route", "router", "app"):
            inner.pop(name, None)
        await self._app(inner, receive, send)


def policy_of(path: str) -> str | None:
    """Return the content security policy of a page; None where the page brings its own."""
    return None if path.startswith("/explorer/") else _POLICY


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "—"
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(" ", "seconds")[:19] + " UTC"


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:,.3g}"
