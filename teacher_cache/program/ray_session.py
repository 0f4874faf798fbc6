"""Connect to a Ray cluster, or start one."""

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
        address: Address for `ray.init`; None starts a new cluster, even if one runs on this machine.
        flag: Flag that gave the address, for the error.

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
            "The command needs a Ray cluster to run on.",
            f"give a cluster's address, with its token in RAY_AUTH_TOKEN, or run without {flag}",
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray replaced the handler by its own


def _check_answers(address: str | None) -> None:
    """Refuse a host:port that does not answer, which Ray would retry for minutes. Raises OSError."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit() and "://" not in host:
        with socket.create_connection((host, int(port)), timeout=_ANSWER_WITHIN_S):
            pass
