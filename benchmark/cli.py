"""The command ``leakboard``. It imports torch only where a command computes, so that reports need none."""

from __future__ import annotations

import gc
import inspect
import logging
import shlex
import shutil
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console

from benchmark.captured import commands as captured
from benchmark.errors import InputError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Which defenses against gradient leakage hold, and what they cost.")

# The base of every error about arguments; newer releases of typer bring click within them, older ones import it.
_ArgumentError: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

_Plugins = Annotated[Optional[list[Path]], typer.Option(
    help="A Python file with defenses, attacks, models or data sets; it is executed; repeatable.")]

OK, SOME_CELLS_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def _show_version(asked: bool) -> None:
    if asked:
        print(f"leakboard {version('leakboard')}")
        raise typer.Exit


@app.callback()
def _leakboard(_: Annotated[bool, typer.Option(
        "--version", help="Show the version.", callback=_show_version, is_eager=True)] = False) -> None:
    """Which defenses against gradient leakage hold, and what they cost."""


@app.command()
def run(
    config: Annotated[Optional[Path], typer.Argument(help="A YAML file with a grid.", show_default="the preset")] = None,
    preset: Annotated[Optional[str], typer.Option(help="A grid that comes with the package.", show_default="quick")] = None,
    dataset: Annotated[Optional[list[str]], typer.Option(help="Name or path; repeatable; replaces those of the grid.")] = None,
    model: Annotated[Optional[list[str]], typer.Option(help='As above: "lenet", "torchvision:resnet18".')] = None,
    defense: Annotated[Optional[list[str]], typer.Option(help='As above: "noise(std=0.01)", "precode+noise".')] = None,
    attack: Annotated[Optional[list[str]], typer.Option(help='As above: "inverting-gradients(iterations=500)".')] = None,
    seed: Annotated[Optional[list[int]], typer.Option(help="As above.")] = None,
    epochs: Annotated[Optional[int], typer.Option(help="Epochs of training.")] = None,
    tuning: Annotated[Optional[bool], typer.Option(
        help="Choose step size and batch size of each defense on validation images.", show_default="as the grid says")] = None,
    checkpoint: Annotated[Optional[list[int]], typer.Option(
        help="Epochs before the observation: 0 untrained, -1 the last; repeatable.")] = None,
    victims: Annotated[Optional[int], typer.Option(help="Observed gradients per cell and checkpoint.")] = None,
    observed: Annotated[Optional[list[str]], typer.Option(
        help="Images behind each observed gradient: as-trained, single, or a number; repeatable.")] = None,
    labels: Annotated[Optional[str], typer.Option(help="known or inferred: whether the attacker is given the labels.")] = None,
    candidates: Annotated[Optional[int], typer.Option(
        help="Images among which each victim's own is looked for (identification); 0: off.")] = None,
    image_size: Annotated[Optional[int], typer.Option(help="Resize images of a folder or zip to this side.")] = None,
    out: Annotated[Optional[Path], typer.Option(help="Run folder; a stopped run goes on.", show_default="runs/NAME")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:NUMBER.")] = "auto",
    data_root: Annotated[Optional[Path], typer.Option(
        help="Where data sets are looked for.", show_default="LEAKBOARD_DATA, else the cache folder")] = None,
    plugin: _Plugins = None,
    models_from: Annotated[Optional[list[Path]], typer.Option(
        help="Run folder whose trained models are taken where they are those of this grid; repeatable.")] = None,
    results_from: Annotated[Optional[list[Path]], typer.Option(
        help="As --models-from; what was measured on a model is taken with it.")] = None,
    executor: Annotated[str, typer.Option(
        help="serial: one cell after another; ray: as many at once as there is place for.")] = "serial",
    ray_address: Annotated[Optional[str], typer.Option(
        help="Of a Ray cluster; auto: the one of this machine.", show_default="one is started on this machine")] = None,
    gpus_per_cell: Annotated[Optional[float], typer.Option(
        help="Share of a GPU that Ray keeps for a cell.", show_default="1")] = None,
    threads: Annotated[Optional[int], typer.Option(
        help="CPU threads of each cell; rounding depends on it.", show_default="all cores")] = None,
) -> int:
    """Tune every defense, train, observe, identify and attack in every cell of a grid, then write its report."""
    from benchmark import executors
    from benchmark.measure import interrupts
    from benchmark.run import runner

    grid, folder, loaded = _chosen(options := locals())
    console = Console()
    try:
        with executors.create(executor, threads=threads, ray_address=ray_address, gpus_per_cell=gpus_per_cell) as chosen, \
                interrupts.heeded():
            plan = runner.prepare(grid, folder, chosen.device(options["device"]), data_root=data_root, plugins=loaded,
                                  load_on=chosen.loads_on, models_from=models_from or [], results_from=results_from or [],
                                  command=shlex.join(["leakboard", *sys.argv[1:]]))
            outcome = _displayed(console, plan, chosen)
    except KeyboardInterrupt:
        _say(f"interrupted: what is finished is kept in {folder}; the same command goes on from there")
        return INTERRUPTED
    print(f"{outcome.finished} cells finished, {outcome.kept} kept, {outcome.failed} failed")
    _write_report([folder], folder / "report")
    return SOME_CELLS_FAILED if outcome.failed else OK


def _with_the_options_of_run(command: Any) -> Any:
    command.__signature__ = inspect.signature(run, eval_str=True)  # as texts, arguments and help would be lost
    command.__annotations__ = run.__annotations__
    return command


@app.command()
@_with_the_options_of_run
def plan(**options: Any) -> int:
    """Show the trials and cells of a grid, what is done or would be taken from other runs, and the time that the rest takes by what
    was measured, in this run or, in proportion to epochs, iterations and victims, in those; runs nothing."""
    from benchmark import executors
    from benchmark.run import planning, runner

    grid, folder, loaded = _chosen(options)
    of_executor = {name: options[name] for name in ("threads", "ray_address", "gpus_per_cell")}
    with executors.create(options["executor"], **of_executor) as chosen:
        found = runner.identify(grid, chosen.device(options["device"]), data_root=options["data_root"], plugins=loaded,
                                load_on=chosen.loads_on)
    print(planning.describe(planning.planned(found, folder, options["models_from"] or [], options["results_from"] or [])))
    return OK


@app.command()
def reproduce(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    sample: Annotated[int, typer.Option(help="How many finished cells to measure again.")] = 3,
    seed: Annotated[Optional[int], typer.Option(help="Of the choice of cells.", show_default="another one each time")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:NUMBER.")] = "auto",
    data_root: Annotated[Optional[Path], typer.Option(
        help="Where data sets are looked for.", show_default="LEAKBOARD_DATA, else the cache folder")] = None,
    plugin: _Plugins = None,
    threads: Annotated[Optional[int], typer.Option(help="CPU threads; rounding depends on it.", show_default="as the run")] = None,
) -> int:
    """Train and attack random cells of a run from the beginning, and compare with its tables; the run is left as it is."""
    from benchmark import executors, plugins
    from benchmark.measure import interrupts
    from benchmark.run import reproducing
    from benchmark.run.progress import LogLines
    from benchmark.store import results

    _quiet()
    recorded = results.read_manifest(run)["provenance"].get("threads")
    threads = threads if threads is not None or not isinstance(recorded, int) else recorded
    with executors.create("serial", threads=threads) as chosen:
        loaded = [plugins.read(path) for path in plugin or []]
        drawn = reproducing.draw(run, sample, chosen.device(device), seed=seed, data_root=data_root, plugins=loaded)
        for note in drawn.notes:
            _say(note)
        try:
            with interrupts.heeded():
                compared = reproducing.reproduce(drawn, LogLines(Console()), chosen, loaded)
        except KeyboardInterrupt:
            _say("interrupted; nothing was changed")
            return INTERRUPTED
    print("\n".join(comparison.text() for comparison in compared))
    same = sum(comparison.same for comparison in compared)
    print(f"{same} of {len(compared)} cells are the same (to {reproducing.TOLERANCE:g} in test accuracy and SSIM; ranks exactly)")
    return OK if same == len(compared) else SOME_CELLS_FAILED


@app.command()
def claims(
    claim: Annotated[Optional[list[str]], typer.Option(
        help="A name, or a YAML file of one's own; repeatable.", show_default="all that come with the package")] = None,
    out: Annotated[Path, typer.Option(help="Folder of their runs; what was stopped goes on.")] = Path("runs/claims"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:NUMBER.")] = "auto",
    data_root: Annotated[Optional[Path], typer.Option(
        help="Where data sets are looked for.", show_default="LEAKBOARD_DATA, else the cache folder")] = None,
    plugin: _Plugins = None,
    threads: Annotated[Optional[int], typer.Option(
        help="CPU threads; rounding depends on it.", show_default="all cores")] = None,
) -> int:
    """Test headline claims of papers, each by a run of its own: print their table, and write it and a report."""
    from benchmark import executors, plugins
    from benchmark.measure import interrupts
    from benchmark.run import claiming, runner
    from reports import claim_documents

    _quiet()
    loaded = [plugins.read(path) for path in plugin or []]
    chosen, console, failed = claiming.chosen(claim or []), Console(), 0
    folders = [out / named.name for named, _ in chosen]
    try:
        with executors.create("serial", threads=threads) as executor, interrupts.heeded():
            for place, (named, grid) in enumerate(chosen):
                console.print(f"claim {named.name} ({place + 1} of {len(chosen)})", highlight=False)
                plan = runner.prepare(grid, folders[place], executor.device(device), data_root=data_root, plugins=loaded,
                                      load_on=executor.loads_on, models_from=folders[:place],
                                      command=shlex.join(["leakboard", *sys.argv[1:]]))
                failed += _displayed(console, plan, executor).failed
    except KeyboardInterrupt:
        _say(f"interrupted: what is finished is kept in {out}; the same command goes on from there")
        return INTERRUPTED
    judged = claim_documents.judged([(named, folder) for (named, _), folder in zip(chosen, folders, strict=True)])
    claim_documents.write(judged, out)
    print(claim_documents.table(judged))
    _write_report(folders, out / "report", judged)
    return SOME_CELLS_FAILED if failed else OK


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[Optional[Path], typer.Option(help="Folder of the report.", show_default="FIRST RUN/report")] = None,
    claims: Annotated[Optional[Path], typer.Option(
        help="A claims.json that leakboard claims wrote: a page of the site.", show_default="none")] = None,
) -> int:
    """Write a site, and the leaderboard as Markdown, CSV, LaTeX and JSON, from the tables of one or more runs."""
    from reports import claim_documents

    _write_report(runs, out if out is not None else runs[0] / "report", None if claims is None else claim_documents.read(claims))
    return OK


@app.command()
def submit(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    name: Annotated[str, typer.Option(help="Name of the entry, as leaderboards show it.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    paper: Annotated[str, typer.Option(help="An http or https address.", show_default="none")] = "",
) -> int:
    """Write a run as an entry for a leaderboard: aggregates, configuration, versions, and the hash of the tables."""
    from reports import submission

    submission.submit(run, name, paper, out)
    print(f"entry: {out}")
    return OK


@app.command()
def merge(
    entries: Annotated[list[Path], typer.Argument(help="Files that submit wrote.")],
    out: Annotated[Path, typer.Option(help="Folder of the leaderboard.")],
) -> int:
    """Build the leaderboard of many entries; only what was measured by the same protocol shares a table."""
    from reports import submission
    from reports.site import write_leaderboard

    print(f"leaderboard: {write_leaderboard(submission.merge(entries), out)}")
    return OK


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="An entry or a leaderboard.json.")],
    run: Annotated[Optional[Path], typer.Option(help="Also check that its numbers follow from the tables of this run.")] = None,
) -> int:
    """Check a file and say what is wrong with it."""
    from reports import submission

    print(submission.check(file, run))
    return OK


app.command()(captured.identify)
app.command()(captured.attack)


@app.command("list")
def list_(
    what: Annotated[Optional[str], typer.Argument(
        help="defenses, attacks, datasets, models, presets or claims.", show_default="all")] = None,
    plugin: _Plugins = None,
) -> int:
    """Show names, parameters with their defaults, a description and the source."""
    from benchmark import plugins
    from benchmark.catalogue import catalogue

    for path in plugin or []:
        plugins.read(path)
    # Piped, an entry's text stays a line.
    print(catalogue(what, shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
    return OK


def _chosen(options: dict[str, Any]) -> tuple[Any, Path, list[Any]]:
    """The grid, run folder and loaded plugins that the options of ``run`` mean."""
    from benchmark.run.options import chosen

    _quiet()
    return chosen(options)


def _quiet() -> None:
    # Opacus and torch tell of their internals here; nothing a user of this command could act on.
    warnings.filterwarnings("ignore", module=r"(opacus|torch)\b")


def _displayed(console: Console, plan: Any, executor: Any) -> Any:
    """Run what was prepared, and show how far it is."""
    from benchmark.run import runner
    from benchmark.run.progress import LiveBars, LogLines

    if not console.is_terminal:
        return runner.run(plan, LogLines(console), executor)
    with LiveBars(console) as bars:
        return runner.run(plan, bars, executor)


def _write_report(runs: list[Path], out: Path, claims: Any = None) -> None:
    # The command is where all rooms meet; nothing else under benchmark/ knows of reports.
    from reports.site import write_report

    print(f"report: {write_report(runs, out, claims)}")


def _say(text: str) -> None:
    print(f"leakboard: {text}", file=sys.stderr)


def execute(arguments: list[str]) -> int:
    """Run the command and return its exit code; bad input is one line on standard error and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="leakboard: %(message)s", force=True)
    for library in ("fontTools", "matplotlib"):
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        code = app(args=arguments, prog_name="leakboard", standalone_mode=False)
        return code if isinstance(code, int) else OK
    except InputError as error:
        _say(f"error: {' '.join(str(error).split())}")
    except _ArgumentError as error:
        _say(f"error: {' '.join(error.format_message().split())}")
    except typer.Exit as error:
        return int(error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        _say("interrupted")
        return INTERRUPTED
    return BAD_INPUT


def main() -> None:
    """The console script."""
    code = execute(sys.argv[1:])
    gc.freeze()  # Python would look through all objects of torch once more before it ends: two thirds of the time that takes
    sys.exit(code)
