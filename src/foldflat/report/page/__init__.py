"""The report of a sweep: as data, as one HTML page, as Markdown."""

from foldflat.report.page.document import REPORT_FORMAT, example_row, sweep_document
from foldflat.report.page.render import page_html, page_markdown
from foldflat.report.page.summary import summary_lines

__all__ = ["REPORT_FORMAT", "example_row", "page_html", "page_markdown", "summary_lines", "sweep_document"]
