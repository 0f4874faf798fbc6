"""CONTRIBUTING.md's eight recipes, each followed with a toy that touches only the files it names.

The toys are patched into one copy of the code, which a process of its own then runs.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import extract_flags

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
STUDENT = "--model-kwargs embed_dim=48 depth=1 num_heads=3"


@dataclasses.dataclass(frozen=True)
class Toy:
    """What a recipe adds: text after a line of a file, whole files, and a program that shows it works."""

    recipe: str
    after: dict[str, list[tuple[str, str]]]
    files: dict[str, str] = dataclasses.field(default_factory=dict)
    program: str = ""


OP = Toy(
    "An op",
    {
        "teacher_cache/views/recipe_ops.py": [
            (
                "Crop = RandomResizedCrop",
                "@dataclasses.dataclass(frozen=True)\n"
                "class Halve:\n"
                '    """Every value halved, with a probability."""\n\n'
                "    probability: float = 0.5\n\n\n",
            ),
            ("PixelOps = RandAugment | ThreeAugment | ColorJitter", " | Halve"),
            ('    "mixup_cutmix": MixupCutmix,\n', '    "halve": Halve,\n'),
        ],
        "teacher_cache/views/sampling.py": [
            (
                "SAMPLERS: Mapping",
                "def _sample_halve(op, stream):\n"
                '    return [PixelOp("halve", 0.0)] if stream.uniform() < op.probability else []\n\n\n'
                "from teacher_cache.views.recipe_ops import Halve\n\n",
            ),
            ("    ColorJitter: ", '    Halve: Sampler(("halve",), _sample_halve),\n'),
        ],
        "teacher_cache/views/ops.py": [
            ("OPS: Mapping", "def _halve(canvas, _):\n    canvas.look_up(_VALUES // 2)\n\n\n"),
            ('    "translate_y": _translate_y,\n', '    "halve": _halve,\n'),
        ],
    },
    program="""
from teacher_cache.views.probe import probe_digest
from teacher_cache.views.recipe import deit, from_dict
from teacher_cache.views.sampling import sample_view
recipe = from_dict({"img_size": 32, "ops": [{"op": "resize_center_crop"}, {"op": "halve"}]})
names = {op.name for view in range(40) for op in sample_view(recipe, "a", view, 50, 40).ops}
assert names == {"halve"}, names
assert probe_digest(deit(32))[:16] == "97db623905255c95", "deit's digest moved"
probe_digest(recipe)
""",
)
STORE = Toy(
    "A store",
    {
        "teacher_cache/storage/store.py": [
            (
                '    "local": "teacher_cache.storage.local:LocalStore",\n',
                '    "memory": "teacher_cache.storage.toy:ToyStore",\n',
            ),
        ]
    },
    {
        "teacher_cache/storage/toy.py": """
from teacher_cache.storage.remote import RemoteStore


class ToyStore(RemoteStore):
    written = []

    def put(self, name, data):
        self.written.append(name)
        super().put(name, data)
"""
    },
    program="""
from teacher_cache.storage.store import Store
from teacher_cache.storage.toy import ToyStore
store = Store("memory://toy")
store.put("a/b", b"0123")
assert (store.get("a/b"), store.list()) == (b"0123", ["a/b"])
assert ToyStore.written == ["a/b"]
""",
)
ENCODING = Toy(
    "An encoding",
    {
        "teacher_cache/labels/encodings.py": [
            (
                "ENCODINGS: Mapping",
                'class Float16(Float32):\n    array = "half"\n    item = "<f2"\n    step = 0.02\n\n\n',
            ),
            ('"float32": Float32()', ', "float16": Float16()'),
        ]
    },
    program="""
main(extract("--values=float16"))
assert main(["verify", out, "--level", "full"]) == 0
from teacher_cache import open_labels
archive = open_labels(out)
assert archive.spec.layout.arrays == ("idx", "half", "tail")
assert archive.labels(0, 0).relative_logits_BK[:, 0].eq(0).all()
""",
)
LOSS = Toy(
    "A loss term",
    {
        "student/terms.py": [
            (
                "def hard_term(",
                "def second_term(logits_BC, labels, objective):\n"
                '    """Return the cross-entropy of the teacher\'s second class."""\n'
                "    from torch.nn.functional import cross_entropy\n\n"
                "    return cross_entropy(logits_BC, labels.class_ids_BK[:, 1].long())\n\n\n",
            ),
            ('    "hard": hard_term,\n', '    "second": second_term,\n'),
        ],
    },
    program=f"""
from student.cli import main as student
words = "--distillation second --steps 2 --batch-size 8 --device cpu {STUDENT}".split()
assert student(["train", "--data", data, "--labels", labels, "--output", out, *words]) == 0
import json, pathlib
lines = [json.loads(line) for line in pathlib.Path(out, "metrics.jsonl").read_text().splitlines()]
assert lines[0]["loss_distillation"] > 0
""",
)
ENGINE = Toy(
    "An engine",
    {},
    {
        "pipelines/extraction/engines/toy.py": """
from pipelines.extraction.engines.local import LocalEngine


class ToyEngine(LocalEngine):
    def run(self, queue, advance):
        print("the toy runs")
        yield from super().run(queue, advance)
"""
    },
    program="""
import contextlib, io, pathlib
with contextlib.redirect_stdout(io.StringIO()) as said:
    assert main(extract("--engine=toy")) == 0
assert "the toy runs" in said.getvalue()
same = [f.read_bytes() == pathlib.Path(out, f.relative_to(labels)).read_bytes()
        for f in pathlib.Path(labels).rglob("*") if f.is_file()]
assert all(same)
""",
)
TEACHER = Toy(
    "A teacher",
    {},
    {
        "teacher_cache/models/toy_teacher.py": """
import torch

from teacher_cache.models.teacher_model import TeacherModel


class MeanColour(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head = torch.nn.Linear(3, num_classes)

    def forward(self, inputs_BCHW):
        return self.head(inputs_BCHW.mean((2, 3)))


def build(request):
    torch.manual_seed(0)
    module = MeanColour(len(request.classes))
    return TeacherModel(name=request.name, module=module, num_classes=len(request.classes))
"""
    },
    program="""
assert main([w for w in extract("--teacher=toy:mean") if "checkpoint" not in w]) == 0
from teacher_cache import open_labels
assert open_labels(out).spec.teacher["model"] == "toy:mean"
""",
)
FLAG = Toy(
    "A flag",
    {
        "pipelines/extraction/flags.py": [
            (
                "class LabelFlags(KeyFlags, TeacherFlags):\n"
                '    """Labels to compute, and the limits of a run."""\n',
                '\n    toy_level: Annotated[int, Meta(ge=1, le=9)] = 5\n    """Level of the toy."""\n',
            )
        ]
    },
    program="""
import contextlib, io
with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
    main(["extract", "--help"])
assert "--toy-level" in said.getvalue() and "Level of the toy." in said.getvalue()
with contextlib.redirect_stderr(io.StringIO()) as said:
    assert main(extract("--toy-level=10")) == 2
assert "--toy-level 10\\nIt must be from 1 to 9." in said.getvalue()
""",
)
FIGURE = Toy(
    "A figure of an extraction",
    {
        "pipelines/extraction/engines/engine.py": [
            ("    write_s: float = 0.0\n", "    toy_s: float = 0.0\n")
        ],
        "pipelines/extraction/worker/worker.py": [
            ("            render_s=timed.render_s,\n", "            toy_s=0.5,\n")
        ],
    },
    program="""
assert main(extract()) == 0
import json, pathlib
(run,) = pathlib.Path(out + ".runs").iterdir()
report = json.loads((run / "report.json").read_text())
assert report["actual"]["toy_s"] == 0.5 * report["actual"]["units"]
events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
assert all(event["toy_s"] == 0.5 for event in events if event["event"] == "unit_done")
""",
)
TOYS = (OP, STORE, ENCODING, LOSS, ENGINE, TEACHER, FLAG, FIGURE)
BEFORE = (
    "Crop = ",
    "SAMPLERS: ",
    "ENCODINGS: ",
    "def hard_term",
    "OPS: ",
    "    ColorJitter: ",
)
"""Anchors that a toy's text goes before; it goes after all others."""


def patched(file: Path, additions: list[tuple[str, str]]) -> None:
    text = file.read_text()
    for anchor, added in additions:
        assert text.count(anchor) == 1, (file, anchor)
        text = text.replace(anchor, added + anchor if anchor.startswith(BEFORE) else anchor + added)
    file.write_text(text)


@pytest.fixture(scope="module")
def outcomes(data: str, labels: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What came of each toy, all patched into one copy: the empty text, or an error."""
    copy = tmp_path_factory.mktemp("toys")
    for package in ("teacher_cache", "student", "pipelines"):
        shutil.copytree(ROOT / package, copy / package)  # with what numba has compiled
    for toy in TOYS:
        for name, additions in toy.after.items():
            patched(copy / name, additions)
        for name, text in toy.files.items():
            (copy / name).write_text(text)
    programs = {}
    for number, toy in enumerate(TOYS):
        out = str(copy / f"out-{number}")
        programs[toy.recipe] = (
            f"data, labels, out = {data!r}, {labels!r}, {out!r}\n"
            f"words = {extract_flags(data, out)!r}\n"
            "def extract(*more): return [*words, *more]\n"
            f"from pipelines.cli import main\n{toy.program}"
        )
    program = RUN_ALL.format(programs=programs, result=str(copy / "outcomes.json"))
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=copy, capture_output=True, text=True, check=False, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads((copy / "outcomes.json").read_text())


RUN_ALL = """
import json, traceback
outcomes = {{}}
for recipe, program in {programs!r}.items():
    try:
        exec(program, {{}})
        outcomes[recipe] = ""
    except BaseException:
        outcomes[recipe] = traceback.format_exc()
json.dump(outcomes, open({result!r}, "w"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: toy.recipe)
def test_a_recipe_works_and_names_every_file_it_touches(toy: Toy, outcomes: dict[str, str]) -> None:
    section = re.search(rf"^### {toy.recipe}\n(.*?)(?=^##)", PAGE, re.MULTILINE | re.DOTALL)
    assert section
    for touched in (*toy.after, *toy.files):
        in_a_folder = re.sub(r"/toy(_\w+)?\.py$", r"/NAME\1.py", touched)
        assert in_a_folder in section[1] or Path(touched).parent.as_posix() + "/" in section[1], touched
    assert outcomes[toy.recipe] == ""


def test_contributing_has_these_recipes_and_no_other() -> None:
    extend = PAGE[PAGE.index("## How to extend") : PAGE.index("## Deprecation")]
    assert re.findall(r"^### (.+)$", extend, re.MULTILINE) == [toy.recipe for toy in TOYS]
