"""Table 1 as one run: parameters, operations and latency of every row, and how far the order of speed is the paper's.

    python benchmarks/table1.py --threads 2 --rounds 5 --write

Runs `cgrseg benchmark cgrseg_t:openvino --compare MODEL:openvino MODEL:eager` for every model of the table, each in a
process of its own, so that memory is free again and every model is measured in turn with the same base. Finished models
are kept in --out: the same command continues a run that was stopped. Prints the table; --write stores the report beside
this file (table1.json) and the table in docs/paper-speed.md. `cgrseg tables --table 1 --speed benchmarks/table1.json`
prints it again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from claims import replace_between

from cgrseg.measure.report import Report, read_report, summary, write_report
from cgrseg.paper.order import render
from cgrseg.paper.published import published

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "docs" / "paper-speed.md"
BEGIN, END = "<!-- speed: benchmarks/table1.py -->", "<!-- end of the speed -->"
BASE = "cgrseg_t:openvino"
MODELS = [str(row.ours["model"]) for row in published()[0].rows if row.ours is not None]


def measure(model: str, out: Path, rounds: int, threads: int) -> Report | None:
    """The report of one model, measured now or before; None if it failed."""
    path = out / model / "benchmark.json"
    if not path.is_file():
        candidates = [one for one in (f"{model}:openvino", f"{model}:eager") if one != BASE]
        command = [sys.executable, "-m", "cgrseg", "benchmark", BASE, "--compare", *candidates, "--max-batch", "1"]
        command += ["--rounds", str(rounds), "--threads", str(threads), "--out", str(path.parent)]
        if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
            print(f"{model}: failed; the other models go on", file=sys.stderr)
            return None
    return read_report(path)


def merge(reports: list[Report]) -> Report:
    """One report with the base once, from the first, and the other candidates of all."""
    results = reports[0]["results"][:1] + [row for report in reports for row in report["results"][1:]]
    how = "Each model was measured in turn with the base, in a process of its own; ratios are to the base there."
    return reports[0] | {"results": results, "how": [how, *reports[0]["how"]]}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, metavar="MODEL", help="default: all")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("outputs/table1"))
    parser.add_argument("--write", action="store_true", help="write benchmarks/table1.json and docs/paper-speed.md")
    options = parser.parse_args(arguments)
    reports = []
    for number, model in enumerate(options.models, 1):
        print(f"{number}/{len(options.models)} {model}", file=sys.stderr)
        if report := measure(model, options.out, options.rounds, options.threads):
            reports.append(report)
    if not reports:
        raise SystemExit("no model could be measured")
    path = FOLDER / "table1.json" if options.write else options.out / "table1.json"
    report = merge(reports)
    write_report(report, path)
    text = f"{summary(report)}\n\n{render(published()[0], report, 'md')}"
    print(text, end="")
    if options.write:
        replace_between(PAGE, BEGIN, END, text)


if __name__ == "__main__":
    main()
