"""Names of timm's networks, and what was probably meant by a wrong one."""

import difflib

from .requirements import models_extra


def check_network(name: str) -> None:
    """Makes sure that timm has a network of that name.

    Raises:
        ValueError: it has none; the message is one line that names close ones.
        MissingPackageError: timm is not installed.
    """
    with models_extra():
        import timm

        import convfirst_ext.models  # noqa: F401  (timm knows ConvFirstNet from here on)

    if timm.is_model(name):
        return
    close = difflib.get_close_matches(name, timm.list_models(), n=3)
    hint = f"; did you mean {', '.join(close)}?" if close else "; timm.list_models() lists the known ones"
    raise ValueError(f"timm has no model {name!r}{hint}")
