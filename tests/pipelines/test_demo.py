import re
from pathlib import Path

import pytest

from pipelines.demo.report import table, write_report
from pipelines.demo.run import DemoSize, run_demo
from teacher_cache.program.progress import silent


@pytest.mark.slow
def test_a_short_demo_tells_its_whole_story(tmp_path: Path) -> None:
    result = run_demo(tmp_path / "demo", DemoSize(teacher_epochs=1, student_epochs=4, views=3), silent)
    assert result.loss_gap <= 1e-6
    assert result.curves["cached labels"] == result.curves["live teacher"]
    assert len(result.curves["no teacher"]) == 4 * (1437 // 64)

    rows = {row[0]: row[1:] for row in table(result)}
    assert list(rows) == ["no teacher", "live teacher", "cached labels"]
    assert rows["cached labels"][:3] == rows["live teacher"][:3]
    assert rows["live teacher"][6:] == ("5,632", "-")
    assert rows["cached labels"][6:] == ("4,311", "1,321")

    page = write_report(tmp_path / "demo", result, num_samples=2).read_text()
    assert page.count("<tr>") == 4
    assert page.count('class="bar"') == 2 * 3 * 4
    assert set(re.findall(r'(?:src|href)="([^"]{5})', page)) == {"data:"}
