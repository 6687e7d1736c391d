"""Train ConvFirstNet, or any other network of timm's, on scikit-learn's digits or on your folder of images.

    python examples/train_convfirstnet.py
    python examples/train_convfirstnet.py --data imagenet --model convfirstnet_nano --amp bfloat16
    torchrun --nproc-per-node 8 examples/train_convfirstnet.py --data imagenet --output runs/pico --resume auto

Without arguments it trains ConvFirstNet-Pico on 1,437 scans of handwritten digits, on the CPU, in some minutes, and
tests it on 360 others. Losses, a plot, checkpoints and weights go into a new folder runs/<model>-<time> of the current
directory.
It needs: pip install "convfirst_ext[train]"
"""

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console

from convfirst_ext.training.errors import TrainingError

RECIPES = Path(__file__).resolve().parent / "recipes"
NO_SETTINGS = ("config", "output", "resume")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options; a setting that is not given stays out, so that the recipe's holds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, argument_default=argparse.SUPPRESS
    )
    parser.add_argument("--data", metavar="FOLDER", help="train/ and val/ with a folder a class; default: digits")
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="recipe; default: recipes/digits.toml, with --data FOLDER recipes/imagenet.toml",
    )
    parser.add_argument("--model", metavar="NAME", help="one of timm's; default: convfirstnet_pico")
    parser.add_argument("--epochs", type=int, metavar="N")
    parser.add_argument("--batch-size", type=int, metavar="N", help="images of a step, over all processes")
    parser.add_argument("--amp", choices=["none", "bfloat16", "float16"], help="autocast")
    parser.add_argument("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, metavar="N", help="of PyTorch")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that read images")
    parser.add_argument("--seed", type=int, metavar="N")
    parser.add_argument(
        "--patch", action=argparse.BooleanOptionalAction, help="our layers instead of torch's; default: on"
    )
    parser.add_argument("--output", metavar="FOLDER", help="for the run's files; default: runs/<model>-<time>")
    parser.add_argument(
        "--resume",
        metavar="PATH|auto",
        help="go on exactly where this run's last checkpoint was written; auto: the run in --output, or the newest "
        "of the model under runs/, or a new one",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Trains; 1 if it was stopped or cannot start, else 0."""
    options = vars(parse(arguments))
    is_first = os.environ.get("RANK", "0") == "0"
    changes = {name: value for name, value in options.items() if name not in NO_SETTINGS}
    default_recipe = RECIPES / ("digits.toml" if changes.get("data", "digits") == "digits" else "imagenet.toml")
    try:
        from convfirst_ext.training.plan import Request
        from convfirst_ext.training.report import print_report
        from convfirst_ext.training.run import train

        report = train(
            Request(
                default_recipe,
                recipe=Path(options["config"]) if "config" in options else None,
                changes=changes,
                output=Path(options["output"]) if "output" in options else None,
                resume=options.get("resume"),
            )
        )
    except TrainingError as error:
        if is_first or error.in_every_process:
            print(error, file=sys.stderr)
        return 1
    if is_first:
        print_report(report, Console(highlight=False))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
