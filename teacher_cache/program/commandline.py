"""Command lines made from frozen dataclasses: one command per dataclass, one flag per field.

Every command takes `--config file.yaml` with the flags' names as keys; flags after it override it.
Exit codes: 0 done, 1 the work failed or a check fell short, 2 the request was wrong, 130 interrupted, 141 the
reader of the output has closed it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import json
import os
import select
import signal
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TextIO

import tyro
import yaml

from teacher_cache.errors import InputError, TeacherCacheError, masked, nearest
from teacher_cache.program.flags import JsonFlag
from teacher_cache.program.say import say, say_on_stderr


class Command(NamedTuple):
    """Command: the dataclass of its flags, and the function that runs it.

    Attributes:
        run: Function that takes an instance of `config` and returns the exit code.
        named: Functions that return a set of flags, by the NAME in `--run NAME`.
        has_own_config: Whether --config is a flag of the command itself, rather than a file of flags.
    """

    config: type
    run: Callable[[Any], int]
    named: Mapping[str, Callable[[], Mapping[str, Any]]] = {}
    has_own_config: bool = False


def run_command(prog: str, summary: str, commands: Mapping[str, Command], argv: Sequence[str]) -> int:
    """Parse `argv`, run the command it names, and return the exit code; errors are printed, not raised."""
    if argv and argv[0] in commands:
        return run_single(f"{prog} {argv[0]}", commands[argv[0]], argv[1:])
    return _reported(prog, lambda: _explain(prog, summary, commands, argv))


def _explain(prog: str, summary: str, commands: Mapping[str, Command], argv: Sequence[str]) -> int:
    """Print the commands where none is named, or that there is none of this name."""
    if not argv or argv[0] in ("-h", "--help"):
        say(_overview(prog, summary, commands))
        return 0 if argv else 2
    known = nearest(argv[0], commands) or f"known: {', '.join(commands)}"
    say_on_stderr(f"{prog} has no command {argv[0]!r}\n{known}")
    return 2


def run_single(prog: str, command: Command, argv: Sequence[str]) -> int:
    """Parse the flags of one command, run it, and return the exit code; errors are printed, not raised."""
    return _reported(prog, lambda: _run(prog, command, argv))


def _run(prog: str, command: Command, argv: Sequence[str]) -> int:
    signal.signal(signal.SIGTERM, _interrupt)
    if command.has_own_config:
        config = _with_plain_types(command.config)
        return command.run(tyro.cli(config, args=list(argv), prog=prog, description=config.__doc__))
    return command.run(parse(command.config, argv, prog, command.named))


def _reported(prog: str, call: Callable[[], int]) -> int:
    """Return the exit code of a call; print an error instead of raising it."""
    _make_output_safe()
    try:
        try:
            return call()
        finally:
            sys.stdout.flush()  # a full disk or a closed pipe is told here rather than when Python ends
    except BrokenPipeError:
        if not _is_closed(sys.stdout):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except TeacherCacheError as error:
        say_on_stderr(f"{prog}: {error}")
        return error.exit_code
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        say_on_stderr(f"{prog}: {error}: make room, then run the same command again")
        return TeacherCacheError.exit_code
    except KeyboardInterrupt:
        say_on_stderr(f"{prog}: stopped before it was done")
        return 128 + signal.SIGINT


def _is_closed(stream: TextIO) -> bool:
    """Return whether the reader of a stream has gone; another pipe may have broken instead."""
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _make_output_safe() -> None:
    """Let a character that a terminal cannot show, or output that is closed, end no command."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115, PTH123  # open as long as the program is
    sys.stderr = sys.stderr or sys.stdout
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def parse(
    config: type,
    argv: Sequence[str],
    prog: str,
    named: Mapping[str, Callable[[], Mapping[str, Any]]] | None = None,
) -> Any:
    """Build a config dataclass from flags; tyro prints help or an error, and exits 0 or 2."""
    epilogue = "--config FILE.yaml reads flags from a file; flags after it override it."
    if named:
        epilogue += f" --run NAME stands for flags in the same way; known: {', '.join(named)}."
    description = f"{config.__doc__}\n\n{epilogue}"
    words = _expand_run(_expand_config(argv), named or {})
    return tyro.cli(_with_plain_types(config), args=words, prog=prog, description=description)


def show(config: JsonFlag, values: Any, lines: Iterable[str]) -> None:
    """Print a command's result as one line of JSON with --json, else as lines of text.

    Args:
        values: Result as plain JSON values, or a dataclass of them.
    """
    if config.json:
        is_dataclass = dataclasses.is_dataclass(values) and not isinstance(values, type)
        say(masked(json.dumps(dataclasses.asdict(values) if is_dataclass else values)))
    else:
        say(masked("\n".join(lines)))


def _overview(prog: str, summary: str, commands: Mapping[str, Command]) -> str:
    width = max(map(len, commands))
    lines = [
        f"  {name:{width}}  {(command.config.__doc__ or '').splitlines()[0]}"
        for name, command in commands.items()
    ]
    usage = f"usage: {prog} COMMAND ...        {prog} COMMAND --help"
    return "\n".join([usage, "", summary, "", *lines])


def _with_plain_types(config: type) -> type:
    """Return a dataclass of flags whose type hints say typing.Union for X | Y, and tuple for tuple[str, ...].

    tyro treats both spellings alike, but checks the defaults of X | Y and tuple[str, ...] with typeguard,
    whose import takes a third of a short command's time.
    """
    hints = typing.get_type_hints(config, include_extras=True)
    config.__annotations__ = {name: _plain(hint) for name, hint in hints.items()}
    return config


def _plain(hint: Any) -> Any:
    if isinstance(hint, types.UnionType):
        return typing.Union[hint.__args__]  # noqa: UP007  # the very form that tyro looks for
    if typing.get_origin(hint) is Annotated:
        inner, *facts = typing.get_args(hint)
        return Annotated[_plain(inner), *facts]
    return tuple if hint == tuple[str, ...] else hint


def _interrupt(_signum: int, _frame: Any) -> None:
    raise KeyboardInterrupt


def _expand_config(argv: Sequence[str]) -> list[str]:
    """Replace `--config FILE` by the flags in the file."""
    words = [part for word in argv for part in _split(word)]
    while "--config" in words:
        position = words.index("--config")
        if position + 1 == len(words):
            raise InputError("--config without a file", "There is nothing to read.", "give a YAML file")
        words[position : position + 2] = _flags_of(words[position + 1])
    return words


def _expand_run(words: list[str], named: Mapping[str, Callable[[], Mapping[str, Any]]]) -> list[str]:
    """Replace `--run NAME` by the flags of that name."""
    while named and "--run" in words:
        position = words.index("--run")
        name = words[position + 1] if position + 1 < len(words) else ""
        if name not in named:
            raise InputError(
                f"--run {name}",
                "There is no run of that name.",
                nearest(name, named) or f"known: {', '.join(named)}",
            )
        words[position : position + 2] = as_words(named[name]())
    return words


def _split(word: str) -> list[str]:
    """Split `--config=FILE` and `--run=NAME` in two, because every other flag may be written with "="."""
    name, equals, value = word.partition("=")
    return [name, value] if equals and name in ("--config", "--run") else [word]


def _flags_of(file: str) -> list[str]:
    try:
        settings = yaml.safe_load(Path(file).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InputError(
            f"--config {file} cannot be read: {error}", "No flag was set.", "check the file"
        ) from error
    if not isinstance(settings, dict):
        raise InputError(
            f"--config {file} is not a mapping", "No flag was set.", "write one `flag: value` a line"
        )
    if "config" in settings:
        raise InputError(
            f"--config {file} names another config", "No flag was set.", "write the flags into one file"
        )
    return as_words(settings)


def as_words(settings: Mapping[str, Any]) -> list[str]:
    """Return flags, given as a mapping from name to value, as command-line arguments."""
    words: list[str] = []
    for name, value in settings.items():
        flag = str(name).replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, list | tuple):
            words += [f"--{flag}", *map(str, value)]
        else:
            words += [f"--{flag}", str(value)]
    return words


@contextlib.contextmanager
def packages_of(extra: str, what: str) -> Iterator[None]:
    """Turn an ImportError in the block into an InputError that names the extra to install."""
    try:
        yield
    except ImportError as error:
        raise InputError(
            f"{what}: {error}",
            "It needs packages that are not installed.",
            f"pip install 'teacher-cache[{extra}]'",
        ) from error
