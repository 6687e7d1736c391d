"""The `convfirst` command's entry point, which starts even where packages it needs are missing."""

import io
import sys

from .apps.requirements import MissingPackageError


def main() -> None:
    """Runs `convfirst` with the arguments of this process and exits with its status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name may hold what the terminal cannot show
    try:
        from .apps.commands import app

        app(prog_name="convfirst")
    except MissingPackageError as error:
        print(f"convfirst: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
