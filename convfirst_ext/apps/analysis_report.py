"""One HTML file that needs nothing beside it, and the plots of an analysed network."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from convfirst_ext.analysis import prediction_figure, roofline_figure, time_figure, waterline_figure

from .analysis import Outcome
from .analysis_tables import Rows, block_rows, fused_rows, layer_rows, summary
from .requirements import models_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 120
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; font-size: 13px; }
th, td { padding: 2px 9px; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th { background: #f4f4f4; position: sticky; top: 0; }
.text { text-align: left; }
tr.total { font-weight: bold; }
div.wide { overflow-x: auto; }
img { max-width: 100%; }
"""
_LEGEND = {
    "waterline-layers": "A bar a layer: as wide as its least time, as high as its operational intensity. What stays "
    "below the line waits for memory.",
    "waterline-blocks": "The same with every block as one kernel that keeps what is inside it.",
    "roofline": "Layers and fused blocks under the machine's roof; larger marks take more of the time.",
    "time": "Time up to every block against the multiply-adds done. The ideal line is the peak arithmetic.",
    "prediction": "Measured time of every block of the optimized network against the one predicted.",
}


def draw(outcome: Outcome) -> dict[str, Figure]:
    """The plots of an outcome by name.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    with models_extra():
        import matplotlib.figure  # noqa: F401
    network, title = outcome.network, outcome.title
    figures = {
        "waterline-layers": waterline_figure(network.layer_costs, network.machine, f"{title}, layer by layer"),
        "waterline-blocks": waterline_figure(network.block_costs, network.machine, f"{title}, blocks fused"),
        "roofline": roofline_figure(network, f"{title}\n{network.machine.name}"),
        "time": time_figure(network, outcome.curves, title),
    }
    if outcome.points:
        figures["prediction"] = prediction_figure(outcome.points, f"{title}:\nblocks of the optimized network")
    return figures


def write_report(outcome: Outcome, figures: Mapping[str, Figure]) -> list[Path]:
    """Writes the plots as PNG and the report into the folder asked for.

    Returns:
        The report, then the plots.

    Raises:
        OSError: the folder cannot be written to.
    """
    folder = outcome.request.output
    folder.mkdir(parents=True, exist_ok=True)
    stem = "convfirst-analyze-" + re.sub(r"[^\w.-]+", "-", outcome.request.model)
    images = {name: _png(figure) for name, figure in figures.items()}
    paths = [folder / f"{stem}-{name}.png" for name in images]
    for path, image in zip(paths, images.values(), strict=True):
        path.write_bytes(image)
    report = folder / f"{stem}.html"
    report.write_text(_page(outcome, images), encoding="utf-8")
    return [report, *paths]


def _page(outcome: Outcome, images: Mapping[str, bytes]) -> str:
    title = html.escape(f"{outcome.title} on {outcome.network.machine.name}")
    lines = [*summary(outcome.network), *outcome.timing]
    parts = [f"<h1>{title}</h1>", *(f"<p>{html.escape(line)}</p>" for line in lines)]
    for name, image in images.items():
        data = base64.b64encode(image).decode()
        text = html.escape(_LEGEND[name])
        parts.append(
            f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'
        )
    tables = [block_rows(outcome.network)]
    if outcome.fused is not None:
        tables.append(fused_rows(outcome.fused.records))
    tables.append(layer_rows(outcome.network))
    parts += [_table(table) for table in tables]
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _table(table: Rows) -> str:
    classes = [' class="text"' if column.text else "" for column in table.columns]
    titles = [html.escape(column.heading).replace("\n", "<br>") for column in table.columns]
    headings = "".join(f"<th{c}>{title}</th>" for c, title in zip(classes, titles, strict=True))
    rows = []
    for row in table.rows:
        cells = "".join(f"<td{c}>{html.escape(cell)}</td>" for c, cell in zip(classes, row, strict=True))
        rows.append(f"<tr{' class=total' if row[0] == 'total' else ''}>{cells}</tr>")
    body = "\n".join(rows)
    return f"<h2>{html.escape(table.title)}</h2><div class=wide><table><tr>{headings}</tr>\n{body}\n</table></div>"


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()
