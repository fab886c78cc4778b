"""Makes the tables of docs/benchmark-reports.md from the stored reports: `python benchmarks/table.py --write`.

The reports are files of `cgrseg benchmark`, stored beside this file (cpu-*.json). The tables are written between two
comments of the page; without --write they are printed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from textwrap import indent

from claims import replace_between

from cgrseg.measure.report import read_report, render, summary
from cgrseg.paper.published import speeds

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "docs" / "benchmark-reports.md"
BEGIN, END = "<!-- tables: benchmarks/table.py -->", "<!-- end of the tables -->"


def tables() -> str:
    """The tables of all stored reports, sorted by name, one tab each."""
    reports = [(path.stem, read_report(path)) for path in sorted(FOLDER.glob("cpu-*.json"))]
    texts = [(name, f"{summary(report)}\n\n{render(report, speeds())}") for name, report in reports]
    return "\n".join(f'=== "{name}"\n\n{indent(text, "    ")}' for name, text in texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the tables into the page")
    if not parser.parse_args().write:
        print(tables())
        return
    replace_between(PAGE, BEGIN, END, tables())


if __name__ == "__main__":
    main()
