"""The page in headless Chromium: no error, figures drawn, a table sorts, nothing is fetched."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from safety_lightning.study.report import write_report
from safety_lightning.study.report.vega import has_vega

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    pytest.mark.skipif(not has_vega(), reason="the extra report (vl-convert-python) is not installed"),
]
PROBE = """<script>
const wait = setInterval(() => {
  if (document.body.dataset.ready !== "true") return;
  clearInterval(wait);
  const table = document.querySelector("#tables ~ .scroll table"), at = 5;
  const read = () => [...table.tBodies[0].rows].map((row) => Number(row.cells[at].dataset.value));
  const button = table.tHead.rows[0].cells[at].querySelector("button");
  button.click();
  const rising = read();
  button.click();
  const found = {
    rising, falling: read(), sort: button.closest("th").getAttribute("aria-sort"),
    said: document.getElementById("said").textContent,
    drawn: [...document.querySelectorAll(".drawing")].map((one) => {
      const svg = one.querySelector("svg"), box = svg.getBoundingClientRect();
      return [one.classList.contains("drawn"), box.width, box.height, svg.querySelectorAll("path").length];
    }),
    fetched: performance.getEntriesByType("resource").length,
    names: [...document.querySelectorAll("[role=img]")].every((one) => one.getAttribute("aria-label")),
    width: [document.documentElement.scrollWidth, innerWidth],
  };
  const out = document.createElement("pre");
  out.id = "found";
  out.textContent = JSON.stringify(found);
  document.body.append(out);
}, 50);
</script>"""


def open_page(page: Path, folder: Path) -> tuple[dict[str, object], str]:
    """Opens a page with the probe behind it; returns what the probe found and what the console said."""
    assert CHROMIUM is not None
    probed = folder / "probed.html"
    probed.write_text(f"{PROBE}</body>".join(page.read_text().rsplit("</body>", 1)))  # the bundle names it too
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *("--window-size=1280,900", "--virtual-time-budget=60000", f"--user-data-dir={folder / 'profile'}"),
            *("--dump-dom", probed.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.S)
    assert found, done.stderr[-2000:]
    return json.loads(found[1].replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&")), done.stderr


def test_page_works_in_a_browser(planted_study: Path, tmp_path: Path) -> None:
    page, *_ = write_report(Path(shutil.copytree(planted_study, tmp_path / "study")))
    found, said = open_page(page, tmp_path)
    assert "CONSOLE" not in said, said
    assert found["fetched"] == 0
    assert found["rising"] == sorted(found["rising"])
    assert found["falling"] == sorted(found["falling"], reverse=True)
    assert found["sort"] == "descending"
    assert "sorted by S, falling" in found["said"]
    assert len(found["drawn"]) >= 6
    for is_drawn, width, height, num_paths in found["drawn"]:
        assert is_drawn
        assert min(width, height) > 50
        assert num_paths > 3
    assert found["names"]
    page_width, window = found["width"]
    assert page_width <= window  # nothing but tables scrolls sideways
