"""A real S3 server on loopback: OpenStack Swift with its S3 API, all of it in one process.

    python s3_server.py FOLDER PORT     prints "ready" once it answers

It checks signatures and digests, which moto's does not. Swift wants a file system with xattrs. Key
"test:tester", secret "testing", region us-east-1.
"""

import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore", DeprecationWarning)  # eventlet's, of itself

import eventlet  # noqa: E402

eventlet.monkey_patch()

import eventlet.wsgi  # noqa: E402

_PIPELINE = "catch_errors gatekeeper cache listing_formats bulk s3api tempauth slo dlo proxy-server"
_FILTERS = {
    "catch_errors": "",
    "gatekeeper": "",
    "cache": "memcache_servers = 127.0.0.1:1",
    "listing_formats": "",
    "bulk": "",
    "s3api": "location = us-east-1",
    "tempauth": "user_test_tester = testing .admin",
    "slo": "",
    "dlo": "",
}


def proxy_config(folder: Path) -> str:
    lines = ["[DEFAULT]", f"swift_dir = {folder}", "log_level = CRITICAL", "[pipeline:main]"]
    lines += [f"pipeline = {_PIPELINE}", "[app:proxy-server]", "use = egg:swift#proxy"]
    lines += ["account_autocreate = true", "allow_account_management = true"]
    for name, settings in _FILTERS.items():
        entry = "memcache" if name == "cache" else name
        lines += [f"[filter:{name}]", f"use = egg:swift#{entry}", settings]
    return "\n".join(lines) + "\n"


class Silent:
    """A log that keeps nothing."""

    def write(self, *_: object) -> None: ...
    def flush(self) -> None: ...
    def debug(self, *_: object) -> None: ...
    def info(self, *_: object) -> None: ...


def serve(folder: Path, port: int) -> None:
    (folder / "disks" / "sda1").mkdir(parents=True)
    (folder / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_prefix = p\nswift_hash_path_suffix = s\n"
        "[storage-policy:0]\nname = only\ndefault = yes\n"
    )
    import swift.common.utils

    swift.common.utils.SWIFT_CONF_FILE = str(folder / "swift.conf")
    from swift.account.server import AccountController
    from swift.common import storage_policy
    from swift.common.ring import RingBuilder
    from swift.common.wsgi import SwiftHttpProtocol, loadapp
    from swift.container.server import ContainerController
    from swift.obj.server import ObjectController

    controllers = {"account": AccountController, "container": ContainerController, "object": ObjectController}
    settings = {"devices": str(folder / "disks"), "mount_check": "false", "swift_dir": str(folder)}
    settings["log_level"] = "CRITICAL"
    front = eventlet.listen(("127.0.0.1", port))
    sockets = {name: eventlet.listen(("127.0.0.1", 0)) for name in controllers}
    for name, socket in sockets.items():
        place = {"ip": "127.0.0.1", "port": socket.getsockname()[1]}
        place |= {"replication_ip": "127.0.0.1", "replication_port": place["port"]}
        builder = RingBuilder(2, 1, 1)
        builder.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1, "device": "sda1", **place})
        builder.rebalance()
        builder.get_ring().save(str(folder / f"{name}.ring.gz"))
    storage_policy.reload_storage_policies()

    def run(socket: object, app: object) -> None:
        eventlet.wsgi.server(socket, app, Silent(), protocol=SwiftHttpProtocol, log_output=False, debug=False)

    for name, controller in controllers.items():
        eventlet.spawn(run, sockets[name], controller(settings))
    (folder / "proxy.conf").write_text(proxy_config(folder))
    app = loadapp(str(folder / "proxy.conf"))
    print("ready", flush=True)
    run(front, app)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
