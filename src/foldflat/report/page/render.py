"""The document of a report as one HTML page, or as Markdown."""

import re
from typing import Any

from foldflat.errors import MissingDependencyError
from foldflat.report.page.charts import swatch
from foldflat.report.page.context import Model, models_of
from foldflat.report.page.drops import paper_table
from foldflat.report.page.sizes import learning_rate_table, machine_table
from foldflat.report.page.tables import Cell, Table
from foldflat.report.page.words import METHODS, NOTES, method_order, rate

__all__ = ["page_html", "page_markdown"]

# brackets are those of intervals; they make a link only before these
_SPECIAL = re.compile(r"[&<>|`*\\]|\](?=[(\[:])")


def page_html(document: dict[str, Any]) -> str:
    """Return a page that needs nothing but itself.

    Raises:
        MissingDependencyError: Jinja2 is not installed.
    """
    try:
        import jinja2
        from markupsafe import Markup, escape
    except ImportError:
        raise MissingDependencyError('a page needs Jinja2\nhint: pip install "foldflat[eval]", or write .md') from None
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("foldflat.report.page"),
        # what is in the page comes from file names and texts of others
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = Markup
    # where a name of several parts may go on in the next line
    environment.filters["breakable"] = lambda text: Markup(re.sub(r"([._/])", r"\1<wbr>", str(escape(text))))
    environment.filters["rate"] = rate
    environment.globals["swatch"] = swatch
    return environment.get_template("page.html.jinja").render(_context(document)) + "\n"


def page_markdown(document: dict[str, Any]) -> str:
    """Return the same content without charts."""
    context = _context(document)
    parts = [f"# {_escaped(context['title'])}", _escaped(context["origin"])]
    for model in context["models"]:
        parts += _model_markdown(model)
    parts += ["## The paper", _table(context["paper"])]
    parts += ["## Methods", "\n".join(f"- `{name}`: {words}" for name, words in context["methods"])]
    parts += ["## Settings", *(_table(table) for table in context["settings"])]
    parts += _commands_markdown(document)
    return "\n\n".join(part for part in parts if part) + "\n"


def _context(document: dict[str, Any]) -> dict[str, Any]:
    models = models_of(document)
    names = ", ".join(dict.fromkeys(model.title for model in models))
    settings = [
        *([learning_rate_table(document["learning_rates"])] if document["learning_rates"] else []),
        *([machine_table(document["machines"])] if document["machines"] else []),
    ]
    used = sorted({row["method"] for row in document["cells"]}, key=method_order)
    return {
        "title": f"What compression costs: {names}",
        "origin": f"{len(document['cells']):,} cells of {document['results']}, shown by foldflat "
        f"{document['foldflat']}. Models: "
        f"{', '.join(model.name for model in models)}.",
        "models": models,
        "notes": NOTES,
        "paper": paper_table(document["paper"]),
        "methods": [(name, _method_in_words(name)) for name in used],
        "settings": settings,
        "document": document,
    }


def _method_in_words(name: str) -> str:
    base = name.removesuffix("-weighted")
    number = base.removeprefix("paper-")
    known = f"the paper's subspaces: {number} of equal rank" if number.isdigit() else METHODS.get(base, "")
    return f"{known}; rows weighted by how often their tokens occur in the training texts" if base != name else known


def _model_markdown(model: Model) -> list[str]:
    summary = model.summary
    best = "\n".join(f"- At {rate(item['rate'])} compression {_escaped(item['words'])}" for item in summary["best"])
    parts = [f"## {_escaped(model.name)}", _escaped(summary["lead"]), best]
    parts += [_escaped(summary["incomplete"]), _escaped(summary["bytes"])]
    parts += ["### Mean drop", NOTES["mean"]]
    parts += [_table(length.table) for length in reversed(model.lengths) if length.table is not None]
    for length in reversed(model.lengths):
        parts += [f"### Task by task, {length.words}", NOTES["tasks"], *(_table(table) for table in length.tables)]
    for title, note, own in (
        ("Size of every part", "sizes", model.sizes),
        ("Error by token frequency", "bands", model.bands),
        ("Which tokens share a subspace", "subspaces", model.subspaces),
    ):
        parts += [f"### {title}", NOTES[note], *(_table(table) for table in own)] if own else []
    return parts


def _commands_markdown(document: dict[str, Any]) -> list[str]:
    commands = document["commands"]
    parts = ["## To repeat", "`grid.yaml`:", f"{_fenced(document['grid'], 'yaml')}"] if document["grid"] else []
    parts += ["The whole sweep, and this report:", _fenced("\n".join(commands["sweep"]), "sh")]
    if commands["cell"]:
        words = [f"One cell by hand ({_escaped(commands['label'])}):", _fenced("\n".join(commands["cell"]), "sh")]
        parts += [*words, *map(_escaped, commands["notes"])]
    return parts if document["grid"] else ["## To repeat", *parts]


def _fenced(text: str, language: str) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _table(table: Table) -> str:
    n = len(table.headings)
    lines = [f"{_escaped(table.caption)}\n", _line(map(_escaped, table.headings))]
    lines.append(_line(["---"] * table.texts + ["---:"] * (n - table.texts)))
    lines += [_line(map(_cell, row)) for row in table.rows]
    return "\n".join(lines)


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    if cell.tokens:
        return " ".join(f"<code>{_escaped(token)}</code>" for token in cell.tokens)
    text = f"**{_escaped(cell.text)}**" if cell.strong else _escaped(cell.text)
    return f"{text}<br>{_escaped(cell.note)}" if cell.note else text


def _escaped(text: str) -> str:
    """Return a text in which nothing is Markdown or HTML, on one line."""
    return _SPECIAL.sub(lambda found: f"&#{ord(found[0])};", " ".join(text.split()))
