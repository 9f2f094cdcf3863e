"""Record what holds of imports: exports by both exporters at five opsets, and pretrained models in files.

    python models/exports/imports.py --cache DIR [--names NAME ...] [--opsets 17 ...] [--exporters legacy ...]
    python models/exports/imports.py FILE ...

Without names the architectures of `architectures.LIGHT` are tried: all of them as torch exports by default, then
at the other opsets. Each import is tried in a process of its own, with limits for time and memory: outputs against ONNX Runtime at
batch 1 and 3, gradients, one step, the way back into the graph. What was measured is kept in `imports.json` and
not measured again unless `--again` (or `--failed`, for what failed) says so; the tables in README.md are
written from it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from architectures import LIGHT, names
from imports_trial import TOLERANCE_STEP
from record import (
    HERE,
    NEWEST,
    OPSETS,
    TOLERANCE_IMPORT,
    USUAL,
    exported,
    measure_file,
    show,
)
from steps import Failure, Limits

STORE = HERE / "imports.json"
BEGIN, END = "<!-- imports: written by imports.py -->", "<!-- end of imports -->"
FILES = "files"
STEPS = ("import",)


def passed(r: dict[str, Any]) -> bool:
    """Whether everything holds of an import."""
    return (
        r.get("import_error", 1.0) <= TOLERANCE_IMPORT
        and r.get("step_error", 0.0) <= TOLERANCE_STEP
        and bool(r.get("back_unchanged"))
        and not str(r.get("gradients", "")).startswith("not")
    )


def fault(r: dict[str, Any]) -> str:
    """Return what doesn't hold, in a few words."""
    if "not_exported" in r or passed(r):
        return ""
    for key in ("import_refused", "wrong"):
        if key in r:
            return str(r[key])
    if r.get("import_error", 1.0) > TOLERANCE_IMPORT:
        return f"differs from ONNX Runtime by {r['import_error']:.2g}"
    if not r.get("back_unchanged"):
        return "the way back changes it"
    if str(r.get("gradients", "")).startswith("not"):
        return f"gradients {r['gradients']}"
    return f"after a step it differs by {r['step_error']:.2g}"


def table(results: dict[str, Any]) -> str:
    """Return the tables: a line an architecture, a line a file, and what fails."""
    lines, failed = [], []
    combinations = [(e, o) for e in NEWEST for o in OPSETS]
    tried = [n for n in names() if n in results]
    runs = [r for n in tried for r in results[n].values() if "not_exported" not in r]
    fine = sum(map(passed, runs))
    lines += [
        (
            f"{len(tried)} architectures, {len(runs)} exports: {fine} hold in everything. "
            "A number is the largest error against ONNX Runtime; – is what the exporter itself refuses."
        ),
        "",
        "| architecture | " + " | ".join(f"{e} {o}" for e, o in combinations) + " |",
        "|---" * (len(combinations) + 1) + "|",
    ]
    for name in tried:
        cells = [_cell(results[name].get(f"{e} {o}")) for e, o in combinations]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
        failed += [(f"{name} {key}", r) for key, r in sorted(results[name].items()) if fault(r)]
    files = results.get(FILES, {})
    lines += [
        "",
        (
            f"Pretrained models that packages and public repositories carry: {sum(map(passed, files.values()))} of {len(files)} hold in "
            "everything."
        ),
        "",
        "| file | import error | of an output | batches | weights | with a gradient | after a step | frozen | import s |",
        "|---|---:|---:|---|---:|---|---:|---|---:|",
        *(_file(n, r) for n, r in sorted(files.items())),
    ]
    failed += [(n, r) for n, r in sorted(files.items()) if fault(r)]
    if failed:
        lines += ["", "| what doesn't hold | |", "|---|---|"]
        lines += [f"| {n} | {_safe(fault(r))} |" for n, r in failed]
    dates = sorted({r["date"] for entry in results.values() for r in entry.values() if "date" in r})
    if dates:
        lines += ["", f"Measured {dates[0]} to {dates[-1]}."]
    return "\n".join(lines)


def _cell(r: dict[str, Any] | None) -> str:
    if r is None:
        return ""
    if "not_exported" in r:
        return "–"
    return f"{r['import_error']:.0e}" if passed(r) else "✗"


def _file(name: str, r: dict[str, Any]) -> str:
    if "import_refused" in r:
        return f"| {name} | refused | | | | | | | |"
    cells = [
        name,
        f"{r['import_error']:.1e}",
        f"{r.get('outputs_error', r['import_error']):.1e}",
        ", ".join(map(str, r.get("batches", []))),
        str(r.get("weights", "")),
        str(r.get("gradients", "")),
        f"{r['step_error']:.1e}" if "step_error" in r else "",
        ", ".join(r.get("frozen", [])),
        f"{r['import_s']:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _safe(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")[:200]


def write(results: dict[str, Any]) -> None:
    """Write imports.json and the tables of README.md."""
    part = STORE.with_suffix(".part")
    part.write_text(
        json.dumps(results, indent=1, sort_keys=True, allow_nan=True) + "\n", encoding="utf-8"
    )
    part.replace(STORE)
    show(table(results), BEGIN, END)


Todo = tuple[str, str, list[int]]


def _todo(args: argparse.Namespace, results: dict[str, Any]) -> Iterator[Todo]:
    """Yield what to try: name, exporter and the opsets that one capture of the network serves."""
    usual = dict(USUAL)
    for first in (True, False):
        for name in args.names or (() if args.files else LIGHT):
            for exporter in args.exporters:
                opsets = [
                    opset
                    for opset in args.opsets
                    if opset <= NEWEST[exporter] and (opset == usual[exporter]) == first
                ]
                entry = results.get(name, {})
                wanted = [o for o in opsets if _wanted(entry.get(f"{exporter} {o}"), args)]
                if wanted:
                    yield name, exporter, wanted


def _wanted(old: dict[str, Any] | None, args: argparse.Namespace) -> bool:
    if old is None or args.again:
        return True
    return bool(args.failed and "not_exported" not in old and not passed(old))


def main() -> None:
    """Try what the command line asks for, and write the tables after every import."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--names", nargs="*", default=[])
    parser.add_argument("--exporters", nargs="*", default=list(NEWEST), choices=list(NEWEST))
    parser.add_argument("--opsets", type=int, nargs="*", default=list(OPSETS))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/onnxadmm/exports")
    parser.add_argument("--again", action="store_true", help="measure again what was measured")
    parser.add_argument("--failed", action="store_true", help="measure again what failed")
    parser.add_argument("--discard", action="store_true", help="remove an export after its trial")
    parser.add_argument("--seconds", type=float, default=300.0, help="limit of a step")
    parser.add_argument("--gib", type=float, default=4.0, help="memory limit of a step")
    parser.add_argument("--table", action="store_true", help="only write the tables again")
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    results = json.loads(STORE.read_text(encoding="utf-8")) if STORE.exists() else {}
    limits = Limits(args.seconds, args.gib)
    for name, exporter, opsets in () if args.table else _todo(args, results):
        found = exported(name, exporter, opsets, args.cache, limits, small=True)
        for opset, file in found.items():
            key = f"{exporter} {opset}"
            if isinstance(file, Failure) and file.stopped:
                # Stopped by our own limits: that says nothing of the exporter.
                print(name, key, file.why, flush=True)
                continue
            r: dict[str, Any] = (
                {"not_exported": file.why}
                if isinstance(file, Failure)
                else measure_file(file, limits, STEPS)
            )
            if isinstance(file, Path) and args.discard:
                file.unlink()
            results.setdefault(name, {})[key] = r
            print(name, key, fault(r) or r.get("import_error", "–"), flush=True)
            write(results)
    for file in args.files:
        entry = results.setdefault(FILES, {})
        if _wanted(entry.get(file.name), args):
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            entry[file.name] = measure_file(file, limits, STEPS) | {"sha256": digest}
            print(
                file.name, fault(entry[file.name]) or entry[file.name]["import_error"], flush=True
            )
            write(results)
    write(results)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
