"""The commands of `convfirst` and their options."""

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

import torch

import convfirst_ext as cf
from convfirst_ext.analysis.ceilings import measure_ceilings
from convfirst_ext.analysis.ceilings import steps as ceiling_steps
from convfirst_ext.analysis.ceilings_cache import cache_file, keep
from convfirst_ext.fusion.kernel_rates import RATE_STEPS, measure_rates

from .facts import machine_facts
from .networks import check_network
from .photos import printable
from .requirements import models_extra

with models_extra():
    import typer
    from rich.console import Console

    from .analysis import STEPS, THIS, analyze_model
    from .analysis import Request as Analysis
    from .analysis_report import draw, write_report
    from .analysis_tables import block_rows, fused_rows, layer_rows, rich_table, summary
    from .benchmark import NETWORK_RUNTIMES, Request, compare_networks
    from .main_job import Settings, run_main_job
    from .report import facts_table, print_report
    from .steps import progress_of

_SUCCESS, _WRONG, _UNREADABLE = 0, 1, 2
_DEFAULT_PNG = Path("convfirst-classify.png")
_MOST_THREADS = 1024

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode="markdown", pretty_exceptions_enable=False
)


class DType(str, Enum):
    """Names of the dtypes that `optimize` takes."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Threads = Annotated[
    int | None,
    typer.Option(min=1, max=_MOST_THREADS, help="Threads of PyTorch.", show_default="PyTorch's own choice"),
]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    """Convolutional networks on the CPU at the speed of the machine, in PyTorch."""
    if version:
        print(f"convfirst_ext {cf.__version__}")
        raise typer.Exit


@app.command()
def classify(
    photos: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[PHOTO ...]", help="Image files; without any, a cat and a cup of coffee."),
    ] = None,
    output: Annotated[
        Path, typer.Option(metavar="PNG", help="Where to write the picture; a file of that name is replaced.")
    ] = _DEFAULT_PNG,
    threads: Threads = None,
    dtype: Annotated[DType, typer.Option(help="How the fused network stores activations.")] = DType.float32,
    top: Annotated[int, typer.Option(min=1, max=1000, help="Labels to show of each photo.")] = 5,
    rounds: Annotated[int, typer.Option(min=1, max=1000, hidden=True)] = 10,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", hidden=True)] = True,
) -> None:
    """Classify photos with EfficientNet-Lite0 and its ImageNet weights, and compare with stock PyTorch.

    Prints the labels, the largest logit difference from stock PyTorch, the time and the memory of one
    inference at batch 1, and writes one picture of it all (./convfirst-classify.png unless --output names
    another place).

    Exit status: 2 if a photo cannot be read (the others are still classified) or an argument is wrong, 1 if
    the float32 logits differ from stock PyTorch's by more than 0.001, else 0.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    problem = _problem_with_output(output, photos or [])
    if problem:
        _fail(problem)
    settings = Settings(getattr(torch, dtype.value), top, rounds, memory)
    outcome = run_main_job(photos or [], settings, _complain)
    status = _UNREADABLE if outcome.unreadable else _SUCCESS
    if outcome.results:
        print_report(outcome, Console(highlight=False, soft_wrap=False))
        status = status or (_SUCCESS if outcome.agrees else _WRONG)
        try:
            outcome.write_figure(output)
        except OSError as error:
            _fail(f"--output {printable(output)}: {error.strerror or error}")
        print(f"Picture: {printable(output)}")
    raise typer.Exit(status)


@app.command()
def info(
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Measure the ceilings and keep them for later commands."),
    ] = False,
    threads: Threads = None,
) -> None:
    """Print what the kernels found: the CPU, its instruction sets and caches, threads, GPU, versions and ceilings.

    Ceilings are the peak of float32 arithmetic and the bandwidth of copies in every cache; once measured, explain and
    analyze use them, and the times of single kernels that are measured with them.

    Exit status: 2 if the ceilings cannot be kept, else 0.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if measure:
        try:
            with progress_of(ceiling_steps() + RATE_STEPS) as tell:
                rates = measure_rates(torch.get_num_threads(), tell)
                keep(measure_ceilings(torch.get_num_threads(), tell=tell), rates)
        except OSError as error:
            _fail(f"{printable(cache_file())}: {error.strerror or error}")
    Console(highlight=False).print(facts_table(machine_facts()))


@app.command()
def explain(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A network of timm's, e.g. mobilenetv2_100.")],
    size: Annotated[int | None, typer.Option(min=1, help="Height and width of its input.")] = None,
    threads: Threads = None,
    time: Annotated[bool, typer.Option("--time/--no-time", help="Whether to time the blocks.")] = True,
) -> None:
    """Print, per block of a fused timm network, its kernel or the reason for leaving it to PyTorch, and its cost.

    Columns: multiply-adds, bytes moved and those that cannot be avoided, scratch memory of a thread, median time,
    and how much of that time the machine's peak or copy bandwidth would need.
    """
    with models_extra():
        import timm

    if threads is not None:
        torch.set_num_threads(threads)
    try:
        check_network(model)
    except ValueError as error:
        _fail(str(error))
    network = timm.create_model(model).eval()
    configuration = cast("dict[str, Any]", network.pretrained_cfg)
    channels, height, width = configuration.get("input_size", (3, 224, 224))
    example = torch.rand(1, channels, size or height, size or width)
    try:
        with torch.no_grad():
            network(example)
    except Exception as error:  # any network can be asked for, with any size of images
        reason = " ".join(str(error).split()) or type(error).__name__
        _fail(f"{model} cannot run on an image of {example.shape[2]}x{example.shape[3]}: {reason}")
    print(cf.explain(cf.optimize(network), example, time=time))


@app.command()
def analyze(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A network of timm's or torchvision's, or module:function that makes one."
        ),
    ],
    machine: Annotated[
        str, typer.Option(help="this, a5000, a100, h100, h200, one of your machines.toml, or FILE.toml[:NAME].")
    ] = THIS,
    batch: Annotated[int, typer.Option(help="Images.")] = 1,
    size: Annotated[
        int | None, typer.Option(help="Height and width of the images.", show_default="what the model is made for")
    ] = None,
    threads: Threads = None,
    time: Annotated[
        bool, typer.Option("--time/--no-time", help="Whether to run the fused network, on this CPU.")
    ] = True,
    layers: Annotated[bool, typer.Option("--layers", help="Print every layer, not only blocks.")] = False,
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the report and the plots go.")] = Path(),
) -> None:
    """Tell where a network's time must go on a machine, what fusing its blocks would give, and what it takes here.

    The least time of a layer is that of its arithmetic at peak or of its bytes, each tensor moved once, whichever is
    longer (waterline analysis). For this CPU the optimized network is run and its blocks are timed. Prints tables and
    writes plots and one HTML report (./convfirst-analyze-MODEL.html unless --output names another folder).

    Exit status: 2 if an argument is wrong, else 0.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        with progress_of(STEPS + 1) as tell:
            outcome = analyze_model(Analysis(model, machine, batch, size, time, output), tell)
            tell("Drawing")
            paths = write_report(outcome, draw(outcome))
    except (ValueError, OSError) as error:
        _fail(str(error))
    console = Console(highlight=False)
    console.print(rich_table(layer_rows(outcome.network) if layers else block_rows(outcome.network, merged=True)))
    if outcome.fused is not None:
        console.print(rich_table(fused_rows(outcome.fused.records)))
    for line in [*summary(outcome.network), *outcome.timing]:
        console.print(line, markup=False)
    print(f"Report: {printable(paths[0])}")


@app.command()
def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL", help="Networks of timm's; without any, eight usual ones."),
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Batch size.", show_default="1 and 16")] = None,
    size: Annotated[int, typer.Option(help="Height and width of the images.")] = 224,
    threads: Threads = None,
    dtype: Annotated[list[DType] | None, typer.Option(help="Precision.", show_default="float32")] = None,
    runtime: Annotated[
        list[str] | None, typer.Option(help=f"Of {', '.join(NETWORK_RUNTIMES)}.", show_default="all that are installed")
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(help="About how long it may take.", show_default="a minute a network and batch"),
    ] = None,
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the JSON and the plot go.")] = Path(),
    quick: Annotated[bool, typer.Option("--quick", help="Only one network, at batch 1, in 20 seconds.")] = False,
) -> None:
    """Compare networks with PyTorch, Inductor, ONNX Runtime and OpenVINO on this machine.

    Weights are random. Every runtime gets a process of its own; they take turns and must agree with PyTorch.
    Prints a table and writes a JSON file and a plot. --batch, --dtype and --runtime may be given several times.

    Exit status: 2 if an argument is wrong, 1 if nothing could be timed, else 0.
    """
    dtypes = [kind.value for kind in dtype or []]
    request = Request(models or [], batch or [], size, threads, dtypes, runtime or [], seconds, output, quick)
    try:
        timed = compare_networks(request, _complain)
    except (ValueError, OSError) as error:
        _fail(str(error))
    raise typer.Exit(_SUCCESS if timed else _WRONG)


def _problem_with_output(output: Path, photos: list[Path]) -> str | None:
    """Why the picture cannot go there: said before the work, not after it."""
    name = f"--output {printable(output)}"
    if output.suffix.lower() != ".png":
        return f"{name}: the picture is a PNG, so its name must end in .png"
    if output.is_dir():
        return f"{name}: a folder; name a file in it"
    if not output.parent.is_dir():
        return f"{name}: there is no folder {printable(output.parent)}"
    if any(photo.exists() and output.exists() and photo.samefile(output) for photo in photos):
        return f"{name}: is one of the photos; it would be overwritten"
    return None


def _fail(problem: str) -> NoReturn:
    _complain(problem)
    raise typer.Exit(_UNREADABLE)


def _complain(problem: str) -> None:
    """One line, however long: rich would wrap it."""
    print(f"convfirst: {problem}", file=sys.stderr)
