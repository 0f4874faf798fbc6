"""Look at an archive: serve its pages on this machine, or write them to a folder."""

from __future__ import annotations

import socket

import uvicorn

from pipelines.explorer.app import make_app
from pipelines.explorer.collection import Collection
from pipelines.explorer.flags import ViewConfig
from pipelines.explorer.pages import Explorer, static_pages
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import InputError
from teacher_cache.program.progress import Track
from teacher_cache.program.say import say
from teacher_cache.storage.store import Store


def open_collection(config: ViewConfig) -> Collection:
    """Open an archive and its images.

    Raises:
        InputError: See `ArchiveReader` and `PackedDataset`.
    """
    dataset = None if config.data is None else PackedDataset(config.data, config.room, config.images_in)
    return Collection(ArchiveReader(config.archive, config.room), dataset)


def write_pages(config: ViewConfig, track: Track) -> int:
    """Write the pages to a folder, and return their number.

    Raises:
        InputError: The folder is not empty.
    """
    assert config.static is not None
    destination, collection = Store(config.static), open_collection(config)
    if destination.list():
        raise InputError(
            f"--static {config.static} is not empty",
            "Old and new pages would be mixed.",
            "choose a new folder, or empty this one",
        )
    if collection.has_images:
        collection.check_pixels()  # before a page is written
    explorer = Explorer(collection, config.num_samples)
    pages = list(static_pages(explorer, collection, config.num_samples))
    with track("write", len(pages), "pages") as advance:
        for address, make in pages:
            content = make()
            destination.put(address, content if isinstance(content, bytes) else content.encode())
            advance(1)
    return len(pages)


def serve(config: ViewConfig) -> None:
    """Serve the pages on 127.0.0.1 until the process is stopped.

    Raises:
        InputError: The port is taken.
    """
    app = make_app(open_collection(config))
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", config.port))
        listener.listen()  # who reads the line below may ask at once
    except OSError as error:
        raise InputError(
            f"--port {config.port} cannot be used: {error.strerror}",
            "The pages cannot be served.",
            "choose another port, or 0 for a free one",
        ) from error
    say(f"http://127.0.0.1:{listener.getsockname()[1]}/  (Ctrl-C stops it)")
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    server.run(sockets=[listener])
