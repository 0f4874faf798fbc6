"""Pages of the service for people: catalog, explorer, requests, and the progress of each."""

from __future__ import annotations

import datetime
import functools
import logging
from typing import Annotated, Any
from urllib.parse import quote

import jinja2
import pydantic
from fastapi import APIRouter, Depends, Form, HTTPException, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp

from pipelines.service.ask import Ask
from pipelines.service.database.tokens import User
from pipelines.service.http.access import COOKIE
from pipelines.service.http.answers import request_answer
from pipelines.service.http.api import Here, JobId, may_change
from pipelines.service.http.permits import WRITES, service_of
from pipelines.service.http.service import Service
from teacher_cache.errors import InputError
from teacher_cache.sharing.catalog_file import CATALOG_FILE, read_catalog
from teacher_cache.sharing.catalog_page import text_of_bytes
from teacher_cache.storage.store import Store

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_LOG = logging.getLogger(__name__)
_MAX_TOKEN = 256
_JOBS = 200
_SCOPES = {"approve": "approve", "cancel": "request", "retry": "request"}
"""Scope that a token needs for each action on a job."""
_NAMES = ("service.css", "service.js")
_TYPES = {"css": "text/css", "js": "text/javascript"}


pages = APIRouter(include_in_schema=False)


@functools.cache
def _environment() -> jinja2.Environment:
    loaders = [
        jinja2.PackageLoader("pipelines.service.http", "templates"),
        jinja2.PackageLoader("teacher_cache.sharing", "pages"),
    ]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"bytes": text_of_bytes, "time": _time, "number": _number}
    return environment


def _page(name: str, user: User | None, status: int = 200, **values: Any) -> Response:
    """Return a page from its template."""
    text = _environment().get_template(f"{name}.html.jinja").render(user=user, **values)
    return HTMLResponse(text.encode("utf-8", "replace"), status)


def _login_page(to: str, problem: str = "", status: int = 401) -> Response:
    return _page("login", None, status, to=to, problem=problem)


def _requests_page(service: Service, user: User, problem: str = "", status: int = 200) -> Response:
    """Return the page of requests, with the form for a new one."""
    jobs = [request_answer(job, service.config) for job in service.queries.jobs(None, _JOBS)]
    return _page("requests", user, status, jobs=jobs, offer=service.offer(), problem=problem)


def _request_page(service: Service, user: User, job: str, problem: str = "", status: int = 200) -> Response:
    """Return the page of a request. Raises HTTPException if there is none."""
    found = service.queries.job(job)
    if found is None:
        raise HTTPException(404, "there is no such request")
    may_act = found.team == user.team or "admin" in user.scopes
    return _page(
        "request",
        user,
        status,
        job=request_answer(found, service.config),
        askers=service.queries.askers(job),
        may_cancel=may_act and "request" in user.scopes,
        problem=problem,
    )


def _user_or_login(request: Request) -> User | Response:
    """Return the user of a page, or the page to sign in, which leads back to the page."""
    access = service_of(request).access
    user = access.user_of(request)
    if user is None or "read" not in user.scopes:
        return _login_page(request.url.path)
    access.limit(user)
    return user


Visitor = Annotated[User | Response, Depends(_user_or_login)]


@pages.get("/")
def catalog(service: Here, user: Visitor) -> Response:
    """Return the page of archives."""
    if isinstance(user, Response):
        return user
    root = Store(service.config.archives)
    found = read_catalog(root) if root.stat(CATALOG_FILE) is not None else None
    return _page("catalog_of_service", user, catalog=found, netloc=service.config.netloc)


@pages.get("/pages/{name}")
def file(name: str) -> Response:
    """Return the style or the script of the pages."""
    if name not in _NAMES:
        raise HTTPException(404, "there is no such file")
    text = _environment().get_template(name).render()
    return Response(text, media_type=_TYPES[name.rpartition(".")[2]])


@pages.get("/requests")
def requests(service: Here, user: Visitor) -> Response:
    """Return the page of requests."""
    return user if isinstance(user, Response) else _requests_page(service, user)


@pages.post("/requests", dependencies=WRITES)
async def ask(request: Request, service: Here, user: Visitor) -> Response:
    """Submit the request in the form, and redirect to its page."""
    if isinstance(user, Response):
        return user
    form = {name: value for name, value in (await request.form()).items() if value != ""}
    return await run_in_threadpool(_submit, service, user, form)


def _submit(service: Service, user: User, form: dict[str, Any]) -> Response:
    if "request" not in user.scopes:
        return _requests_page(
            service, user, "This token may not ask for labels: it has no scope request.", 403
        )
    try:
        asked = {**form, "follow": form.get("follow") == "on"}
        asked |= {name: int(form[name]) for name in ("topk", "img_size") if name in form}
        job = service.submit(Ask(**asked), user)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        return _requests_page(service, user, f"{' '.join(map(str, first['loc']))}: {first['msg']}", 400)
    except (InputError, ValueError, TypeError) as error:
        return _requests_page(service, user, str(error), 400)
    return RedirectResponse(f"/requests/{job.id}", 303)


@pages.get("/requests/{job}")
def request_page(job: JobId, service: Here, user: Visitor) -> Response:
    """Return the page of a request."""
    return user if isinstance(user, Response) else _request_page(service, user, job)


@pages.post("/requests/{job}/{action}", dependencies=WRITES)
def act(job: JobId, action: str, service: Here, user: Visitor) -> Response:
    """Approve, cancel or retry a job."""
    if isinstance(user, Response):
        return _login_page(f"/requests/{job}")
    needed = _SCOPES.get(action)
    if needed is None:
        raise HTTPException(404, "there is no such action")
    if needed not in user.scopes:
        return _request_page(service, user, job, f"This token has no scope {needed}.", 403)
    if needed == "request":
        may_change(service.queries.job(job), user)
    try:
        service.act(action, job, user)  # type: ignore[arg-type]
    except InputError as error:
        return _request_page(service, user, job, str(error), 409)
    return RedirectResponse(f"/requests/{job}", 303)


@pages.post("/login")
def enter(
    request: Request,
    service: Here,
    token: str = Form(max_length=_MAX_TOKEN),
    to: str = Form("/", max_length=256),
) -> Response:
    """Sign in, and go back to the page that asked for it."""
    service.access.refuse_other_sites(request)
    user = service.tokens.user(token.strip())
    if user is None or "read" not in user.scopes:
        return _login_page(to, "This token is unknown, has expired, or may not read.")
    place = to if to.startswith("/") and not to.startswith(("//", "/\\")) else "/"
    response = RedirectResponse(quote(place, safe="/"), 303)
    is_secure = service.config.url.startswith("https:")
    response.set_cookie(
        COOKIE, token.strip(), httponly=True, samesite="strict", secure=is_secure, max_age=86400
    )
    return response


@pages.post("/logout")
def leave(request: Request, service: Here) -> Response:
    """Sign out."""
    service.access.refuse_other_sites(request)
    response = RedirectResponse("/", 303)
    response.delete_cookie(COOKIE)
    return response


@pages.get("/explorer/{dataset}/{name}/{rest:path}")
def explore(dataset: str, name: str, rest: str, service: Here, user: Visitor) -> Response:
    """Let the explorer of an archive answer."""
    if isinstance(user, Response):
        return _login_page(f"/explorer/{dataset}/{name}/")
    archive = f"{dataset}/{name}"
    digest = service.objects.digest(f"{archive}/manifest.json")
    if digest is None:
        raise HTTPException(404, "there is no such archive, or it is not finished")
    try:
        return _Forwarded(service.explorer(archive, digest), f"/{rest}")
    except InputError as error:
        _LOG.warning("the explorer of %s: %s", archive, error.value)
        raise HTTPException(404, "this archive cannot be shown") from error


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


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "—"
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(" ", "seconds")[:19] + " UTC"


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:,.3g}"
