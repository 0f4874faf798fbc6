"""Run the commands of the service, and print what they did."""

from __future__ import annotations

from typing import Any

from pipelines.service.flags import RequestConfig, ServeConfig, TokenConfig
from teacher_cache.program.commandline import packages_of, show
from teacher_cache.program.say import say_on_stderr

_ASKED = ("data", "teacher", "recipe", "views", "img_size", "topk", "values", "affinity", "follow", "webhook")


def serve(config: ServeConfig) -> int:
    """Serve until the process is stopped."""
    with packages_of("service", "serve"):
        from pipelines.service.run import serve as run
    run(config.config)
    return 0


def token(config: TokenConfig) -> int:
    """Make a token, and print it."""
    with packages_of("service", "token"):
        from pipelines.service.config import read_config
        from pipelines.service.database.tokens import make_token
    token_id, secret = make_token(read_config(config.config), config)
    lines = [secret, f"id {token_id}; this token is shown only once: store it in TEACHER_CACHE_TOKEN"]
    show(config, {"id": token_id, "token": secret}, lines)
    return 0


def request(config: RequestConfig) -> int:
    """Send a request to a service; with --wait, the exit code is 1 if the job failed."""
    from teacher_cache.sharing.client import ENDED, Client, line_of

    client = Client()
    asked = {name: getattr(config, name) for name in _ASKED}
    if config.action == "resolve":
        found: Any = client.resolve(**asked)
        link = found["link"]["labels"] if found["link"] else "Not available yet. Submit a request."
        show(config, found, [f"{found['state']}: views {found['views']}, missing {found['missing']}", link])
        return 0
    if config.action == "list":
        jobs = client.requests()
        show(config, jobs, [line_of(job) for job in jobs] or ["nothing was asked for yet"])
        return 0
    if config.action == "submit":
        job = client.request(**asked)
    elif config.action == "show":
        job = client.show(config.id or "")
    else:
        job = client.act(config.action, config.id or "")
    if config.wait:
        job = client.wait(job["id"], say_on_stderr)
    lines = [line_of(job), *([job["link"]["labels"]] if job["link"] else [])]
    if config.action == "cancel" and job["state"] not in ENDED:
        lines.append("it is being cancelled: its process is told to stop")
    show(config, job, lines)
    is_bad = config.wait and job["state"] != "done"
    if is_bad and job["error"]:
        say_on_stderr(job["error"])
    return 1 if is_bad else 0
