"""Pages that are generated, so that they cannot drift from the code: commands, formulas, the README's first table.

`python -m datahall.ui.pages` writes them into the checkout it is called in; a test compares them with what is there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from datahall.base.errors import UsageError

BEGIN, END = "<!-- table: {} -->", "<!-- end of table -->"


def pages(root: Path) -> dict[Path, str]:
    """Each generated page under `root` with its text as it should be."""
    from datahall.ui.cite import formulas_page

    return {
        root / "docs" / "formulas.md": formulas_page(),
        root / "docs" / "commands.md": commands_page(),
        root / "README.md": with_tables(root, (root / "README.md").read_text(encoding="utf-8")),
    }


def commands_page() -> str:
    """Every verb with its help text, as the command line prints it."""
    from datahall.ui.cli import VERBS, datahall

    parts = ["# Commands", "", "Generated from the help texts; knobs live in the case (docs/case.md).", ""]
    context = click.Context(datahall, info_name="datahall", max_content_width=100, terminal_width=100)
    for verb in VERBS:
        command = datahall.get_command(context, verb)
        if command is None:
            continue
        own = click.Context(command, info_name=verb, parent=context, max_content_width=100, terminal_width=100)
        parts += [f"## datahall {verb}", "", "```", command.get_help(own), "```", ""]
    return "\n".join(parts)


def with_tables(root: Path, text: str) -> str:
    """`text` with each marked table replaced by the committed table that the mark names."""
    lines, out, skipping = text.splitlines(), list[str](), False
    for line in lines:
        if line == END:
            skipping = False
        if not skipping:
            out.append(line)
        if line.startswith("<!-- table: "):
            name = line.removeprefix("<!-- table: ").removesuffix(" -->")
            out += _table(root / "docs" / "tables" / name)
            skipping = True
    return "\n".join(out) + "\n"


def _table(path: Path) -> list[str]:
    """The first table of a committed page."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError("this table is not there.", where=str(path), hint="Make it with scripts/soak.") from error
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    stop = next((number for number in range(start, len(lines)) if not lines[number].startswith("|")), len(lines))
    return lines[start:stop]


if __name__ == "__main__":
    for page, text in pages(Path(sys.argv[1] if len(sys.argv) > 1 else ".")).items():
        page.write_text(text, encoding="utf-8")
        print(page)
