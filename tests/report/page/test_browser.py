"""The page in a real browser: needs selenium, Chromium and its driver, and is skipped where one is absent."""

import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.report import made

from foldflat.report.page import page_html, sweep_document

# one browser for all
pytestmark = pytest.mark.xdist_group("browser")

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    # whatever the page asked for would be an error in its log
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost",
)
PHONE, DESK = 360, 1280
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Start Chromium without a window; only its driver, on this machine, is spoken to."""
    webdriver = pytest.importorskip("selenium.webdriver", reason='no selenium: pip install "foldflat[dev]"')
    chromium = next(filter(None, map(shutil.which, CHROMIUM)), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no Chromium with chromedriver on the path: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with warnings.catch_warnings():
        # selenium leaves sockets to its driver for the collector to close
        warnings.simplefilter("ignore", ResourceWarning)
        # given both paths, selenium looks for nothing on the network
        found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        try:
            yield found
        finally:
            found.quit()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the page of made results with a long model name and many methods."""
    methods = (*made.METHODS, "paper-5", "paper", "ours-weighted", "int4")
    cells = made.cells(models=("made", "a-folder/of-some/very-long-name-of-a-model-on-the-hub"), methods=methods)
    commands = {
        "sweep": ["foldflat sweep grid.yaml -o results"],
        "cell": ["foldflat finetune " + "long/" * 40],
        "label": "sst2",
        "notes": [],
    }
    found = sweep_document(cells, source="r", grid=made.GRID, machines=[], commands=commands, version="0.1.0")
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(page_html(found), encoding="utf-8")
    return file


@pytest.fixture
def show(browser: Any, page_file: Path) -> Iterator[Open]:
    """Return a function that opens the page at a width, by light or dark, and runs a script in it."""

    def opened(script: str = "", *, width: int = DESK, dark: bool = False, scripts: bool = True) -> Any:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width == PHONE}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": [feature]})
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})
        browser.get(page_file.as_uri())
        return browser.execute_script(script) if script else None

    yield opened
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert browser.get_log("browser") == []


SIZES = """
return [...document.querySelectorAll(arguments[0] || 'svg[role=img]')]
  .filter(e => e.checkVisibility()).map(e => { const r = e.getBoundingClientRect(); return [r.width, r.height]; });
"""
OVERFLOW = """
const wide = [...document.querySelectorAll('body *')].filter(e =>
  e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll') && !e.closest('pre') && !e.closest('svg'));
return [document.documentElement.scrollWidth, innerWidth, wide.map(e => e.outerHTML.slice(0, 80))];
"""


def test_all_figures_are_there_and_large_enough(show: Open) -> None:
    """Of each model two means, the three tasks of one length, a bar chart and two of bands: nowhere empty or tiny."""
    sizes = show(SIZES)
    assert len(sizes) == 2 * (2 + 3 + 1 + 2)
    assert all(width > 200 and height > 100 for width, height in sizes)


def test_the_legend_hides_a_line_in_all_charts_of_its_model(show: Open, browser: Any) -> None:
    """A click hides it, another shows it again, the keyboard does too; the other model's lines stay."""
    count = "return [...document.querySelectorAll('.model')].map(m => [...m.querySelectorAll('g[data-method=svd]')]"
    count += ".filter(e => e.checkVisibility() && e.getBoundingClientRect().width > 0).length);"
    assert show(count) == [7, 7]
    button = browser.find_element("css selector", ".legend [data-method=svd] button")
    button.click()
    assert browser.execute_script(count) == [0, 7]
    assert browser.execute_script(count.replace("svd", "ours")) == [7, 7]
    assert button.get_attribute("aria-pressed") == "false"
    button.send_keys(" ")
    assert browser.execute_script(count) == [7, 7]
    assert button.get_attribute("aria-pressed") == "true"


def test_the_switch_shows_one_length_at_a_time(show: Open, browser: Any) -> None:
    """First the longest; the other one after a click, with its own charts and tables."""
    shown = "return [...document.querySelector('.lengths').children].filter(e => e.checkVisibility())"
    shown += ".map(e => e.dataset.length);"
    assert show(shown) == ["600 steps of fine-tuning"]
    buttons = browser.find_elements("css selector", ".model:first-of-type .switch button")
    assert [button.text for button in buttons] == ["600 steps of fine-tuning", "no fine-tuning"]
    buttons[1].click()
    assert browser.execute_script(shown) == ["no fine-tuning"]
    assert [button.get_attribute("aria-pressed") for button in buttons] == ["false", "true"]


@pytest.mark.parametrize("width", [320, PHONE, 768, DESK])
def test_nothing_is_wider_than_the_screen(show: Open, width: int) -> None:
    """Tables and commands scroll within themselves, the page does not."""
    scrolled, inner, wide = show(OVERFLOW, width=width)
    assert wide == []
    assert scrolled <= inner


def test_letters_in_charts_can_be_read_on_a_phone(show: Open) -> None:
    """Scaled to 360 pixels, no letter of a chart is lower than eight."""
    heights = show(
        "return [...document.querySelectorAll('svg[role=img] text')].filter(e => e.checkVisibility()).map(e =>"
        " parseFloat(getComputedStyle(e).fontSize) * e.getCTM().a);",
        width=PHONE,
    )
    assert heights
    assert min(heights) >= 8


def test_dark_mode_is_dark(show: Open) -> None:
    """Background and ink change places, and lines take their light colours."""
    colours = "const s = (q, p) => getComputedStyle(document.querySelector(q))[p];"
    colours += "return [s('body', 'backgroundColor'), s('body', 'color'), s('.c0 .line', 'stroke')];"
    assert show(colours) == ["rgb(255, 255, 255)", "rgb(27, 31, 36)", "rgb(11, 95, 192)"]
    assert show(colours, dark=True) == ["rgb(20, 23, 27)", "rgb(232, 235, 238)", "rgb(104, 178, 255)"]


def test_print_is_black_on_white_and_shows_all(show: Open, browser: Any) -> None:
    """Also from dark mode, with both lengths; whatever was hidden by a click is printed."""
    show(dark=True)
    for button in browser.find_elements("css selector", ".legend [data-method=svd] button"):
        browser.execute_script("arguments[0].click()", button)
    dark = {"name": "prefers-color-scheme", "value": "dark"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": [dark]})
    style = "const s = (q, p) => getComputedStyle(document.querySelector(q))[p];"
    style += "return [s('body', 'color'), s('body', 'backgroundColor'), s('.c0 .line', 'stroke')];"
    assert browser.execute_script(style) == ["rgb(0, 0, 0)", "rgb(255, 255, 255)", "rgb(11, 95, 192)"]
    assert len(browser.execute_script(SIZES)) == 2 * (2 + 2 * 3 + 1 + 2)
    hidden = "return [...document.querySelectorAll('.series, .length')].filter(e => !e.checkVisibility()).length;"
    assert browser.execute_script(hidden) == 0


def test_without_scripts_all_is_shown(show: Open, browser: Any) -> None:
    """Both lengths stand below one another, and nothing looks like a button."""
    show(scripts=False)
    assert len(browser.find_elements("css selector", ".length")) == 4
    assert all(found.is_displayed() for found in browser.find_elements("css selector", ".length h4"))
    assert browser.find_elements("css selector", "button") == []
