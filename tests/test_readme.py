"""README.md is a front door: short, with links that lead somewhere, and commands that exist.

The pages behind it list every command, and what their commands write leaves `git status` clean.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from minilora.cli.app import find_commands

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = "minilora/README.md"
PAGES = (
    "README.md",
    COMMANDS,
    *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("data/*/README.md")),
)
TEXT = {page: (ROOT / page).read_text("utf-8") for page in PAGES}
README = TEXT["README.md"]
LINES = 150
"""What a visitor scrolls through."""
TRACKED = {"data/ward-base"}  # the command that made what the repository holds


def written() -> set[str]:
    """What the pages' commands and Python write: after --out, --json, > or in a save.

    `adapt` and `pretrain` write OUT.run as well.
    """
    text = "\n".join(TEXT[page] for page in ("README.md", COMMANDS, "data/bench/README.md"))
    blocks = "\n".join(re.findall(r"```(?:python)?\n(.*?)```", text, re.DOTALL))
    inline = "\n".join(re.findall(r"`(minilora [^`]+)`", text))
    commands = f"{blocks}\n{inline}"
    named = re.findall(r"(?:--out|--json|>) ([\w./-]+)", commands)
    named += re.findall(r'\.write\("([^"]+)"\)', blocks)
    found = {name for name in named if name != "DIR"}
    runs = re.findall(r"minilora (?:adapt|pretrain) .*--out ([\w./-]+)", commands)
    return found | {f"{name}.run" for name in runs if name != "DIR"}


def called(text: str) -> set[str]:
    """The commands of minilora that code in the text calls."""
    text = re.sub(r"```dockerfile\n.*?```", "", text, flags=re.DOTALL)  # folders have that name
    code = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    code += re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return {word for part in code for word in re.findall(r"\bminilora ([a-z_]+)", part)}


def listed(page: str) -> set[str]:
    """The commands in the first cells of a page's table of commands."""
    section = page.partition("## Commands\n")[2].partition("\n## ")[0]
    cells = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `")]
    return {
        re.match(r"(?:minilora )?(\w+)", s)[1] for c in cells for s in re.findall(r"`([^`]+)`", c)
    }


def anchors(text: str) -> set[str]:
    """The names under which a page's headings are reached, as GitHub makes them."""
    plain = (re.sub(r"[^\w\- ]", "", h.lower()) for h in re.findall(r"^#+ (.+)$", text, re.M))
    return {heading.replace(" ", "-") for heading in plain}


def test_readme_is_short():
    assert len(README.splitlines()) <= LINES


def test_the_two_commands_stand_at_the_beginning_alone():
    block = re.search(r"```\n(.*?)```", README, re.DOTALL)
    assert block[1].splitlines() == ["python3 minilora learn", "python3 minilora tour"]
    assert README[: block.start()].count("\n") < 40


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading(page):
    text = re.sub(r"```.*?```", "", TEXT[page], flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    for link in links:
        name, _, heading = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), link
        assert not heading or heading in anchors(target.read_text("utf-8")), link


def test_every_chapter_that_is_written_is_linked():
    written = {path.name for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")}
    assert set(re.findall(r"\]\(notebooks/(\d[^)]+)\)", README)) == written


def test_the_table_lists_every_command():
    assert listed(TEXT[COMMANDS]) == set(find_commands())


@pytest.mark.parametrize("page", PAGES)
def test_pages_call_only_commands_that_exist(page):
    assert called(TEXT[page]) <= set(find_commands())


def test_calls_and_links_are_found():
    text = "```\npython3 minilora tour --out x\n```\n# A b-c, d!\n`minilora learn 1`, minilora none"
    assert called(text) == {"tour", "learn"}
    assert anchors(text) == {"a-b-c-d"}
    assert listed("## Commands\n\n| a | b |\n|---|---|\n| `minilora x Y`, `z` | `w` |\n") == {
        "x",
        "z",
    }


def test_readme_writes_what_was_looked_for():
    assert {"held.jsonl", "smol", "smol.run", "my-adapter", "growth.png", "gen.json"} <= written()
    assert "data/ward-base.run" in written()


@pytest.mark.processes
@pytest.mark.skipif(
    shutil.which("git") is None or not (ROOT / ".git").exists(), reason="needs a git checkout"
)
@pytest.mark.parametrize("name", sorted({"tour", "my-course", *written()} - TRACKED))
def test_what_readme_writes_is_ignored(name):
    """As a file or as a folder, whichever it is."""
    done = subprocess.run(
        ["git", "check-ignore", name, f"{name}/"], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 0, f"{name} is not in .gitignore"
