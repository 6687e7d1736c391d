"""Networks for timm: importing this package registers them, so that ``timm.create_model`` finds them by name."""

try:
    import timm  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("convfirst_ext.models needs timm: pip install 'convfirst_ext[models]'.") from error

from convfirst_ext.models.convfirstnet import (
    ConvFirstNet,
    convfirstnet_nano,
    convfirstnet_pico,
    convfirstnet_small,
    convfirstnet_tiny,
)

__all__ = ["ConvFirstNet", "convfirstnet_nano", "convfirstnet_pico", "convfirstnet_small", "convfirstnet_tiny"]
