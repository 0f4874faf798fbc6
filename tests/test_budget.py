"""The tests have a budget of seconds, folder by folder: ten minutes, with three files at a time."""

from pathlib import Path

from budget import CONTRIBUTING, budgets, folder_of, over_budget

TESTS = Path(__file__).parent


def test_every_folder_has_a_budget_and_all_of_them_are_ten_minutes() -> None:
    allowed = budgets(CONTRIBUTING.read_text())
    folders = {folder_of(f"tests/{file.relative_to(TESTS)}::x") for file in TESTS.rglob("test_*.py")}
    assert set(allowed) == folders
    assert sum(allowed.values()) <= 3 * 600


def test_what_takes_longer_is_named() -> None:
    seconds = {"student": 12.3, "views": 3.0, "new": 0.5}
    assert over_budget(seconds, {"student": 12, "views": 3}) == [
        "tests/new: 0 s of 0 s",
        "tests/student: 12 s of 12 s",
    ]
    assert folder_of("tests/pipelines/service/test_x.py::test_y[z]") == "pipelines/service"
    assert folder_of("tests/test_docs.py::test_y") == "."
