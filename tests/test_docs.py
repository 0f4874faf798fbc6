"""The documents say what the code does: README's commands run, and every file and flag is where they say."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from support import IMG_SIZE, write_class_folders

from docs.pages import made
from pipelines.cli import COMMANDS
from pipelines.cli import main as teacher_cache_main
from student.cli import main as student_main
from teacher_cache.program.commandline import parse

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
_LABELS = ["--no-pretrained", f"--img-size={IMG_SIZE}", "--topk=2", "--views=0:2"]
SMALL = {
    "plan": _LABELS,
    "extract": _LABELS,
    "train": ["--steps=2", "--batch-size=8"],
}
SMALL_MODELS = {
    "regnety_160.deit_in1k": "regnety_002",
    "regnety_016": "regnety_002",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    lines = "".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


@pytest.mark.ray
@pytest.mark.slow
def test_readmes_commands_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With small models, few steps and few views; everything else as written."""
    for split in ("train", "val"):
        write_class_folders(tmp_path / "images" / split)
    monkeypatch.chdir(tmp_path)
    programs = {"teacher-cache": teacher_cache_main, "student": student_main}
    ran = []
    for program, *words in commands():
        if program not in programs:
            assert [program, *words] in (["make", "demo"], ["make", "test"], ["pip", "install", "."])
            continue
        words = [SMALL_MODELS.get(word, word) for word in words] + SMALL.get(words[0], [])
        if "none" in words:
            words.append(f"--img-size={IMG_SIZE}")
        elif words[0] == "train":
            words += ["--model-kwargs", "embed_dim=48", "depth=1", "num_heads=3", f"img_size={IMG_SIZE}"]
        assert programs[program](words) == 0, words
        ran.append(words[0])
    archive = ["status", "repair", "export", "import", "merge", "export", "export"]
    archive += ["card", "push", "catalog", "pull", "view"]
    students = ["train", "train", "eval", "report", "runs", "train", "extract"]
    assert ran == ["pack", "pack", "plan", "extract", "verify", "inspect", "extract", *archive, *students]
    snippets = blocks("python")
    assert len(snippets) == 2
    for snippet in snippets:
        exec(snippet, {})


def test_the_commands_of_cluster_md_are_those_of_the_program() -> None:
    text = "".join(re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "cluster.md").read_text(), re.DOTALL))
    found = re.findall(r"(?:^|\s)teacher-cache (\S+) (.*)$", text.replace("\\\n", " "), re.MULTILINE)
    assert {command for command, _ in found} == {"plan", "extract", "submit", "logs", "status", "stop"}
    for command, rest in found:
        words = shlex.split(rest)
        if "..." in words:
            words[words.index("...") :] = ["--teacher", "regnety_160", "--out", "/data/labels"]
        parse(COMMANDS[command].config, words, command)


def test_the_makefile_has_readmes_targets() -> None:
    targets = subprocess.run(
        ["make", "-C", str(ROOT), "help"], capture_output=True, text=True, check=True
    ).stdout
    for target in ("demo", "check", "test", "lint", "bench", "help"):
        assert re.search(rf"^{target}\t", targets, re.MULTILINE)


def test_ci_runs_make_test_alone() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in lines if not line.startswith(("#", "set ", "cd "))] == ["make test"]


def test_the_pages_made_from_the_code_are_current() -> None:
    for page, text in made().items():
        assert page.read_text() == text, "python docs/pages.py"


def test_architecture_names_every_file() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    for package in ("teacher_cache", "student", "pipelines"):
        section = re.search(rf"^## {package}$.*?(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
        assert section
        named = re.findall(r"^\| (\S+\.py) \| ", section[0], re.MULTILINE)
        files = [file for file in (ROOT / package).rglob("*.py") if file.name != "__init__.py"]
        assert sorted(named) == sorted(str(file.relative_to(ROOT / package)) for file in files)


def test_no_file_is_large() -> None:
    for package in ("teacher_cache", "student", "pipelines", "benchmarks", "examples"):
        for file in (ROOT / package).rglob("*.py"):
            assert len(file.read_text().splitlines()) <= 300, file


def test_only_rooms_are_at_the_roots() -> None:
    loose = {file.name for file in (ROOT / "teacher_cache").glob("*.py")}
    assert loose == {"__init__.py", "errors.py", "images.py"}
    assert {file.name for file in (ROOT / "pipelines").glob("*.py")} == {"__init__.py", "cli.py"}


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), target


def test_dependencies_are_all_explained() -> None:
    setup = (ROOT / "setup.cfg").read_text()
    section = setup[setup.index("install_requires") : setup.index("[options.packages.find]")]
    extras = setup[setup.index("[options.extras_require]") : setup.index("[options.entry_points]")]
    explained = (ROOT / "docs" / "dependencies.md").read_text()
    for name in re.findall(r"^    ([A-Za-z0-9-]+)", section + extras, re.MULTILINE):
        assert name.removeprefix("types-").lower() in explained, name


@pytest.mark.parametrize("main", [teacher_cache_main, student_main])
def test_help_lists_the_commands_that_readme_uses(main: object, capsys: pytest.CaptureFixture) -> None:
    assert main(["--help"]) == 0  # type: ignore[operator]
    shown = capsys.readouterr().out
    program = "teacher-cache" if main is teacher_cache_main else "student"
    for used in {words[1] for words in commands() if words[0] == program}:
        assert f"\n  {used} " in shown


def test_changes_are_lines_of_a_known_type() -> None:
    for file in (ROOT / "changes").iterdir():
        assert re.fullmatch(r"[a-z0-9-]+\.(added|changed|fixed|removed)\.md", file.name)
        assert len(file.read_text().splitlines()) == 1, file
