"""report.html in a real browser: nothing overflows on a phone or a desktop, in light and dark."""

from __future__ import annotations

import html
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gemma_batch.reporting.page import report_page
from gemma_batch.reporting.samples import ShownAnswer, ShownRow
from tests.integration.helpers import program
from tests.reporting.test_page import receipt, report

LONG = "s3://a-bucket-with-a-very-long-name/" + "and/a/very/long/path/" * 8
# Runs inside a page around the report: what the browser made of it, as the text of that page.
MEASURE = """
const frame = document.querySelector("iframe");
frame.onload = () => {
  const view = frame.contentWindow, root = frame.contentDocument.documentElement;
  const shade = text => {
    const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (let one = element; one; one = one.parentElement) {
      const color = view.getComputedStyle(one).backgroundColor;
      if (color !== "rgba(0, 0, 0, 0)") return color;
    }
    return "rgb(255, 255, 255)";
  };
  const faint = [], wide = [];
  for (const element of root.querySelectorAll("body *")) {
    if (element.getBoundingClientRect().right > view.innerWidth + 0.5) wide.push(element.outerHTML);
    const own = [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own) continue;
    const [a, b] = [shade(view.getComputedStyle(element).color), shade(behind(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) faint.push([contrast, element.outerHTML.slice(0, 200)]);
  }
  const paper = view.getComputedStyle(frame.contentDocument.body).backgroundColor;
  document.body.textContent = JSON.stringify({
    scroll: root.scrollWidth, inner: view.innerWidth, faint, wide: wide.slice(0, 3),
    dark: shade(paper) < 0.2, charts: root.querySelectorAll("svg path").length,
  });
};
frame.srcdoc = JSON.parse(document.querySelector("#page").textContent);
"""


def long_page() -> str:
    """Everything that a page can show, with the longest of texts."""
    alerts = [
        {"time": 1.8e9 + n, "name": "max_failed_share", "value": 0.123, "threshold": 0.1}
        for n in range(60)
    ]
    route = {"rows": 10**9, "prompt_tokens": 8000.0, "output_tokens": 512.0, "rows_per_second": 9e4}
    found = report(
        name="a-name-without-any-space-" * 6,
        output=LONG,
        rows=10**9,
        answered=987_654_321,
        failed=12_345_679,
        failures={"shard_unreadable": 12_345_000, "engine_rejected": 679},
        prompt_tokens=10**13,
        completion_tokens=10**12,
        cached_tokens=10**12,
        routes={
            f"route_{n}": {
                "model": f"organisation/{'a-long-model-name-' * 5}{n}",
                "units": 1,
                "answered": 10**8,
                "completion_tokens": 10**12,
            }
            for n in range(3)
        },
        created="2026-11-25T12:00:00+00:00",
        run_rows=10**9,
        engine_time={"start": 0.1, "starved": 0.1, "prefill": 0.3, "decode": 0.5},
        limit_share=0.42,
        first_commit=60.0,
        predicted={"seconds": 1e6, "gpu_hours": 1e5, "cost": 1e6, "routes": [route]},
        device_hours=99_999.5,
        cost=1_234_567.89,
        alerts=alerts,
    )
    samples: dict[str, list[dict[str, Any]]] = {
        "shard_unreadable": [{"id": "x" * 200, "message": f"cannot read {LONG}", "output": LONG}]
        * 3
    }
    spec = {"input": {"path": LONG}, "prompt": {"user": "word " * 100 + "w" * 300}}
    long = "word " * 300 + "w" * 300
    shown = [
        ShownRow(
            id="i" * 200,
            shard=LONG,
            row_number=1,
            prompt=long,
            answers=(ShownAnswer(route="all", model="m" * 200, output=long, thinking=long),),
        )
    ]
    receipts = [receipt(f"w{n}", n * 10.0, n * 10.0 + 50, rows=10**6) for n in range(20)]
    return report_page(found, receipts, samples, spec, shown)


def look(folder: Path, page: str, width: int, *, dark: bool) -> dict[str, Any]:
    """What headless Chromium makes of a page in a window of `width` pixels."""
    around = folder / f"around-{width}-{dark}.html"
    text = json.dumps(page).replace("</", "<\\/")
    around.write_text(
        f'<!doctype html><meta charset="utf-8"><body>'
        f'<iframe style="border:0;width:{width}px;height:900px"></iframe>'
        f'<script type="application/json" id="page">{text}</script>'
        f"<script>{MEASURE}</script></body>"
    )
    command = [
        program("chromium", package="chromium"),
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-dev-shm-usage", "--virtual-time-budget=10000", "--dump-dom",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        f"--user-data-dir={folder / 'profile'}",
        around.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r"<body>(\{.*\})</body>", done.stdout, re.DOTALL)
    assert found, f"{done.stdout[-500:]}\n{done.stderr[-2000:]}"
    return dict(json.loads(html.unescape(found[1])))


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_fits_and_can_be_read(tmp_path: Path, width: int, dark: bool) -> None:
    """No sideways scrolling, every text with the contrast that WCAG asks for, charts drawn."""
    seen = look(tmp_path, long_page(), width, dark=dark)
    assert seen["inner"] == width
    assert seen["dark"] is dark
    assert seen["wide"] == []
    assert seen["scroll"] <= width
    assert seen["faint"] == []
    assert seen["charts"] == 4


def test_a_page_that_is_too_wide_or_faint_would_be_noticed(tmp_path: Path) -> None:
    """The measurement itself."""
    page = '<body><div style="width:500px;color:#999">text</div></body>'
    seen = look(tmp_path, page, 390, dark=False)
    assert seen["scroll"] > 390
    assert len(seen["wide"]) == len(seen["faint"]) == 1
