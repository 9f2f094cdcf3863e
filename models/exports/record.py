"""Export architectures, import them, cut half of every class, prove it, and write the table.

    python models/exports/record.py [NAME ...] --cache DIR [--cross] [--peer] [--again] [--failed]

Every architecture goes once through the legacy exporter at opset 17 and once through dynamo's at opset 18;
`--cross` takes the light ones through both exporters at opsets 13, 17, 18, 21 and 25. One process a step,
with limits for its time and memory. What was measured is kept in `results.json` and not measured again
unless `--again` (or `--failed`, for what failed) says so; the table in README.md is written from it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from architectures import CROSS, TABLE, TIMM, names, torchvision_list
from exporting import export_named
from peer import kept
from steps import Failure, Limits, run
from trial import tried

HERE = Path(__file__).resolve().parent
STORE = HERE / "results.json"
BEGIN, END = "<!-- results: written by record.py -->", "<!-- end of results -->"
USUAL = (("legacy", 17), ("dynamo", 18))
OPSETS = (13, 17, 18, 21, 25)
# The newest opset that each exporter writes; the others are refused by it.
NEWEST = {"legacy": 20, "dynamo": 26}
PACKAGES = ("torch", "torchvision", "timm", "transformers", "onnx", "onnxruntime-gpu")
FIELDS = {
    "import": ("import_refused", "import_error", "import_s"),
    "cut": ("error", "parameters", "kept", "kept_macs", "cut_error", "held", "cut_s"),
}
"""What each step of trial.py writes into a result; the first says why it failed."""
TOLERANCE_IMPORT, TOLERANCE_CUT = 1e-4, 1e-5


def measure(
    name: str, exporter: str, opset: int, cache: Path, limits: Limits, *, steps: Sequence[str]
) -> dict[str, Any]:
    """Export where the cache has no file yet, and try the file."""
    file = exported(name, exporter, [opset], cache, limits)[opset]
    if isinstance(file, Failure):
        return {"not_exported": file.why}
    return measure_file(file, limits, steps)


def exported(
    name: str,
    exporter: str,
    opsets: Sequence[int],
    cache: Path,
    limits: Limits,
    *,
    small: bool = False,
) -> dict[int, Path | Failure]:
    """Return the file of each export, made where the cache lacks it, or why there is none."""
    stem = f"{name.replace('/', '-')}-{'small-' if small else ''}{exporter}"
    files = {opset: cache / f"{stem}-{opset}.onnx" for opset in opsets}
    lacking = {opset: str(file) for opset, file in files.items() if not file.exists()}
    refused = run(export_named, name, exporter, lacking, small, limits=limits) if lacking else {}
    if isinstance(refused, Failure):
        refused = dict.fromkeys(lacking, refused)
    return {o: file if file.exists() else refused[o] for o, file in files.items()}


def measure_file(
    file: Path, limits: Limits, steps: Sequence[str] = tuple(FIELDS)
) -> dict[str, Any]:
    """Import and cut one file, each step in a process of its own; a step's failure is a part of the result."""
    result: dict[str, Any] = {}
    for step in steps:
        found = run(tried, step, file, limits=limits)
        result |= {FIELDS[step][0]: found.why} if isinstance(found, Failure) else found
    result["date"] = datetime.now(UTC).date().isoformat()
    # Files need no exporter.
    result["versions"] = {p: version(p).split("+")[0] for p in PACKAGES if _is_installed(p)}
    return result


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def merged(old: dict[str, Any] | None, new: dict[str, Any], steps: Sequence[str]) -> dict[str, Any]:
    """Return what is known after these steps ran again: what other steps found stays."""
    if old is None or "not_exported" in old or "not_exported" in new:
        return new
    gone = {k for step in steps for k in FIELDS[step]}
    return {**{k: v for k, v in old.items() if k not in gone}, **new}


def passed_import(r: dict[str, Any]) -> bool:
    """Whether the torch module matched ONNX Runtime."""
    return r.get("import_error", 1.0) <= TOLERANCE_IMPORT


def passed_cut(r: dict[str, Any]) -> bool:
    """Whether the cut was proven and took anything away."""
    return r.get("cut_error", 1.0) <= TOLERANCE_CUT and r.get("kept", 1.0) < 1.0


def combinations(name: str, cross: bool) -> Iterator[tuple[str, int]]:
    """Yield the exporters and opsets that an architecture is tried with."""
    yield from USUAL
    if cross and name in CROSS:
        for exporter, newest in NEWEST.items():
            for opset in OPSETS:
                if opset <= newest and (exporter, opset) not in USUAL:
                    yield exporter, opset


def table(results: dict[str, Any]) -> str:
    """Return the summary and one line an architecture."""
    tried = {n: _runs(results[n]) for n in names() if n in results and _runs(results[n])}
    lines = list(_summary(tried))
    lines += [
        "",
        (
            "| architecture | imported (exporter opsets) | worst import error | parameters | kept | "
            "Torch-Pruning keeps | MACs kept | cut equals masked | what failed, or holds most |"
        ),
        "|---|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    lines += [_row(n, runs, results[n].get("peer", {})) for n, runs in tried.items()]
    return "\n".join(lines)


def _runs(entry: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the tried exports of one architecture; what an exporter refused isn't ours to try."""
    return {k: r for k, r in entry.items() if k != "peer" and "not_exported" not in r}


def _summary(tried: dict[str, dict[str, dict[str, Any]]]) -> Iterator[str]:
    groups = {
        "Torch-Pruning's torchvision list": torchvision_list(),
        "timm": TIMM,
        "named in the comparison": TABLE,
        "all": tuple(tried),
    }
    yield "| list | tried | imported (of those whose import was tried) | cut and proven | a third or more cut |"
    yield "|---|---:|---:|---:|---:|"
    for title, members in groups.items():
        there = [tried[n] for n in members if n in tried]
        asked = [rs for runs in there if (rs := [r for r in runs.values() if _tried(r, "import")])]
        imported = f"{sum(all(map(passed_import, rs)) for rs in asked)} of {len(asked)}"
        cut = sum(all(passed_cut(r) for r in runs.values()) for runs in there)
        third = sum(all(r.get("kept", 1.0) <= 2 / 3 for r in runs.values()) for runs in there)
        yield f"| {title} ({len(members)}) | {len(there)} | {imported} | {cut} | {third} |"
    every = [r for runs in tried.values() for r in runs.values()]
    dates = sorted({r["date"] for r in every if "date" in r})
    stated = sorted({f"{p} {v}" for r in every for p, v in r.get("versions", {}).items()})
    if dates:
        yield ""
        yield f"Measured {dates[0]} to {dates[-1]}: {len(every)} exports; {', '.join(stated)}."


def _row(name: str, runs: dict[str, dict[str, Any]], peer: dict[str, Any]) -> str:
    where = ", ".join(f"{k} {_mark(r)}" for k, r in sorted(runs.items()))
    errors = [r["import_error"] for r in runs.values() if "import_error" in r]
    first = next((r for r in runs.values() if "kept" in r), {})
    kept = [r["kept"] for r in runs.values() if "kept" in r]
    cuts = [r["cut_error"] for r in runs.values() if "cut_error" in r]
    theirs = f"{peer['kept']:.3f}" if "kept" in peer else ("fails" if peer else "")
    cells = [
        name,
        where,
        f"{max(errors):.1e}" if errors else "",
        f"{first['parameters']:,}".replace(",", " ") if first else "",
        _range(kept),
        theirs,
        f"{first['kept_macs']:.3f}" if first else "",
        f"{max(cuts):.1e}" if cuts else "not proven",
        _why(runs),
    ]
    return "| " + " | ".join(cells) + " |"


def _mark(r: dict[str, Any]) -> str:
    """Say how an import went, or that only the cut was tried."""
    if not _tried(r, "import"):
        return "not tried"
    return "✓" if passed_import(r) else "✗"


def _tried(r: dict[str, Any], step: str) -> bool:
    return any(k in r for k in FIELDS[step])


def _range(shares: list[float]) -> str:
    if not shares:
        return ""
    low, high = f"{min(shares):.3f}", f"{max(shares):.3f}"
    return low if low == high else f"{low} to {high}"


def _why(runs: dict[str, dict[str, Any]]) -> str:
    """Return what failed, else what holds most where less than a third went."""
    for key, r in sorted(runs.items()):
        for kind in ("error", "import_refused"):
            if kind in r:
                return f"{key}: {r[kind]}".replace("|", "\\|")[:220]
        if _tried(r, "import") and not passed_import(r):
            return f"{key}: imported with error {r.get('import_error')}"
    for r in runs.values():
        if r.get("kept", 0.0) > 2 / 3 and r.get("held"):
            return str(r["held"][0]).replace("|", "\\|")
    return ""


def write(results: dict[str, Any]) -> None:
    """Write results.json and the table of README.md."""
    text = json.dumps(results, indent=1, sort_keys=True, allow_nan=True) + "\n"
    part = STORE.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(STORE)
    show(table(results), BEGIN, END)


def show(text: str, begin: str, end: str) -> None:
    """Write a table between the markers of README.md."""
    readme = HERE / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(begin)
    _, after = rest.split(end)
    readme.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def _wanted(step: str, old: dict[str, Any], *, failed: bool) -> bool:
    """Whether a step is to run on an export that was tried before: it didn't yet, or shall again."""
    if "not_exported" in old:
        return failed
    fine = passed_import(old) if step == "import" else passed_cut(old)
    return not _tried(old, step) or (failed and not fine)


def main() -> None:
    """Run what the command line asks for, and write the table after every step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="architectures; all by default")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/onnxadmm/exports")
    parser.add_argument("--cross", action="store_true", help="all opsets for the light ones")
    parser.add_argument("--exporter", choices=("legacy", "dynamo"), help="only this exporter")
    parser.add_argument("--step", choices=tuple(FIELDS), help="only this step")
    parser.add_argument("--peer", action="store_true", help="Torch-Pruning's share as well")
    parser.add_argument("--again", action="store_true", help="measure again what was measured")
    parser.add_argument("--failed", action="store_true", help="measure again what failed")
    parser.add_argument(
        "--seconds", type=float, default=300.0, help="CPU seconds that a step may take"
    )
    parser.add_argument("--gib", type=float, default=4.0, help="memory limit of a step")
    parser.add_argument("--table", action="store_true", help="only write the table again")
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    results = json.loads(STORE.read_text(encoding="utf-8")) if STORE.exists() else {}
    limits = Limits(args.seconds, args.gib)
    for name in () if args.table else args.names or names():
        entry = results.setdefault(name, {})
        for exporter, opset in combinations(name, args.cross):
            if args.exporter not in (None, exporter):
                continue
            key = f"{exporter} {opset}"
            old = entry.get(key)
            steps = [args.step] if args.step else list(FIELDS)
            if old is not None and not args.again:
                steps = [s for s in steps if _wanted(s, old, failed=args.failed)]
            if not steps:
                continue
            new = measure(name, exporter, opset, args.cache, limits, steps=steps)
            entry[key] = merged(old, new, steps)
            print(name, key, json.dumps({k: v for k, v in entry[key].items() if k != "versions"}))
            sys.stdout.flush()
            write(results)
        if args.peer and ("peer" not in entry or args.again) and not name.startswith("raft"):
            found = run(kept, name, limits=limits)
            entry["peer"] = (
                {"error": found.why[:120]} if isinstance(found, Failure) else {"kept": found}
            )
            print(name, "Torch-Pruning", entry["peer"], flush=True)
            write(results)
    write(results)


if __name__ == "__main__":
    main()
