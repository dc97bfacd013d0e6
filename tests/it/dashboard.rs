//! Dask's dashboard by its link: in a real browser, with live data; and nobody without the link.

use anyhow::{Context as _, Result, ensure};
use std::path::{Path, PathBuf};
use std::time::Duration;
use towline_tests::{World, world};

const LONG: Duration = Duration::from_secs(240);

/// The first page imports Bokeh, and a browser starts beside a whole cluster.
const PAGE_SECONDS: u32 = 90;

/// What draws the pages, beside what a cluster needs. In this test's environment only: all others stay small.
const BOKEH: &str = "bokeh==3.9.2";

/// The browser, or the reason why this test cannot run here. In CI the reason is a failure.
fn chromium() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .find_map(|folder| names.iter().map(|name| folder.join(name)).find(|program| program.is_file()));
    if found.is_none() {
        let why = "Chromium is needed for this test: apt-get install --no-install-recommends chromium";
        assert!(std::env::var_os("CI").is_none(), "{why}");
        eprintln!("cannot run here: {why}");
    }
    found
}

/// Arguments: the browser, a folder for its files, seconds to wait for a page, a file for a picture.
const BROWSE: &str = r#"
import base64, contextlib, json, os, pathlib, shutil, socket, subprocess, sys, time, urllib.error, urllib.request
import dask, towline
from tornado.ioloop import IOLoop
from tornado.websocket import websocket_connect

browser, folder, seconds, picture = sys.argv[1], pathlib.Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4]

def status(url, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()

LIVE = """(() => {
  if (!window.Bokeh || !Bokeh.documents.length) return JSON.stringify({documents: 0});
  const canvases = (root) => [...root.querySelectorAll('*')].reduce(
    (sum, e) => sum + (e.tagName == 'CANVAS') + (e.shadowRoot ? canvases(e.shadowRoot) : 0), 0);
  const document_ = Bokeh.documents[0];
  const models = [...document_._all_models.values()];
  const names = models.flatMap((m) => m.data && m.data.name ? [...m.data.name] : []);
  return JSON.stringify({documents: Bokeh.documents.length, canvases: canvases(document),
                         live: names.some((n) => String(n).includes('seen_in_the_browser')), title: document.title});
})()"""

async def browse(link, submit):
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
               "--window-size=1400,900", "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        place, until = folder / "DevToolsActivePort", time.monotonic() + seconds
        while not place.exists() or not place.read_text().strip():
            assert time.monotonic() < until and process.poll() is None, "the browser does not start"
            time.sleep(0.1)
        port = place.read_text().split()[0]
        page = next(t for t in json.loads(status(f"http://127.0.0.1:{port}/json/list")[1]) if t["type"] == "page")
        tools = await websocket_connect(page["webSocketDebuggerUrl"], max_message_size=64 << 20)
        said, number = [], 0

        async def ask(method, **params):
            nonlocal number
            number += 1
            await tools.write_message(json.dumps({"id": number, "method": method, "params": params}))
            while True:
                answer = json.loads(await tools.read_message())
                if answer.get("id") == number:
                    return answer.get("result", answer)
                if answer.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
                    said.append(json.dumps(answer["params"])[:400])

        for domain in ("Page", "Log", "Runtime"):
            await ask(f"{domain}.enable")
        await ask("Page.navigate", url=link)
        seen, future, until = {}, None, time.monotonic() + seconds
        while not seen.get("live") and time.monotonic() < until:
            seen = json.loads((await ask("Runtime.evaluate", expression=LIVE))["result"].get("value") or "{}")
            if seen.get("documents") and future is None:
                # Only now: what comes from here on can come by the websocket alone.
                future = submit()
            time.sleep(0.3)
        shot = await ask("Page.captureScreenshot", format="png")
        pathlib.Path(picture).write_bytes(base64.b64decode(shot["data"]))
        seen["errors"] = [line for line in said if '"error"' in line or "exception" in line.lower()]
        return seen
    finally:
        process.terminate()
        process.wait(20)

def seen_in_the_browser(n):
    time.sleep(0.05)
    return n

def once(binary, name, environ):
    command = [binary, "cluster", "dashboard", name, "--json", "--until-stdin-closes"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | environ) as child:
        said = json.loads(child.stdout.readline())
        answer = status(said["link"])[0] if "link" in said else said
        child.stdin.close()
        return answer, child.wait(20)

if __name__ == "__main__":
    rows = {}
    with towline.Cluster(n_workers=1, name="watched", progress=False) as cluster:
        client = cluster.get_client()
        client.wait_for_workers(1, timeout=60)
        link = cluster.dashboard_link
        rows["link"] = link.startswith("http://127.0.0.1:") and link.endswith("/status") and link == cluster.dashboard_link
        rows["shown"] = link in cluster._repr_html_() and link == client.dashboard_link
        origin, secret = link.split("/")[2], link.split("/")[3]
        for path in ("/status", "/", f"/{secret[:-1]}/status", f"/status?{secret}", "/favicon.ico"):
            code, text = status(f"http://{origin}{path}")
            rows[f"403 at {path[:3]}"] = code == 403 and "whole link" in text
        rows["a cookie is no key"] = status(f"http://{origin}/status", Cookie=f"secret={secret}")[0] == 403
        services = client.scheduler_info()["services"]
        rows["no page on the port"] = status(f"http://127.0.0.1:{services['dashboard']}/status")[0] == 404
        submit = lambda: client.map(seen_in_the_browser, range(20), pure=False)
        seen = IOLoop(make_current=False).run_sync(lambda: browse(link, submit))
        rows["canvas"] = seen.get("canvases", 0) > 0
        rows["live data by the websocket"] = seen.get("live") is True
        rows["no error in the browser"] = seen["errors"] == []
        rows["relative pages"] = status(link.replace("/status", "/info/main/workers.html"))[0] == 200
        rows["first page"] = status(f"http://{origin}/{secret}/")[0] == 200
        os.environ["JUPYTERHUB_SERVICE_PREFIX"] = "/user/ada"
        with dask.config.set({"distributed.dashboard.link": "{JUPYTERHUB_SERVICE_PREFIX}/proxy/{port}/status"}):
            port = origin.split(":")[1]
            rows["behind a notebook server"] = cluster.dashboard_link == f"/user/ada/proxy/{port}/{secret}/status"
        rows["with another name and page"] = status(link, Host="hub.example.com", Origin="https://hub.example.com")[0] == 200
        binary = os.environ["TOWLINE_BINARY"]
        rows["on the command line"] = once(binary, "watched", {}) == (200, 0)
        state = folder / "state"
        keys = state / "towline/clusters" / cluster.cluster_id
        keys.mkdir(parents=True)
        home = pathlib.Path.home() / ".local/state/towline/clusters" / cluster.cluster_id
        rows["without the owner key"] = once(binary, "watched", {"XDG_STATE_HOME": str(state)})[0]["code"] == "owner_key_elsewhere"
        shutil.copy(home / "owner.key", keys)
        rows["with the owner key alone"] = once(binary, "watched", {"XDG_STATE_HOME": str(state)}) == (200, 0)
        proxy = cluster._dashboard._child.process
    rows["closed"] = cluster.dashboard_link == "" and proxy.poll() == 0
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(origin.split(":")[1])), 2):
        rows["nobody listens"] = False
    print(json.dumps({"rows": rows, "seen": seen}), flush=True)
"#;

#[tokio::test]
async fn the_link_opens_in_a_browser_with_live_data_and_nothing_else_opens() -> Result<()> {
    let (Some(builder), Some(browser)) = (World::builder(), chromium()) else {
        return Ok(());
    };
    let world = builder.start().await?;
    let packages: Vec<_> = world::DASK.into_iter().chain([BOKEH]).collect();
    let python = world.environment("with-bokeh", &packages, &[]).await?;
    let text = |path: &Path| path.display().to_string();
    let folder = world.scratch("browser")?;
    let picture = std::env::var("TOWLINE_TEST_PICTURE").unwrap_or_else(|_| text(&folder.join("page.png")));
    let arguments = [&text(&browser), &text(&folder), &PAGE_SECONDS.to_string(), &picture];
    let done = world.script_with(&python, BROWSE, &arguments.map(String::as_str), LONG).await?;
    ensure!(done.code == Some(0), "the script ended with {:?}:\n{}\n{}", done.code, done.stdout, done.stderr);
    let said: serde_json::Value = serde_json::from_str(done.stdout.lines().last().context("nothing was said")?)?;
    for (row, kept) in said["rows"].as_object().into_iter().flatten() {
        ensure!(kept == true, "{row}: {said:#}");
    }
    ensure!(said["rows"].as_object().is_some_and(|rows| rows.len() >= 18), "rows are missing: {said:#}");
    Ok(())
}

/// What a cluster whose environment has no Bokeh shows.
const WITHOUT: &str = r#"
import json, urllib.error, urllib.request
import towline

if __name__ == "__main__":
    with towline.Cluster(n_workers=0, progress=False) as cluster:
        try:
            urllib.request.urlopen(cluster.dashboard_link, timeout=60)
        except urllib.error.HTTPError as error:
            print(json.dumps([error.code, error.read().decode()]), flush=True)
"#;

#[tokio::test]
async fn without_bokeh_the_link_says_what_to_install() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let said = builder.start().await?.script_json(WITHOUT, LONG).await?;
    let page = said[1].as_str().unwrap_or_default();
    ensure!(said[0] == 503 && page.contains("pip install 'bokeh") && page.contains("make a new cluster"), "{said}");
    Ok(())
}
