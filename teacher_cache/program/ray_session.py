"""How a Ray cluster is reached, and how one is started."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading

import ray
import ray.exceptions

from teacher_cache.errors import InputError

_ANSWER_WITHIN_S = 10.0


def connect(address: str | None, flag: str) -> None:
    """Connect to a cluster, or start one on this machine.

    Args:
        address: As `ray.init` takes it; None starts one, whatever Ray there has been on this machine.
        flag: Where it was given, for the error.

    Raises:
        InputError: There is no such cluster.
    """
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        _check_answers(os.environ.get("RAY_ADDRESS") if address == "auto" else address)
        ray.init(address=address or "local", logging_level=logging.WARNING, log_to_driver=False)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{flag} {address or 'local'}: {reason}",
            "There is no Ray cluster to work on.",
            f"give the address of one, with its token in RAY_AUTH_TOKEN, or leave {flag} out",
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray puts one of its own in its place


def _check_answers(address: str | None) -> None:
    """Refuse a host:port where nobody listens: Ray would go on trying for minutes. Raises OSError."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit() and "://" not in host:
        with socket.create_connection((host, int(port)), timeout=_ANSWER_WITHIN_S):
            pass
