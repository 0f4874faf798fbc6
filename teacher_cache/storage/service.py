"""Archives of a label service as stores: service://HOST/archives/..., read with the user's token.

Environment variables name the service and the token: TEACHER_CACHE_SERVICE is the URL of the service, and
TEACHER_CACHE_TOKEN the user's token, which is sent to no other service.
"""

from __future__ import annotations

import dataclasses
import os
import posixpath
from collections.abc import Mapping
from urllib.parse import urlsplit

import httpx
from typing_extensions import override

from teacher_cache.errors import DeniedError, InputError, UnreachableError
from teacher_cache.storage.paths import leads_upwards
from teacher_cache.storage.web import WebStore

SERVICE_VARIABLE, TOKEN_VARIABLE = "TEACHER_CACHE_SERVICE", "TEACHER_CACHE_TOKEN"
SCHEME = "service://"
_TIMEOUT_S = 30.0


@dataclasses.dataclass(frozen=True)
class ServicePlace:
    """Service that the environment names."""

    url: str
    token: str = dataclasses.field(repr=False)

    @property
    def netloc(self) -> str:
        """Host and port of the service."""
        return urlsplit(self.url).netloc

    @property
    def headers(self) -> dict[str, str]:
        """Headers of a request."""
        return {"Authorization": f"Bearer {self.token}"}

    def web_url(self, url: str) -> str:
        """Return the web address of a service:// URL.

        Raises:
            InputError: The URL is of another service, which is not sent this one's token.
        """
        netloc, slash, path = url.removeprefix(SCHEME).partition("/")
        if netloc != self.netloc:
            raise InputError(
                f"{url} is another service's URL, not of the service {self.url}",
                "The token of a service is not sent to another.",
                f"set {SERVICE_VARIABLE} and {TOKEN_VARIABLE} to those of {netloc}",
            )
        return f"{self.url}{slash}{path}"


def service_place(environment: Mapping[str, str] = os.environ) -> ServicePlace:
    """Return the service that the environment names.

    Raises:
        InputError: A variable is missing or does not hold a URL.
    """
    url, token = (environment.get(name, "").strip() for name in (SERVICE_VARIABLE, TOKEN_VARIABLE))
    parts = urlsplit(url)
    if not (token.isascii() and token.isprintable()):
        raise InputError(
            f"{TOKEN_VARIABLE} has characters that a token cannot have",
            "The service would refuse the token.",
            f"set {TOKEN_VARIABLE} to the token exactly as the administrator of the service gave it",
        )
    if parts.scheme not in ("http", "https") or not parts.netloc or not token:
        raise InputError(
            f"{SERVICE_VARIABLE}={url!r}, {TOKEN_VARIABLE} {'set' if token else 'not set'}",
            "The URL of a service and the token of a user are both needed.",
            f"set {SERVICE_VARIABLE} to its URL, such as https://labels.example.org, and {TOKEN_VARIABLE} "
            "to the token that its administrator made",
        )
    return ServicePlace(url.rstrip("/"), token)


class ServiceStore(WebStore):
    """Store of a label service's archive; only a student's list of the labels it needs next can be written.

    Raises:
        InputError: The environment names no service, or not the one in the URL.
    """

    @override
    def _open(self) -> None:
        self._place = service_place()
        self._options = {"headers": self._place.headers}
        super()._open()

    @override
    def _url_to_open(self) -> str:
        return self._place.web_url(self.url)

    @override
    def _url_beside(self, relative_url: str) -> str:
        path = posixpath.normpath(posixpath.join(self.url.removeprefix(SCHEME), relative_url))
        if leads_upwards(path) or not path.startswith(f"{self._place.netloc}/archives/"):
            raise ValueError(f"{relative_url!r} leads from {self.url} out of the service's archives")
        return SCHEME + path

    @override
    def put(self, name: str, data: bytes) -> None:
        url = self.path(name)
        try:
            answer = httpx.put(
                url,
                content=data,
                headers={**self._place.headers, "Content-Type": "application/json"},
                timeout=_TIMEOUT_S,
            )
        except httpx.HTTPError as error:
            raise UnreachableError(
                f"{url} cannot be reached: {error}", "Nothing was written.", "run the same command again"
            ) from error
        if answer.is_error:
            raise DeniedError(
                f"{url} cannot be written: the service answers {answer.status_code}",
                "Nothing was written.",
                "ask for a token with the scope request",
            )
