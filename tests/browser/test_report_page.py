"""Tests of the report page in a browser, with mouse and keyboard."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samcourier.evaluation.outcome import Outcome
from samcourier.evaluation.transport_changes import changes_of
from samcourier.failure import Failure
from samcourier.report import Report, render_page
from samcourier.report.pictures import Pictures, encode
from samcourier.results.image_log import Attempt, CallBytes, CallSeconds, ImageLog, ImageSeconds
from samcourier.samples.sheet import ImageRow

COUNT = 2000
HOSTILE = "<img src=x onerror=\"document.title='hacked'\"></script><script>document.title='hacked'"

IDS = "[...document.querySelectorAll('#images tbody tr[data-at] th')].map(th => th.textContent)"
FOUND = "document.getElementById('found').textContent"
IS_OPEN = "document.getElementById('viewer').open"
TITLE = "document.getElementById('viewer-title').textContent"


def outcome(number: int) -> Outcome:
    name = f"cell_{number}"
    failed = number % 100 == 50
    transport: Any = "webrtc" if number % 2 else "http"
    call = Attempt(
        transport=transport,
        reason=f"predicted 0.1 s {HOSTILE}",
        started_at=f"2026-03-01T10:{number // 60 % 60:02d}:{number % 60:02d}Z",
        outcome="ok",
        error=None,
        seconds=CallSeconds(total=0.9, send=0.1, queue=0.2, service=0.5, receive=0.1),
        bytes=CallBytes(1_000_000, 50_000),
        predicted_s=0.1 + number / COUNT,
        travel_alone_s=0.2,
    )
    log = ImageLog(
        image=name,
        path=f"{name}.tif",
        status="failed" if failed else "done",
        finished_at=call.started_at,
        seconds=ImageSeconds(total=1 + number * 7 % COUNT, read=0.1, write=0.1),
        object_count=None if failed else number,
        attempts=(call,),
        failure=Failure("image", "ImageUnfit", HOSTILE) if failed else None,
    )
    status: Any = log.status
    return Outcome(name, "0001", status, HOSTILE if failed else None, "k", None, log)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A report of 2000 images; every hundredth failed and two have a picture."""
    outcomes = tuple(outcome(number) for number in range(COUNT))
    report = Report(
        dataset_dir=tmp_path / HOSTILE.replace("/", "-"),
        rows=tuple(ImageRow(each.image, Path(f"{each.image}.tif")) for each in outcomes),
        outcomes=outcomes,
        outside_subset_count=0,
        changes=changes_of(
            [
                {"at": "2026-03-01T10:01:00Z", "event": "switch", "batch": "0001"}
                | {"to_transport": "http", "reason": HOSTILE},
            ]
        ),
        run_environment=None,
    )
    lines = np.zeros((100, 100), bool)
    lines[10:30, 10] = True
    picture = encode(np.full((100, 100, 3), 99, np.uint8), lines, 512)
    path = tmp_path / "report.html"
    shown = Pictures({"cell_0": picture, "cell_1": picture}, source="previews")
    path.write_text(render_page(report, shown), encoding="utf-8")
    return path


def test_the_page_draws_its_charts_and_loads_no_other_file(browser: Any, page: Path) -> None:
    browser.open(page)
    for chart in ("stages", "calls", "rates", "predicted"):
        browser.run(f"document.querySelector('[data-chart={chart}]').scrollIntoView()")
        browser.settle()
        drawn = f"""(() => {{
          const canvas = document.querySelector('[data-chart={chart}] canvas');
          const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
          return new Set(new Uint32Array(pixels.data.buffer)).size;
        }})()"""
        assert browser.run(drawn) > 3, f"{chart} is empty"
    assert browser.problems == []
    assert not [url for url in browser.requests if not url.startswith(("file:", "data:"))]
    assert browser.requests[0].startswith("file:")
    assert sum(url.startswith("file:") for url in browser.requests) == 1


def test_hostile_text_is_shown_and_not_executed(browser: Any, page: Path) -> None:
    browser.open(page)
    browser.run("document.getElementById('only').value = 'failed'")
    browser.run("document.getElementById('only').dispatchEvent(new Event('change'))")
    browser.run("document.getElementById('images').focus()")
    browser.press("Enter")
    browser.settle()
    assert "hacked" not in browser.run("document.title").split("<")[0]
    assert browser.run("document.querySelectorAll('img[src=x]').length") == 0
    assert HOSTILE in browser.run("document.getElementById('viewer').innerText")
    assert browser.problems == []


def test_the_page_holds_only_the_rows_in_view_while_typing_and_scrolling(
    browser: Any, page: Path
) -> None:
    browser.open(page)
    browser.run("document.getElementById('search').value = 'CELL_7'")
    browser.run("document.getElementById('search').dispatchEvent(new Event('input'))")
    browser.settle()
    assert browser.run(IDS)[:2] == ["cell_7", "cell_70"]
    browser.run("document.getElementById('search').value = ''")
    browser.run("document.getElementById('search').dispatchEvent(new Event('input'))")
    browser.settle()
    assert browser.run(IDS)[:2] == ["cell_0", "cell_1"]
    assert len(browser.run(IDS)) < 60
    browser.run("document.getElementById('scroller').scrollTop = 1e9")
    browser.settle()
    assert browser.run(IDS)[-1] == f"cell_{COUNT - 1}"
    assert len(browser.run(IDS)) < 60


SORTED = [
    ("Image", ["cell_0", "cell_1"], ["cell_1999", "cell_1998"]),
    ("Objects", ["cell_0", "cell_1"], ["cell_1999", "cell_1998"]),
    ("Time, s", ["cell_0", "cell_1143"], ["cell_857", "cell_1714"]),
    ("Status", ["cell_0", "cell_1"], ["cell_50", "cell_150"]),
]


def test_images_can_be_sorted_by_any_column(browser: Any, page: Path) -> None:
    browser.open(page)
    for heading, ascending, descending in SORTED:
        click = f"""[...document.querySelectorAll('#images thead button')]
          .find(button => button.textContent === {heading!r}).click()"""
        for expected, order in ((ascending, "ascending"), (descending, "descending")):
            browser.run(click)
            assert browser.run(IDS)[:2] == expected, f"{heading}, {order}"
            assert browser.run("document.querySelector('[aria-sort]').ariaSort") == order


SEARCHED = [
    ("cell_77", "", "11 of 2,000 images", "cell_77"),
    ("CELL_77 http", "", "5 of 2,000 images", "cell_770"),
    ("", "failed", "20 of 2,000 images", "cell_50"),
    ("nothing like it", "", "0 of 2,000 images", None),
]


def test_images_can_be_searched_and_filtered(browser: Any, page: Path) -> None:
    browser.open(page)
    for words, only, found, first in SEARCHED:
        browser.run(f"document.getElementById('search').value = {words!r}")
        browser.run(f"document.getElementById('only').value = {only!r}")
        browser.run("document.getElementById('only').dispatchEvent(new Event('change'))")
        assert browser.run(FOUND) == found
        assert next(iter(browser.run(IDS)), None) == first


def test_all_functions_work_with_the_keyboard(browser: Any, page: Path) -> None:
    browser.open(page)
    browser.run("document.getElementById('images').focus()")
    browser.press("End", "Home", "ArrowDown", "Enter")
    browser.settle()
    assert (browser.run(IS_OPEN), browser.run(TITLE)) == (True, "cell_1")
    width = "parseFloat(document.querySelector('.stage img').style.width)"
    fitted = browser.run(width)
    browser.press("+")
    assert browser.run(width) == pytest.approx(fitted * 1.25)
    visible = "getComputedStyle(document.querySelector('.stage img.outlines')).visibility"
    assert browser.run(visible) == "visible"
    browser.press("o")
    assert browser.run(visible) == "hidden"
    browser.press("ArrowRight")
    assert browser.run(TITLE) == "cell_2"
    browser.press("Escape")
    browser.settle()
    assert (browser.run(IS_OPEN), browser.run("document.activeElement.id")) == (False, "images")
    assert browser.run("document.querySelector('[aria-selected=true] th').textContent") == "cell_2"


def test_the_pictures_view_shows_tiles_that_open(browser: Any, page: Path) -> None:
    browser.open(page)
    browser.run("document.getElementById('view').value = 'pictures'")
    browser.run("document.getElementById('view').dispatchEvent(new Event('change'))")
    browser.settle()
    tiles = browser.run("document.querySelectorAll('.tile').length")
    assert 20 < tiles < 250
    browser.run("document.getElementById('images').focus()")
    browser.press("ArrowRight")
    active = "document.getElementById(images.getAttribute('aria-activedescendant')).innerText"
    assert browser.run(active).startswith("cell_1")
    browser.run("document.querySelectorAll('.tile')[3].click()")
    assert browser.run(TITLE) == "cell_3"
    assert browser.problems == []


def test_all_controls_and_pictures_have_an_accessible_name(browser: Any, page: Path) -> None:
    browser.open(page)
    unnamed = """[...document.querySelectorAll('button, input, select, [role=img], img, dialog')]
      .filter(each => !(each.ariaLabel || each.textContent.trim() || each.labels?.length
        || each.hasAttribute('alt') || each.hasAttribute('aria-labelledby'))).length"""
    assert browser.run(unnamed) == 0
    levels = browser.run(
        "[...document.querySelectorAll('main h1, main h2, main h3')].map(h => +h.tagName[1])"
    )
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
