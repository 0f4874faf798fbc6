"""Access to routes: who asks, by bearer token or cookie, and whether the token's scopes allow it."""

from __future__ import annotations

import collections
import hashlib
import math
import threading
from collections.abc import Callable
from urllib.parse import urlsplit

from fastapi import HTTPException, Request

from pipelines.service.database.tokens import Scope, Tokens, User
from pipelines.service.http.guard import BEARER, RateLimit

COOKIE = "teacher_cache_token"
_KEPT_S, _KEPT = 2.0, 4096
"""Seconds for which a valid token is cached, and the largest number of cached tokens."""
_MAX_TOKEN = 256
_OTHER_SITE = "the request comes from a page of another site"
_SAFE = ("GET", "HEAD", "OPTIONS")


class Access:
    """Checks the user and the scopes of each request to a server.

    Args:
        netloc: Host and port under which users reach the server.
    """

    def __init__(self, tokens: Tokens, limit: RateLimit, netloc: str, now: Callable[[], float]) -> None:
        self._tokens, self._limit, self._netloc, self._now = tokens, limit, netloc, now
        self._known: collections.OrderedDict[bytes, tuple[float, User]] = collections.OrderedDict()
        self._lock = threading.Lock()

    def user_with(self, request: Request, scope: Scope) -> User:
        """Return the user who asks. Raises HTTPException: 401 without a token, 403 without the scope."""
        found = self.user_of(request)
        if found is None:
            headers = {"WWW-Authenticate": BEARER}
            raise HTTPException(401, "a valid token is needed", headers=headers)
        if scope not in found.scopes:
            raise HTTPException(403, f"this token has no scope {scope}")
        return found

    def limit(self, user: User) -> None:
        """Count a request of a user. Raises HTTPException if there were too many."""
        wait_s = self._limit.take(user.token or "")
        if wait_s:
            headers = {"Retry-After": str(math.ceil(wait_s))}
            raise HTTPException(429, "too many requests of this token", headers=headers)

    def user_of(self, request: Request) -> User | None:
        """Return the user who asks; None without a valid token.

        Raises:
            HTTPException: A page of another site asks for a change with the user's cookie.
        """
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._user(token.strip())
        cookie = request.cookies.get(COOKIE)
        if cookie is None:
            return None
        if request.method not in _SAFE and not self._is_from_here(request):
            raise HTTPException(403, _OTHER_SITE)
        return self._user(cookie)

    def refuse_other_sites(self, request: Request) -> None:
        """Refuse to sign a user in or out for a page of another site. Raises HTTPException."""
        if "origin" in request.headers and not self._is_from_here(request):
            raise HTTPException(403, _OTHER_SITE)

    def forget(self) -> None:
        """Empty the cache of tokens, because one has just been revoked."""
        with self._lock:
            self._known.clear()

    def _is_from_here(self, request: Request) -> bool:
        origin = request.headers.get("origin")
        hosts = (self._netloc, request.headers.get("host"))
        try:
            return origin is not None and urlsplit(origin).netloc in hosts
        except ValueError:  # no URL at all
            return False

    def _user(self, token: str) -> User | None:
        if not token or len(token) > _MAX_TOKEN:
            return None
        key, now = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest(), self._now()
        with self._lock:
            until, user = self._known.get(key, (0.0, None))
        if user is not None and now < until:
            return user
        user = self._tokens.user(token)
        with self._lock:
            self._known.pop(key, None)
            if user is not None:
                self._known[key] = (min(now + _KEPT_S, user.expires), user)
                while len(self._known) > _KEPT:
                    self._known.popitem(last=False)
        return user
