"""Configuration of the service: service.yaml, with every place that a request may name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from teacher_cache.errors import InputError
from teacher_cache.models.kinds import Precision
from teacher_cache.program.flags import absolute
from teacher_cache.storage.store import Store
from teacher_cache.views.recipe import NAMED

NAME_PATTERN = "^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$"
Name: TypeAlias = Annotated[str, Meta(pattern=NAME_PATTERN)]
"""Name of a dataset, teacher, recipe or team: a part of an archive's path."""
_Positive = Annotated[float, Meta(gt=0)]
_Count = Annotated[int, Meta(ge=1)]


class TeacherSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Teacher that requests may name.

    Attributes:
        teacher: Name as `extract --teacher` takes it.
        checkpoint: File of weights, or None for those of the hub.
        pretrained: Whether to load weights from the hub.
        precision: Type of the forward pass.
        model_kwargs: Arguments name=value of the model.
        device: Device of the teacher.
        batch_size: Views in a batch.
        workers: Processes that render.
    """

    teacher: str
    checkpoint: str | None = None
    pretrained: bool = True
    precision: Precision = "auto"
    model_kwargs: tuple[str, ...] = ()
    device: str = "auto"
    batch_size: _Count = 64
    workers: Annotated[int, Meta(ge=0)] = 0


class LocalSection(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="local", tag_field="kind"
):
    """Executor of jobs as processes of the server's machine.

    Attributes:
        slots: Jobs at a time, of each server.
    """

    slots: _Count = 1


class RaySection(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="ray", tag_field="kind"
):
    """Executor of jobs on a Ray cluster, over its Jobs API.

    Attributes:
        dashboard: URL of the cluster's dashboard.
        slots: Jobs at a time, of each server.
        max_actors: Ray actors of a job.
        gpus_per_actor: GPUs of an actor; the flag's default where absent.
    """

    dashboard: str
    slots: _Count = 4
    max_actors: _Count = 4
    gpus_per_actor: Annotated[float, Meta(ge=0)] | None = None


class TeamSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Team of users.

    Attributes:
        share: Share of the hours, relative to those of other teams.
    """

    share: _Positive = 1.0


class WebhookSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Webhooks that requests may ask for.

    Attributes:
        hosts: Hosts that may be notified, with the port if it is not the scheme's default.
        secret_file: File of the key that signs each message (HMAC-SHA256).
    """

    hosts: tuple[str, ...]
    secret_file: str


class ServiceConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Configuration of the service.

    Attributes:
        url: URL under which users reach the service; links name its host.
        data: Packed datasets by name: folders or URLs.
        archives: Folder or bucket of the archives.
        teachers: Teachers by name.
        teams: Teams by name; tokens belong to one of them.
        images_in: Folders and buckets that datasets in place may read images from, besides their own.
        listen: Address and port of the server.
        database: URL of the database, as SQLAlchemy takes it.
        database_password_file: File of the database's password, such as a Docker secret.
        recipes: Recipes by name, names of the program's recipes or YAML files; by default the program's.
        executor: Executor of the jobs; by default processes of the server's machine.
        views_per_unit: Views of a unit; requests are widened to whole units.
        max_views: Exclusive upper limit of the view indices that can be requested.
        approval_gpu_hours: GPU hours above which a job waits for approval.
        approval_label_bytes: Bytes of labels above which a job waits for approval.
        price_per_gpu_hour: Price of an hour, for plans.
        plan_timeout_s: Seconds after which a plan is ended and its job fails; its time is charged.
        stalled_after_s: Seconds without a finished unit after which a job is ended and fails.
        stop_grace_s: Seconds in which a command that is asked to stop must end, before it is killed.
        give_way_after_s: Seconds that a job runs before it gives way to a team that used less.
        max_attempts: Number of kills of a job's process after which the job fails instead of restarting.
        lease_s: Seconds after which another server takes over a job whose server stopped renewing its lease.
        requests_per_s: Requests a second of one token, in the long run.
        burst: Requests of one token at once.
        max_body_bytes: Size limit of a request's body.
        request_timeout_s: Seconds within which a request must have arrived.
        max_connections: Connections at a time; more are refused.
        webhooks: Webhooks that requests may ask for; by default none.
    """

    url: str
    data: dict[Name, str]
    archives: str
    teachers: dict[Name, TeacherSection]
    teams: dict[Name, TeamSection]
    images_in: tuple[str, ...] = ()
    listen: str = "127.0.0.1:8000"
    database: str = "sqlite:///service.db"
    database_password_file: str | None = None
    recipes: dict[Name, str] = msgspec.field(default_factory=lambda: {name: name for name in NAMED})
    executor: LocalSection | RaySection = LocalSection()
    views_per_unit: Annotated[int, Meta(ge=1, le=32)] = 4
    max_views: Annotated[int, Meta(ge=1, le=2**20)] = 1024
    approval_gpu_hours: Annotated[float, Meta(ge=0)] = 1.0
    approval_label_bytes: Annotated[int, Meta(ge=0)] = 10**11
    price_per_gpu_hour: Annotated[float, Meta(ge=0)] | None = None
    plan_timeout_s: _Positive = 300.0
    stalled_after_s: _Positive = 7200.0
    stop_grace_s: _Positive = 120.0
    give_way_after_s: Annotated[float, Meta(ge=0)] = 600.0
    max_attempts: _Count = 25
    lease_s: Annotated[float, Meta(ge=1)] = 30.0
    requests_per_s: _Positive = 50.0
    burst: _Count = 200
    max_body_bytes: _Count = 65536
    request_timeout_s: _Positive = 15.0
    max_connections: _Count = 2000
    webhooks: WebhookSection | None = None

    @property
    def netloc(self) -> str:
        """Host and port of `url`."""
        return urlsplit(self.url).netloc

    @property
    def address(self) -> tuple[str, int]:
        """Address and port of `listen`."""
        host, _, port = self.listen.rpartition(":")
        return host, int(port)


def read_config(file: str) -> ServiceConfig:
    """Read service.yaml; relative paths in it are relative to its folder.

    Raises:
        InputError: The file cannot be read, or a value is missing, unknown or out of bounds.
    """
    try:
        config = msgspec.yaml.decode(Path(file).read_bytes(), type=ServiceConfig)
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError(f"{file}: {error}", "The service does not start.", "correct the file") from error
    _check(config, file)
    folder = str(Path(file).absolute().parent)
    config = _with_absolute_paths(config, folder)
    secrets = {
        "database": config.database.partition("sqlite:///")[2],
        "database_password_file": config.database_password_file,
        "webhooks.secret_file": config.webhooks.secret_file if config.webhooks else None,
        "the file itself": str(Path(file).absolute()),
    }
    for name, path in secrets.items():
        if path and Path(path).resolve().is_relative_to(Path(config.archives).resolve()):
            raise InputError(
                f"{file}: {name}, {path}, is inside the folder of archives",
                "Every user who may read archives could download it.",
                "choose a path outside the folder of archives",
            )
    return config


def _with_absolute_paths(config: ServiceConfig, folder: str) -> ServiceConfig:
    return msgspec.structs.replace(
        config,
        data={name: absolute(url, folder) for name, url in config.data.items()},
        images_in=tuple(absolute(place, folder) for place in config.images_in),
        archives=absolute(config.archives, folder),
        database=_database(config.database, folder),
        database_password_file=config.database_password_file
        and absolute(config.database_password_file, folder),
        recipes={
            name: absolute(recipe, folder) if recipe.endswith((".yaml", ".yml")) else recipe
            for name, recipe in config.recipes.items()
        },
        teachers={
            name: msgspec.structs.replace(
                section, checkpoint=section.checkpoint and absolute(section.checkpoint, folder)
            )
            for name, section in config.teachers.items()
        },
        webhooks=config.webhooks
        and msgspec.structs.replace(
            config.webhooks, secret_file=absolute(config.webhooks.secret_file, folder)
        ),
    )


def _check(config: ServiceConfig, file: str) -> None:
    url, (host, colon, port) = urlsplit(config.url), config.listen.rpartition(":")
    problems = {
        f"url {config.url}": url.scheme in ("http", "https") and url.netloc and url.path in ("", "/"),
        f"listen {config.listen}": host and colon and port.isdecimal() and int(port) < 2**16,
        "data": config.data,
        "teachers": config.teachers,
        "teams": config.teams,
        f"archives {config.archives}": "://" not in config.archives or Store(config.archives).can_list,
    }
    for what, is_right in problems.items():
        if not is_right:
            raise InputError(
                f"{file}: {what} cannot be used",
                "The service does not start.",
                "give url: https://HOST, listen: ADDRESS:PORT, a writable folder or bucket for archives, and "
                "at least one dataset, teacher and team",
            )


def _database(url: str, folder: str) -> str:
    scheme, separator, path = url.partition(":///")
    return f"{scheme}:///{absolute(path, folder)}" if scheme == "sqlite" and separator else url
