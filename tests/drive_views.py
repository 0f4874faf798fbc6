"""A user's script that reads views in two epochs; it has no `if __name__ == "__main__":`, on purpose.

python tests/drive_views.py METHOD DATA LABELS WORKERS [pause]
"""

import hashlib
import json
import multiprocessing
import os
import sys
import time

import torch
import torch.distributed as dist

from teacher_cache import LabelledViews

METHOD, DATA, LABELS, WORKERS, *REST = sys.argv[1:]
multiprocessing.set_start_method(METHOD)
if "RANK" in os.environ:
    dist.init_process_group("gloo")


def say(**values: object) -> None:
    os.write(1, json.dumps(values).encode() + b"\n")  # in one piece: ranks share the pipe


views = LabelledViews(DATA, labels=LABELS, batch_size=4)
digest, num_batches = hashlib.sha256(), 0
for epoch in range(2):
    for batch in views.epoch(epoch, workers=int(WORKERS)):
        digest.update(batch.inputs("cpu").numpy().tobytes() + batch.rows_B.numpy().tobytes())
        digest.update(b"".join(tensor.numpy().tobytes() for tensor in batch.labels))
        num_batches += 1
        if REST:
            pids = [process._process.pid for process in views._stream._pool._processes]
            say(pids=[os.getpid(), *pids])
            time.sleep(0.05)
say(digest=digest.hexdigest(), batches=num_batches, torch=torch.__version__)
if "RANK" in os.environ:
    dist.destroy_process_group()
