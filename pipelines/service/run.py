"""Run the service: one server process, which others on the same database may join."""

from __future__ import annotations

import contextlib
import gc
import logging
import socket

import uvicorn

from pipelines.service.ask import check_offer
from pipelines.service.config import read_config
from pipelines.service.http.app import make_app
from pipelines.service.http.guard import allow_files, guarded_protocol
from pipelines.service.http.service import make_service
from teacher_cache.errors import InputError
from teacher_cache.program.say import say

_BACKLOG = 2048
_KEEP_ALIVE_S = 15


def serve(file: str) -> None:
    """Serve until the process is stopped; jobs of this server are stopped too, and others continue them.

    Raises:
        InputError: The configuration is wrong, or the address is taken.
    """
    config = read_config(file)
    check_offer(config)
    app = make_app(make_service(config))
    host, port = config.address
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), port))
        listener.listen(_BACKLOG)
    except OSError as error:
        raise InputError(
            f"listen {config.listen} cannot be used: {error.strerror}",
            "The service does not start.",
            "choose another address or port for `listen` in service.yaml",
        ) from error
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    allow_files(config.max_connections)
    gc.collect()
    gc.freeze()  # or each full collection looks at all modules again, and no request is answered meanwhile
    say(f"http://{host}:{listener.getsockname()[1]}/  (Ctrl-C stops it)")
    settings = uvicorn.Config(
        app,
        http=guarded_protocol(config.max_connections, config.request_timeout_s),
        log_level="warning",
        access_log=False,  # paths may be long, and headers hold tokens: /metrics counts instead
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=3,
        backlog=_BACKLOG,
        server_header=False,
        ws="none",
    )
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn has closed everything, and raises the signal again
        uvicorn.Server(settings).run(sockets=[listener])
