"""The report in a real browser without a network: headless Chromium, where there is one, told over its DevTools protocol."""

import asyncio
import json
import shutil
import subprocess
import tempfile
from contextlib import contextmanager

import aiohttp
import pytest
import records

from lab import analysis

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"), pytest.mark.timeout(1800)]
LOOK = """(() => {
  const images = [...document.images].map(i => [i.alt, i.complete && i.naturalWidth > 0]);
  const sorted = [...document.querySelectorAll("table.sortable")].map(table => {
    const head = [...table.tHead.rows[0].cells].findIndex(cell => table.tBodies[0].rows[0].cells[[...table.tHead.rows[0].cells].indexOf(cell)].dataset.value);
    if (head < 0) return null;
    const values = () => [...table.tBodies[0].rows].map(row => row.cells[head].dataset.value);
    const click = () => { table.tHead.rows[0].cells[head].querySelector("button").click(); return values(); };
    return {up: click(), down: click(), said: table.tHead.rows[0].cells[head].getAttribute("aria-sort")};
  });
  return JSON.stringify({images, sorted, scripts: document.scripts.length, text: document.body.innerText,
                         heads: [...document.querySelectorAll("h2")].map(h => h.textContent), hit: window.hit || 0,
                         wide: document.documentElement.scrollWidth - document.documentElement.clientWidth});
})()"""  # noqa: E501


@contextmanager
def chromium():
    """The address that a fresh browser listens at."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync",
                 "--disable-background-networking", "--remote-debugging-port=0", f"--user-data-dir={folder}"]  # fmt: skip
        with subprocess.Popen([CHROMIUM, *flags, "about:blank"], stderr=subprocess.PIPE, text=True) as process:
            try:
                line = next(line for line in process.stderr if line.startswith("DevTools listening on"))
                yield line.split()[-1].split("/")[2]
            finally:
                process.terminate()
                process.communicate()


async def looked_at(address, url):
    """What LOOK finds on a page, what its console said, and what it asked for."""
    said, asked, answers = [], [], {}
    async with aiohttp.ClientSession() as session:
        async with session.put(f"http://{address}/json/new?about:blank") as made:
            page = await made.json()
        async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=1 << 28) as socket:

            async def call(number, method, **params):
                await socket.send_json({"id": number, "method": method, "params": params})
                await until(lambda: number in answers)
                return answers[number]

            async def until(done):
                while not done():
                    message = json.loads((await socket.receive(timeout=120)).data)
                    if "id" in message:
                        answers[message["id"]] = message
                    elif message["method"] in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
                        said.append(json.dumps(message["params"]))
                    elif message["method"] == "Network.requestWillBeSent":
                        asked.append(message["params"]["request"]["url"])
                    elif message["method"] == "Page.javascriptDialogOpening":
                        said.append("dialog")
                    elif message["method"] == "Page.loadEventFired":
                        answers["loaded"] = message

            for number, domain in enumerate(("Runtime", "Log", "Network", "Page")):
                await call(number, f"{domain}.enable")
            await call(10, "Page.navigate", url=url)
            await until(lambda: "loaded" in answers)
            found = await call(11, "Runtime.evaluate", expression=LOOK)
            shot = await call(12, "Page.captureScreenshot", captureBeyondViewport=True)
    return json.loads(found["result"]["result"]["value"]), said, asked, shot["result"]["data"]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report of sweeps and of runs whose names and reasons are markup, and how a browser takes it."""
    root = tmp_path_factory.mktemp("browser")
    records.sweep(root, ("linear_rnn", "transformer"), budgets=(1e11, 3.2e11, 1e12), sizes=4, seeds=1)
    records.hostile(root)
    frame = analysis.results(root)
    frame = frame[~frame["architecture"].isin(["s4", "gru"])].assign(note="<script>window.hit = 1</script>")
    material = analysis.Material(frame, analysis.curves(root), "transformer")
    path = analysis.write_report(material, root / "report", "lab frontier '</pre><script>window.hit = 2</script>'")
    with chromium() as address:
        yield asyncio.run(looked_at(address, path.as_uri()))


def test_nothing_is_said_on_the_console_and_nothing_is_asked_for(page):
    _, said, asked, _ = page
    assert said == []
    assert [url for url in asked if not url.startswith(("file://", "data:"))] == []


def test_every_image_shows_and_has_words(page):
    images = page[0]["images"]
    assert len(images) > 10
    assert all(len(alt) > 30 and shown for alt, shown in images)


def test_tables_sort_both_ways(page):
    tables = [table for table in page[0]["sorted"] if table]
    assert len(tables) >= 2
    for table in tables:
        known = [value for value in table["up"] if value]
        assert known == sorted(known, key=lambda text: float(text) if text.replace(".", "").isdigit() else 0)
        assert table["said"] == "descending"
    assert any(table["up"] != table["down"] for table in tables)


def test_markup_stays_text_and_the_page_fits(page):
    found = page[0]
    assert found["scripts"] == 1
    assert found["hit"] == 0
    for words in ("<script>alert(1)</script>", "<script>alert(2)</script>", "<script>window.hit = 2</script>"):
        assert words in found["text"]
    assert found["wide"] <= 0


def test_multipliers_come_first_and_commands_last(page):
    heads = page[0]["heads"]
    assert heads[:2] == ["Compute multipliers", "Frontiers"]
    assert heads.index("Scores") < heads.index("What it rests on") < heads.index("Runs that did not finish")
    assert heads[-1] == "How it was made"
    assert "linear_rnn over transformer" in page[0]["text"]
