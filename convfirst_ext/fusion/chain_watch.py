"""Times the blocks of a chain inside it, where they find other data in the caches than by themselves."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

from torch import Tensor, nn

from convfirst_ext.fusion.records import ChainTime
from convfirst_ext.fusion.stopwatch import Stopwatch
from convfirst_ext.nn import PackedChain


class ChainWatch:
    """Profiles chains at their first call.

    Args:
        watch: measures, or None where no times are wanted.

    Attributes:
        seconds: median time of every block inside its chain.
        times: of whole chains, in the order of execution.
    """

    def __init__(self, watch: Stopwatch | None) -> None:
        self._watch = watch
        self.seconds: dict[nn.Module, float] = {}
        self.times: list[ChainTime] = []

    def stepwise(self, name: str, container: nn.Module) -> Callable[..., Any]:
        """What may stand for a container's forward: its blocks one by one, after a profile where it has one."""
        run: Callable[..., Any] = container.run_stepwise  # type: ignore[assignment]
        if self._watch is None or not isinstance(container, PackedChain):
            return run
        chain = container

        def forward(input: Tensor) -> Tensor:
            if input.device.type == "cpu" and chain.links[0] not in self.seconds:
                self._profile(name, chain, input)
            return chain.run_stepwise(input)

        return forward

    def _profile(self, name: str, chain: PackedChain, input: Tensor) -> None:
        assert self._watch is not None
        profiles: list[list[float]] = []
        self._watch.median_seconds(lambda: profiles.append(chain.profile(input)[1]), len(chain.links))
        for module, *seconds in zip(chain.links, *profiles, strict=True):
            # A module that stands in two places is listed once, with the time of the first.
            self.seconds.setdefault(module, median(seconds))
        whole = self._watch.median_seconds(lambda: PackedChain.forward(chain, input), 0)
        self.times.append(ChainTime(name, len(chain.links), whole))
