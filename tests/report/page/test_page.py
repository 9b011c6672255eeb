"""The page of a sweep: every figure from the statistics, nothing from elsewhere, nothing run that was read."""

import json
import re
from typing import Any

import pytest
from tests.report import made
from tests.report.page.reading import Page, markdown_tables

from foldflat.report.page import page_html, page_markdown, summary_lines, sweep_document
from foldflat.report.page.styles import N_COLOURS, style_of
from foldflat.report.statistics import sweep_statistics

AFTER = "600 steps of fine-tuning"
METHODS = ("ours", "svd", "paper", *(f"paper-{k}" for k in (*range(2, 13), 23)), "int8", "int4")


def document(cells: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    """Return the report of made cells."""
    commands = {"sweep": ["foldflat sweep grid.yaml -o results"], "cell": [], "label": "", "notes": []}
    given = {"source": "results", "grid": made.GRID, "machines": [], "commands": commands, "version": "0.1.0"}
    return sweep_document(made.cells() if cells is None else cells, **{**given, **more})


def spoken(cells: list[dict[str, Any]]) -> str:
    """Return what the head of the page says, with plain spaces."""
    (found,) = document(cells)["summary"]
    return " ".join(" ".join(summary_lines(found)).split())


@pytest.fixture(scope="module")
def page() -> Page:
    """Give the page of two counted tasks and one apart, four methods, two rates, two seeds, two lengths."""
    return Page(page_html(document()))


def test_drops_are_those_worked_out_by_hand(page: Page) -> None:
    """Ours at 0.4 loses 0.8 and 0.72 % of sst2, 1.6 and 1.44 % of stsb: t of 1.47 degrees 6.26, .0316 / sqrt(.5)."""
    row = ("ours", "40 %")
    mean = f"Mean drop over 2 tasks, {AFTER}"
    assert page.cell(mean, row, "relative drop, %") == "1.14 [0.86, 1.42]"
    assert page.cell(mean, row, "table's bytes") == "60.4 %"
    assert page.cell(mean, row, "seeds") == "2"
    tasks = f"Drop of each task at 40 % compression, {AFTER}"
    assert page.cell(tasks, ("sst2",), "ours") == "0.76 [0.25, 1.27] / 0.68 [0.18, 1.19]"
    assert page.cell(tasks, ("wnli / in no mean",), "svd") == "0.00 [0.00, 0.00] / 0.00 [0.00, 0.00]"
    # 0.905 and 0.896 of which 1 - 0.008 and 1 - 0.0072 are left
    assert page.cell(f"Scores in points of each task's headline metric, {AFTER}", row, "sst2") == "89.37 ± 0.58"
    assert page.cell("The uncompressed model, 600 steps", ("wnli",), "threshold") == "58.52"


def test_every_drop_and_score_is_that_of_the_statistics(page: Page) -> None:
    """All cells of the tables of drops and scores, formatted here anew."""
    compared = 0
    for group in sweep_statistics(made.cells())["groups"]:
        words = AFTER if group["max_steps"] else "no fine-tuning"
        for row in group["drops"]:
            place = (row["method"], "one size" if row["rate"] is None else f"{100 * row['rate']:.0f} %")
            for name, column in (("relative", "relative drop, %"), ("absolute", "drop, points")):
                shown = page.cell(f"Mean drop over 2 tasks, {words}", place, column)
                assert _numbers(shown) == _rounded(row[name])
                compared += 1
            if row["versus_svd"] is not None:
                shown = page.cell(f"Mean drop over 2 tasks, {words}", place, "minus svd, points")
                assert _numbers(shown) == _rounded(row["versus_svd"])
        for row in group["scores"]:
            place = (row["method"], "" if row["rate"] is None else f"{100 * row['rate']:.0f} %")
            shown = page.cell(f"Scores in points of each task's headline metric, {words}", place, row["task"])
            assert _numbers(shown) == [f"{100 * row['score'][name]:.2f}" for name in ("mean", "deviation")]
            compared += 1
    assert compared == 2 * (7 * 2 + 8 * 3)


def _numbers(text: str) -> list[str]:
    return re.findall(r"-?[0-9.]+", text.replace("\N{MINUS SIGN}", "-"))


def _rounded(found: dict[str, Any]) -> list[str]:
    return [f"{100 * found[name]:.2f}" for name in ("mean", "low", "high")]


def test_markdown_has_the_tables_of_the_page(page: Page) -> None:
    """The same captions, headings and cells, in another form."""
    assert markdown_tables(page_markdown(document())) == page.tables
    assert len(page.tables) > 10


def test_json_has_the_figures_of_the_page(page: Page) -> None:
    """It goes through JSON unchanged, is what the page is made of, and has every cell once."""
    found = document()
    again = json.loads(json.dumps(found, allow_nan=False))
    assert again == found
    assert Page(page_html(again)).tables == page.tables
    assert len(found["cells"]) == len(made.cells())
    assert not {"details", "table"} & set(found["cells"][0])
    assert found["statistics"]["groups"][0]["drops"][0].keys() >= {"relative", "absolute", "versus_svd"}


def test_the_page_needs_nothing_but_itself(page: Page) -> None:
    """The one address is the paper's, which is a link and loads nothing; the style sheet imports nothing."""
    addresses = [reference for reference in page.references if not reference.startswith(("#", "data:,"))]
    assert set(addresses) == {"https://arxiv.org/abs/2010.04290"}
    assert page.elements["script"] == page.elements["style"] == 1
    assert not {"img", "iframe", "object", "embed", "form", "base"} & set(page.elements)
    text = page_html(document())
    assert not re.search(r"url\(|@import|fetch\(|XMLHttp|import\(", text)
    assert text.count("http") == text.count("https://arxiv.org/abs/2010.04290") == 1


def test_names_and_tokens_are_never_markup() -> None:
    """A model, a task, a token and a grid that hold elements stand there as they are written."""
    bad = "<script>alert('x')</script>"
    cells = made.cells(models=(f'{bad}" onload="x',))
    for cell in cells:
        cell["task"] = bad if cell["task"] == "sst2" else cell["task"]
        for subspace in cell["details"].get("subspaces", []):
            subspace["tokens"] = [bad, "a|b", "`c`", "[d](http://e)", "</table>"]
    found = document(cells, grid=f"# {bad}\n```\n", source=bad)
    page = Page(page_html(found))
    assert page.elements["script"] == 1
    assert page.handlers == []
    assert any(bad in rows[1][1] for rows in page.tables.values())
    text = page_markdown(found)
    outside = re.sub(r"^(`{4,})yaml\n.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert "<script" not in outside
    assert "](" not in outside
    assert markdown_tables(text) == page.tables


def test_every_chart_has_its_lines(page: Page) -> None:
    """Two of means and six of tasks with all methods that compress; two of bands; one of bars without lines."""
    methods = ["int8", "ours", "paper-3", "svd"]
    assert [sorted(found) for found in page.methods] == [methods] * 8 + [[]] + [methods] * 2
    assert page.elements["figcaption"] == 10


def test_the_head_says_which_method_is_best_with_intervals() -> None:
    """At each rate the least relative drop, svd's beside it, and the paired difference."""
    words = spoken(made.cells())
    assert "Mean drop over 2 tasks after 600 steps of fine-tuning" in words
    assert "Not counted: wnli (not learned)." in words
    assert "At 40 % compression ours drops least, 1.14 % [0.86, 1.42]; svd 3.78 % [2.95, 4.61]." in words
    assert "Against svd: +2.20 points [+1.42, +2.98]." in words
    assert "do not tell" not in words
    assert "2 seeds do not tell the two apart." in spoken(made.cells(tasks=("stsb",)))


def test_integer_rows_are_named_where_they_are_better_by_bytes() -> None:
    """int8 is smaller and loses less than all; a rate below its size is not beaten; what was not run is not judged."""
    assert "By stored bytes int8 is the better choice: int8 takes 26.6 % of the table's bytes" in spoken(made.cells())
    assert "smaller than every method at every rate and at least as good" in spoken(made.cells())
    some = spoken(made.cells(rates=(0.4, 0.8)))
    assert "smaller and at least as good as ours at 40 %, and 3 of all 6 combinations" in some
    assert "no integer format is both smaller and at least as good" in spoken(made.cells(rates=(0.8,)))
    without = spoken(made.cells(methods=("none", "svd", "ours")))
    assert "int8 and int4 have no complete results here" in without


def test_one_seed_has_neither_interval_nor_bold_figures() -> None:
    """What one seed gives is said to be that; with two every bold figure has its interval."""
    one = Page(page_html(document(made.cells(seeds=(0,)))))
    assert one.strong == []
    assert "1.20 % (one seed, no interval)" in " ".join(one.texts.split())
    bold = Page(page_html(document())).strong
    assert len(bold) == 4
    assert all(re.search(r"\[.+,.+\]", text) for text in bold)


def test_without_a_task_that_counts_there_is_no_mean() -> None:
    """The page says so and shows scores; tasks without cells of a method leave it without a mean."""
    found = document(made.cells(tasks=("wnli",)))
    page = Page(page_html(found))
    assert "No task counts after 600 steps of fine-tuning" in page.texts
    assert not [caption for caption in page.tables if caption.startswith("Mean drop")]
    assert [sorted(methods) for methods in page.methods[:2]] == [["int8", "ours", "paper-3", "svd"]] * 2
    cells = [cell for cell in made.cells() if (cell["task"], cell["method"]) != ("stsb", "ours")]
    page = Page(page_html(document(cells)))
    assert page.cell(f"Mean drop over 2 tasks, {AFTER}", ("ours", "40 %"), "relative drop, %") == "no cells yet: stsb"
    assert "At 40 % compression paper-3 drops least" in " ".join(page.texts.split())


def test_what_lacks_cells_is_named_and_compared_with_none() -> None:
    """By what it lacks: a task, a seed, a rate; a method of one seed is not the best of those that have two."""
    cells = made.cells()
    assert "ncomplete" not in spoken(cells)
    found = spoken([cell for cell in cells if (cell["task"], cell["method"], cell["rate"]) != ("stsb", "ours", 0.6)])
    assert "At 60 % compression paper-3 drops least" in found
    assert "Incomplete, and compared with none: ours at 60 % (no cells of stsb)." in found
    cells = [cell for cell in cells if (cell["method"], cell["seed"]) != ("ours", 1)]
    cells = [cell for cell in cells if (cell["method"], cell["rate"]) != ("paper-3", 0.4)]
    found = spoken(cells)
    assert "At 40 % compression svd drops least" in found
    assert "none: ours at 40 % and 60 % (1 of 2 seeds); paper-3 at 40 % (no cells)." in found
    assert not [text for text in Page(page_html(document(cells))).strong if text.startswith("1.20")]


def test_a_task_without_the_uncompressed_model_is_said_to_be_that() -> None:
    """Nothing is known of whether it was learned."""
    found = spoken([cell for cell in made.cells() if cell["method"] != "none"])
    assert "Not counted: sst2, stsb and wnli (no uncompressed model)." in found


def test_a_compression_that_counts_bytes_is_told_from_others() -> None:
    """In the head and the tables, at an equal number too; no difference to svd, which it is not the size of."""
    found = document(made.cells(methods=("none", "svd", "ours", "mixed")))
    assert [item["method"] for item in found["summary"][0]["best"]] == ["ours", "ours", "mixed", "mixed"]
    words = found["summary"][0]["best"][2]["words"].replace("\N{NO-BREAK SPACE}", " ")
    assert re.fullmatch(r"of bytes, not of parameters, mixed drops least, 0.57 % \[.*\]\.", words)
    page = Page(page_html(found))
    row, mean = ("mixed", "40 % of bytes"), f"Mean drop over 2 tasks, {AFTER}"
    assert page.cell(mean, row, "minus svd, points") == ""
    assert page.cell(f"Drop of each task at 40 % compression, {AFTER}", ("sst2",), "mixed (40 % of bytes)")
    assert len(page.strong) == 8


def test_learning_rates_are_those_of_a_model() -> None:
    """Its name stands there where there are several."""
    cells = made.cells(models=("one", "two"))
    rows = markdown_tables(page_markdown(document(cells)))["Peak learning rates of the runs after compression."]
    assert [row[0] for row in rows] == ["model", *["one"] * 5, *["two"] * 5]


def test_cells_without_details_have_no_such_sections() -> None:
    """Those of an older sweep: sizes are there, parts, bands, subspaces and learning rates are not."""
    cells = [{**cell, "details": {}, "learning_rate": None} for cell in made.cells()]
    page = Page(page_html(document(cells)))
    assert "Size of every part" in page.texts
    for heading in ("Error by token frequency", "Which tokens share"):
        assert heading not in page.texts
    assert not [caption for caption in page.tables if caption.startswith(("Every part", "Peak learning"))]


def test_sizes_bands_and_subspaces_are_those_of_the_cells(page: Page) -> None:
    """Bytes of table and parts, losses by band, tokens in their order."""
    assert page.cell("Stored bytes after", ("ours", "40 %"), "table") == "0.31 MB"
    assert page.cell("Stored bytes after", ("ours", "40 %"), "index") == "2.0 kB"
    assert page.cell("Every part", ("bert.embeddings.words_of_a_long_name",), "after") == "0.14 MB to 0.31 MB"
    assert page.cell("Every part", ("bert.encoder.layer.0",), "after") == "the same"
    assert page.cell("Energy lost", ("svd", "40 %"), "never") == "14.4 % / cos 0.925"
    assert page.cell("Energy lost", ("svd", "40 %"), "1,000+ times") == "4.80 % / cos 0.976"
    assert page.cell("ours at 40 %, sst2, seed 0", ("1",), "tokens") == "the to is on by it"
    assert not [caption for caption in page.tables if caption.startswith("svd at 40 %")]


def test_no_two_methods_look_alike() -> None:
    """Colour, marker and dash together are each method's own; those in one chart differ by marker alone."""
    names = [*METHODS, *(f"{name}-weighted" for name in METHODS)]
    looks = [style_of(name) for name in names]
    assert len(set(looks)) == len(names)
    usual = [
        style_of(name) for name in ("ours", "svd", "paper", "paper-2", "paper-3", "paper-4", "paper-5", "int8", "int4")
    ]
    assert len({look.shape for look in usual}) == len({look.colour for look in usual}) == N_COLOURS


def test_colours_stand_out_from_both_backgrounds() -> None:
    """Lines at least 3 : 1, text at least 4.5 : 1 (WCAG 2.1), by light and by dark."""
    light, dark = re.findall(r":root \{(.*?)\}", page_html(document()), flags=re.DOTALL)[:2]
    for sheet in (light, dark):
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", sheet))
        for name, colour in colours.items():
            if re.fullmatch(r"c\d", name):
                assert _contrast(colour, colours["ground"]) >= 3, name
        for name in ("ink", "faint", "link"):
            assert _contrast(colours[name], colours["ground"]) >= 4.5, name
            assert _contrast(colours[name], colours["raised"]) >= 4.5, name


def _contrast(one: str, other: str) -> float:
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
