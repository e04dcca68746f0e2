"""The README and the pages under docs/ speak of what is there: links, files, verbs, code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nebula.cli.main import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_that_are_named_exist(page):
    named = set(
        re.findall(
            r"`((?:nebula|planner|cost_model|models|deploy|tests|docs|examples)/[\w./-]+\.\w+)", page.read_text()
        )
    )
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_blocks_compile(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        compile(block, str(page), "exec")


def commands():
    """Every `nebula …` line of a shell block, as its words up to the first argument."""
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.splitlines():
                if line.startswith("nebula "):
                    yield line.split("#")[0].split()[1:]


def test_verbs_and_options_that_are_shown_exist():
    assert len(list(commands())) > 5
    for words in commands():
        verb = words[:2] if words[0] in ("cluster", "deploy", "checkpoint", "cert") else words[:1]
        shown = CliRunner().invoke(app, [*verb, "--help"])
        assert shown.exit_code == 0, words
        for option in (w for w in words if w.startswith("-")):
            assert re.search(rf"(?<![\w-]){option}\b", shown.output), f"{' '.join(words)}: no {option}"


def test_the_readme_names_five_files_to_read_first():
    first = re.search(r"## Read these files first\n(.*?)\n\n[^0-9\n]", (ROOT / "README.md").read_text(), re.DOTALL)
    assert first is not None
    assert len(re.findall(r"^\d\. `([^`]+)`", first[1], re.MULTILINE)) == 5
