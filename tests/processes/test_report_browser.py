"""The report in a browser without a network: its script runs, the form computes, and no width makes the page scroll."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from nebula.cli.details import detailed
from nebula.report.findings import Findings
from nebula.report.html import report_page
from tests.pure.report_samples import large, looking_ahead, small
from tests.pure.test_report_running import real

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]

pytestmark = pytest.mark.skipif(not BROWSER, reason="needs a browser: Debian's package chromium")


def opened(page: str, folder: Path, width: int) -> str:
    """The document after its script ran, with the width that it takes as its title."""
    path = folder / "report.html"
    measure = "<script>document.title = document.documentElement.scrollWidth</script></body>"
    path.write_text(page.replace("</body>", measure), encoding="utf-8")
    command = [BROWSER, *QUIET, f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900"]
    offline = ["--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom", path.as_uri()]
    return subprocess.run([*command, *offline], capture_output=True, text=True, timeout=60, check=True).stdout


def test_the_form_sets_what_was_measured_against_what_was_predicted(tmp_path: Path) -> None:
    document = opened(report_page(small(measured=True)), tmp_path, 1280)
    answers = re.findall(r"<output>([^<]*)</output>", document)
    assert answers[0] == "+6.0 %, within the range"
    assert answers[1].startswith("−5.7 %")
    assert '"predicted": 1,' in document
    assert '"measured": 1.06' in document


@pytest.mark.parametrize("width", [500, 1280])
@pytest.mark.parametrize(
    "findings",
    [looking_ahead(small(measured=True)), detailed(large()), real(4)],
    ids=["measured", "sixty stages", "four nodes"],
)
def test_no_part_is_wider_than_the_screen(findings: Findings, width: int, tmp_path: Path) -> None:
    title = re.search(r"<title>(\d+)</title>", opened(report_page(findings), tmp_path, width))
    assert title is not None
    assert int(title[1]) <= width
