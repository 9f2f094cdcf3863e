"""The commands. Each one loads what it needs when it runs: `--help` loads neither torch nor onnxruntime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxadmm._version import __version__

from .failures import Main

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onnxadmm.report import Gate

# Existence and kind are checked by onnxadmm itself, with exits and messages of its own.
FILE = click.Path(path_type=Path)


@click.group(cls=Main, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="onnxadmm")
def main() -> None:
    """Make a trained ONNX model smaller and faster, and prove it."""


@main.command()
@click.argument("model", type=FILE)
@click.option("--spec", "-s", type=FILE, required=True, help="What to do, as YAML or JSON.")
@click.option(
    "--output",
    "-o",
    type=FILE,
    help="Folder of the result; by default MODEL's name plus `-compressed`.",
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set one key of the spec."
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on from the newest checkpoint in the output folder, and do nothing where the run was finished.",
)
@click.option(
    "--restart",
    is_flag=True,
    help="Start anew where checkpoints of a run that was not finished are in the output folder.",
)
@click.option(
    "--no-checkpoints",
    is_flag=True,
    help="Write no checkpoints, for want of disk space: a run that is interrupted is lost.",
)
@click.option(
    "--allow-code",
    is_flag=True,
    help="Let functions run that the spec names, from Python files in its folder.",
)
@click.option("--quiet", "-q", is_flag=True, help="Say nothing but warnings and the result.")
def compress(  # noqa: PLR0917  (click hands options over by name)
    model: Path,
    spec: Path,
    output: Path | None,
    overrides: tuple[str, ...],
    resume: bool,
    restart: bool,
    no_checkpoints: bool,
    allow_code: bool,
    quiet: bool,
) -> None:
    """Train MODEL towards a compressed form, cut it, prove it, measure it, judge its gates.

    Exit status: 0 done, 1 a gate failed, 2 usage or spec, 3 bad model or data, 4 disk or memory,
    5 training diverged, 130 or 143 interrupted.
    """
    from onnxadmm.pipeline import compress as run

    from .console import Console
    from .interrupts import Signals

    if resume and restart:
        raise click.UsageError("--resume goes on from checkpoints that --restart drops; give one")
    if resume and no_checkpoints:
        raise click.UsageError(
            "--resume needs the checkpoints that --no-checkpoints leaves out; give one"
        )
    folder = output or model.with_name(f"{model.stem}-compressed")
    console = Console(quiet=quiet)
    with console, Signals(folder, saves=not no_checkpoints) as signals:
        result = run(
            model,
            spec,
            output=folder,
            overrides=overrides,
            resume=resume,
            restart=restart,
            checkpoints=not no_checkpoints,
            allow_code=allow_code,
            progress=console,
            stop=signals,
        )
    console.result(result.report, folder)
    _exit_by(result.report.gates)


@main.command()
@click.argument("model", type=FILE)
@click.option("--spec", "-s", type=FILE, help="Warn of what this spec won't gain.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set one key of the spec."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option("--all", "everything", is_flag=True, help="Show every class and every layer.")
def inspect(
    model: Path, spec: Path | None, overrides: tuple[str, ...], as_json: bool, everything: bool
) -> None:
    """Show which channels of MODEL can go, what they cost, and what is fixed and why."""
    from onnxadmm.pipeline import inspect as run

    from .inspection import show_inspection

    if overrides and spec is None:
        raise click.UsageError("--set changes a key of --spec, and there is none")
    found = run(model, spec, overrides)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2, ensure_ascii=False))
    else:
        show_inspection(found, everything=everything)


@main.command()
@click.argument("models", type=FILE, nargs=-1, required=True)
@click.option(
    "--spec",
    "-s",
    type=FILE,
    help="Feed this spec's data, follow its benchmark section, judge its gates; without it random inputs.",
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set one key of the spec."
)
@click.option(
    "--provider",
    "providers",
    multiple=True,
    metavar="NAME",
    help="cpu (the default), cuda, or another of this build of ONNX Runtime.",
)
@click.option(
    "--batch-size", "batch_sizes", multiple=True, type=click.IntRange(1, 65536), help="Default: 1."
)
@click.option(
    "--threads", multiple=True, type=click.IntRange(1, 1024), help="Inside an operator. Default: 1."
)
@click.option("--rounds", type=click.IntRange(5, 10_000), help="Paired runs. Default: 100.")
@click.option(
    "--allow-code",
    is_flag=True,
    help="Let a metric run that the spec names, from a Python file in its folder.",
)
@click.option("--output", "-o", type=FILE, help="Folder for benchmark.json, .html, .md and .xml.")
@click.option("--json", "as_json", is_flag=True, help="Print benchmark.json instead of tables.")
@click.option("--quiet", "-q", is_flag=True, help="Say nothing but warnings and the result.")
def benchmark(  # noqa: PLR0917  (click hands options over by name)
    models: tuple[Path, ...],
    spec: Path | None,
    overrides: tuple[str, ...],
    providers: tuple[str, ...],
    batch_sizes: tuple[int, ...],
    threads: tuple[int, ...],
    rounds: int | None,
    allow_code: bool,
    output: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Time MODELS against the first of them: paired, interleaved, each in a process of its own.

    Options that may be given several times time each value. Exit status 1 when a gate of the spec fails.
    """
    from onnxadmm.pipeline.benchmarking import Wishes
    from onnxadmm.pipeline.benchmarking import benchmark as run

    from .console import Console
    from .tables import show_benchmark

    if overrides and spec is None:
        raise click.UsageError("--set changes a key of --spec, and there is none")
    with Console(quiet=as_json or quiet) as console:
        found = run(
            list(models),
            spec=spec,
            overrides=overrides,
            wishes=Wishes(providers, batch_sizes, threads, rounds),
            output=output,
            allow_code=allow_code,
            progress=console,
        )
    if as_json:
        click.echo(found.to_json(), nl=False)
    else:
        show_benchmark(found)
        _show_gates(found.gates)
        if output is not None:
            click.echo(
                f"wrote {output}: benchmark.html, benchmark.json, benchmark.md, benchmark.xml"
            )
    _exit_by(found.gates)


@main.command()
@click.argument("report", type=FILE)
@click.option(
    "--spec", "-s", type=FILE, help="Judge by this spec's gates instead of the report's own."
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set one key of the spec."
)
@click.option("--junit", type=FILE, help="Write the verdicts as JUnit XML, for a CI system.")
def check(report: Path, spec: Path | None, overrides: tuple[str, ...], junit: Path | None) -> None:
    """Judge a stored REPORT again, without running anything. Exit status 1 when a gate fails.

    REPORT is a report.json or a benchmark.json, or the folder of a run.
    """
    from onnxadmm.pipeline.checking import check as run

    gates = run(report, spec, overrides)
    if junit is not None:
        from onnxadmm.graph import write_atomic
        from onnxadmm.report.junit import render_junit

        write_atomic(junit, render_junit(report.name, gates))
    _show_gates(gates)
    if not gates:
        click.echo("no gates to judge")
    _exit_by(gates)


@main.command()
@click.argument("runs", type=FILE, nargs=-1, required=True)
@click.option(
    "--output",
    "-o",
    type=FILE,
    default=Path("comparison"),
    show_default=True,
    help="Folder for comparison.html, .md and .json.",
)
def report(runs: tuple[Path, ...], output: Path) -> None:
    """Compare RUNS, output folders of compress: quality, time and size, and the Pareto front."""
    from onnxadmm.pipeline.comparing import compare_folders

    from .tables import show_runs

    show_runs(compare_folders(runs, output))
    click.echo(f"wrote {output}: comparison.html, comparison.md, comparison.json")


@main.command()
@click.argument("model", type=FILE)
@click.option(
    "--output", "-o", type=FILE, default=Path("spec.yaml"), show_default=True, help="The spec."
)
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
def init(model: Path, output: Path, force: bool) -> None:
    """Write a commented spec for MODEL that runs as it is."""
    from onnxadmm.pipeline.starting import write_starting_spec

    write_starting_spec(model, output, force=force)
    click.echo(
        f"wrote {output}; now run: onnxadmm compress {_shown(model)} --spec {_shown(output)}"
    )


def _shown(path: Path) -> str:
    import shlex

    return shlex.quote(str(path))


def _show_gates(gates: Iterable[Gate]) -> None:
    for gate in gates:
        click.echo(f"{'passed' if gate.passed else 'FAILED'}  {gate.name}: {gate.message}")


def _exit_by(gates: Any) -> None:
    """Exit with 1 when a gate failed; what failed has been said."""
    judged: tuple[Gate, ...] = tuple(gates)
    if not all(g.passed for g in judged):
        raise click.exceptions.Exit(1)
