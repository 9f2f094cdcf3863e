"""Try pretrained models in files: import, cut, proof; write the table of real models.

    python models/exports/real.py FILE ... [--again]

The files aren't part of the repository: they come from packages (speech, OCR, detection), each under its own
licence. A file's name stands for it in `real.json` and in README.md, with its SHA-256.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from record import HERE, measure_file, passed_cut, show
from steps import Limits

STORE = HERE / "real.json"
BEGIN, END = "<!-- real: written by real.py -->", "<!-- end of real -->"


def measure(file: Path, limits: Limits) -> dict[str, Any]:
    """Import and cut one file, and say which it was."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return measure_file(file, limits) | {"sha256": digest}


def row(name: str, r: dict[str, Any]) -> str:
    """Return one line of the table."""
    why = r.get("error") or r.get("import_refused") or next(iter(r.get("held", [])), "")
    cells = [
        name,
        f"{r['import_error']:.1e}" if "import_error" in r else "refused",
        f"{r['parameters']:,}".replace(",", " ") if "parameters" in r else "",
        f"{r['kept']:.3f}" if "kept" in r else "",
        f"{r['cut_error']:.1e}" if "cut_error" in r else "not proven",
        why.replace("|", "\\|")[:200],
    ]
    return "| " + " | ".join(cells) + " |"


def table(results: dict[str, Any]) -> str:
    """Return the table of all files."""
    lines = [
        "| file | import error | parameters | kept | cut equals masked | what failed, or holds most |",
        "|---|---:|---:|---:|---:|---|",
    ]
    lines += [row(n, r) for n, r in sorted(results.items())]
    cut = sum(map(passed_cut, results.values()))
    dates = sorted({r["date"] for r in results.values()})
    if dates:
        lines += ["", f"{len(results)} files, {cut} cut and proven; {dates[0]} to {dates[-1]}."]
    return "\n".join(lines)


def main() -> None:
    """Try the files that the command line names, and write the table after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--again", action="store_true", help="measure again what was measured")
    args = parser.parse_args()
    results = json.loads(STORE.read_text(encoding="utf-8")) if STORE.exists() else {}
    for file in args.files:
        if file.name not in results or args.again:
            results[file.name] = measure(file, Limits(240, 4))
            print(row(file.name, results[file.name]), flush=True)
            write(results)
    write(results)


def write(results: dict[str, Any]) -> None:
    """Write real.json and the table of README.md."""
    STORE.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    show(table(results), BEGIN, END)


if __name__ == "__main__":
    main()
