//! The job monitor's page in a real browser: Chromium without a window, driven through chromedriver (Debian's `chromium-driver`).
//!
//! `UPDATE_DOCS=1` also writes the screenshots that the docs show.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use fantoccini::{Client, ClientBuilder, Locator, key::Key};
use hyper_util::client::legacy::connect::HttpConnector;
use job_store::JobStore;
use job_store::leases::pick::PickFilter;
use job_store::leases::workers::NewWorker;
use job_store::measure::ballast::Ballast;
use proving_model::{AggregationRound, MemoryClass, Stage};
use serde_json::{Value, json};
use std::{
    fs,
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use test_support::http::{free_port, get};
use test_support::programs::{Running, Scene, until};
use test_support::{VERSION, empty_database, new_worker};

const SOON: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(120);
/// The page is told once a second.
const TWO_LOOKS: Duration = Duration::from_millis(2_500);

/// Chromedriver, and the browsers that it started.
struct Browsers {
    driver: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Browsers {
    fn start() -> Self {
        let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            // Browsers that a failed test leaves behind are found by their folder.
            .env("TMPDIR", folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is installed (Debian: chromium-driver)");
        until("chromedriver answers", SOON, || TcpStream::connect(("127.0.0.1", port)).ok());
        Self { driver, port, folder }
    }

    /// A browser with a screen of this size, in pixels.
    async fn open(&self, width: u32, height: u32) -> Client {
        // Chromium looks for hosts of its own unless it is told not to; as root it runs without its sandbox only.
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
        ]
        .map(ToOwned::to_owned);
        let profile = format!("--user-data-dir={}", self.folder.path().join(width.to_string()).display());
        let arguments: Vec<String> = arguments.into_iter().chain([profile]).collect();
        // A window is never narrower than 500 pixels; a phone's screen is.
        let screen = json!({ "deviceMetrics": { "width": width, "height": height, "pixelRatio": 1 } });
        let options = json!({ "args": arguments, "mobileEmulation": screen });
        let capabilities = json!({ "browserName": "chrome", "goog:chromeOptions": options });
        let Value::Object(capabilities) = capabilities else { panic!("it is an object") };
        ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{}", self.port))
            .await
            .expect("chromium starts")
    }
}

impl Drop for Browsers {
    fn drop(&mut self) {
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        let _ = Command::new("pkill").arg("-f").arg("--").arg(self.folder.path()).status();
    }
}

async fn ask(page: &Client, script: &str) -> Value {
    page.execute(script, Vec::new()).await.unwrap()
}

async fn until_shown(page: &Client, what: &str, script: &str) -> Value {
    let begun = std::time::Instant::now();
    loop {
        let found = ask(page, script).await;
        if !matches!(found, Value::Null | Value::Bool(false)) {
            return found;
        }
        assert!(begun.elapsed() < LONG, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

const IS_LIVE: &str = "return document.getElementById('state').textContent === 'live'";
/// Circuits that were proven in the last hour.
const PROVEN: &str = "Number(document.getElementById('proven').textContent)";
/// Successful jobs of a batch's rounds, of all its jobs, by its heading.
const ROUNDS: &str = "const row = [...document.querySelectorAll('#batch-rows tr')]
        .find((row) => row.cells[0].firstChild.textContent === '1 of chain 2');
    return row && [...row.cells].slice(4).map((cell) => cell.firstChild.textContent)";

/// The same from the store: the five rounds and the compression.
fn rounds(status: &Value) -> Vec<(i64, i64)> {
    let mut rounds = vec![(0, 0); 6];
    for count in status["jobs"].as_array().unwrap() {
        let is_compression = count["stage"] == "compression";
        let at = if is_compression { 5 } else { usize::try_from(count["round"].as_i64().unwrap()).unwrap() };
        let jobs = count["count"].as_i64().unwrap();
        rounds[at].1 += jobs;
        if count["status"] == "successful" {
            rounds[at].0 += jobs;
        }
    }
    rounds
}

/// Circuits that are proven, of both batches.
fn proven(scene: &Scene) -> i64 {
    let counts = |chain| scene.status(chain, 1)["jobs"].as_array().unwrap().clone();
    let is_proof = |count: &Value| count["stage"] == "circuit_proof" && count["status"] == "successful";
    let all = counts(0).into_iter().chain(counts(2)).filter(is_proof);
    all.map(|count| count["count"].as_i64().unwrap()).sum()
}

fn shown_rounds(cells: &Value) -> Vec<(i64, i64)> {
    let number = |text: &str| text.parse::<i64>().unwrap();
    let cells = cells.as_array().unwrap().iter().map(|cell| cell.as_str().unwrap());
    cells.map(|cell| cell.split_once('/').map_or((0, 0), |(done, all)| (number(done), number(all)))).collect()
}

fn monitor(scene: &Scene, name: &str, address: &str) -> Running {
    scene.start(name, &["--component=prover-job-monitor", &format!("--listen={address}")])
}

async fn screenshot(page: &Client, name: &str) {
    let picture = page.screenshot().await.unwrap();
    assert!(picture.starts_with(b"\x89PNG"));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/page");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), picture).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_what_the_store_says_and_comes_back_after_its_monitor() {
    let scene =
        Scene::mock("[[circuit]]\ncount = 100\nprove_ms = 400\n[[circuit]]\ncount = 1\npanics = true\n")
            .await;
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let mut first = monitor(&scene, "monitor", &address);
    let input = scene.write("in.mock", "mock one");
    for (chain, number) in [("0", "1"), ("2", "1")] {
        let input = input.to_str().unwrap();
        scene.run_cli(&["insert-batch", "--chain-id", chain, "--number", number, "--input", input]);
    }
    until("the monitor serves", SOON, || get(&address, "/health/live"));
    let browsers = Browsers::start();
    let page = browsers.open(1_280, 1_000).await;
    page.goto(&format!("http://{address}/")).await.unwrap();
    until_shown(&page, "it is live", IS_LIVE).await;
    // Work begins when there is somebody to look at it: a browser may take longer to start than a batch.
    let _all = scene.start("all", &["--component=witness-generator,circuit-prover,compressor", "-t4"]);
    until_shown(&page, "circuits are proven", &format!("return {PROVEN} > 0")).await;

    // What the page shows was so at some moment between two looks at the store.
    for _ in 0..3 {
        let (before, proven_before) = (rounds(&scene.status(2, 1)), proven(&scene));
        let asked = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let is_newer = format!("return last && last.now > {asked} && {PROVEN} >= {proven_before}");
        until_shown(&page, "it is newer", &is_newer).await;
        let shown = shown_rounds(&until_shown(&page, "the batch is there", ROUNDS).await);
        let shown_proven = ask(&page, &format!("return {PROVEN}")).await.as_i64().unwrap();
        let (after, proven_after) = (rounds(&scene.status(2, 1)), proven(&scene));
        let is_between = shown.iter().zip(before.iter().zip(&after)).all(|(shown, (before, after))| {
            (before.0..=after.0).contains(&shown.0) && (before.1..=after.1).contains(&shown.1)
        });
        assert!(is_between, "{before:?}, {shown:?}, {after:?}");
        assert!(shown_proven <= proven_after, "{shown_proven} of {proven_after}");
        assert!(after[0].0 < after[0].1 - 1, "it has ended, {after:?}: the test is of one that runs");
    }
    let demand: Value = serde_json::from_str(&get(&address, "/queue_report").unwrap().body).unwrap();
    assert_eq!(demand[0]["version"], "0.0.1");
    assert!(demand[0]["report"]["prover_jobs"]["waiting"].as_i64().unwrap() > 0, "{demand:#}");
    screenshot(&page, "light.png").await;

    // The monitor dies, and another takes its place while nobody touches the page.
    first.kill();
    let gone = "return document.getElementById('state').textContent.includes('does not answer')";
    until_shown(&page, "it says that nobody answers", gone).await;
    let _second = monitor(&scene, "second", &address);
    until_shown(&page, "it is live again", IS_LIVE).await;

    // The batch fails in the end: the page tells why, and equals the store.
    assert_eq!(scene.until_ended(2, 1, LONG)["status"], "failed");
    let is_idle = || {
        let queue: Value = serde_json::from_str(&scene.run_cli(&["--json", "status", "queue"])).unwrap();
        let busy = |kind: &Value| kind["queued"] != 0 || kind["in_progress"] != 0;
        (!queue.as_array().unwrap().iter().any(busy)).then_some(())
    };
    until("all that can be done is done", LONG, is_idle);
    tokio::time::sleep(TWO_LOOKS).await;
    assert_eq!(shown_rounds(&ask(&page, ROUNDS).await), rounds(&scene.status(2, 1)));
    until_shown(&page, "all proofs are", &format!("return {PROVEN} === {}", proven(&scene))).await;
    let text = page.find(Locator::Css("main")).await.unwrap().text().await.unwrap();
    assert!(text.contains("the mock panics, as its file asks"), "{text}");
    assert!(text.contains("3 workers") && text.contains("circuit-prover"), "{text}");

    // A keyboard reaches everything, and colours can be chosen.
    page.find(Locator::Css("body"))
        .await
        .unwrap()
        .send_keys(&String::from(char::from(Key::Tab)))
        .await
        .unwrap();
    assert_eq!(ask(&page, "return document.activeElement.className").await, "skip");
    let background = "return getComputedStyle(document.body).backgroundColor";
    let mut colours = Vec::new();
    for _ in 0..3 {
        page.find(Locator::Id("theme")).await.unwrap().click().await.unwrap();
        colours.push(ask(&page, background).await);
    }
    assert_ne!(colours[0], colours[1], "light and dark");
    let unnamed =
        "return [...document.querySelectorAll('button, input, svg, [role=progressbar]')].filter((node) =>
        !node.textContent && !node.labels?.length && !node.getAttribute('aria-label')
        && !node.getAttribute('aria-labelledby')).length";
    assert_eq!(ask(&page, unnamed).await, 0, "everything has a name");
    page.close().await.unwrap();

    // A phone.
    let phone = browsers.open(390, 844).await;
    phone.goto(&format!("http://{address}/")).await.unwrap();
    until_shown(&phone, "it is live", IS_LIVE).await;
    phone.find(Locator::Id("theme")).await.unwrap().click().await.unwrap();
    phone.find(Locator::Id("theme")).await.unwrap().click().await.unwrap();
    let widths = ask(&phone, "return [document.documentElement.scrollWidth, innerWidth]").await;
    assert_eq!(widths, json!([390, 390]), "nothing stands out to the side");
    screenshot(&phone, "phone.png").await;
    phone.close().await.unwrap();
}

/// A fleet and a queue of the size of a large operator's.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_holds_five_hundred_workers_and_ten_thousand_jobs() {
    let url = empty_database().await;
    let scene = Scene::mock_on(&url, "", &[]);
    let store = JobStore::connect(&url).await.unwrap();
    store.add_ballast(VERSION, 10_000, Ballast::Queued).await.unwrap();
    for number in 0..500 {
        let host = format!("machine-{number:03}");
        let worker = NewWorker { component: "circuit-prover".to_owned(), host, capacity: 8, ..new_worker() };
        let id = store.register_worker(&worker, LONG).await.unwrap();
        let filter = PickFilter {
            stage: Stage::CircuitProof,
            rounds: AggregationRound::ALL.to_vec(),
            memory_classes: vec![MemoryClass::Light],
            version: VERSION,
        };
        store.pick(&filter, number % 9, id).await.unwrap();
    }
    let address = format!("127.0.0.1:{}", free_port());
    let _monitor = monitor(&scene, "monitor", &address);
    until("the monitor serves", SOON, || get(&address, "/health/live"));
    let browsers = Browsers::start();
    let page = browsers.open(1_280, 1_000).await;
    page.goto(&format!("http://{address}/")).await.unwrap();
    until_shown(&page, "it is live", IS_LIVE).await;
    let rows = "return document.querySelectorAll('#worker-rows tr').length";
    // The monitor is one too.
    assert_eq!(ask(&page, rows).await, 501);
    let proofs = "return [...document.querySelectorAll('#stage-rows tr')].find((row) =>
        row.cells[0].textContent === 'circuit proof').innerText";
    let held: usize = (0..500).map(|number| number % 9).sum();
    let text = ask(&page, proofs).await;
    let numbers: Vec<&str> = text.as_str().unwrap().split_whitespace().skip(2).collect();
    assert_eq!(
        numbers[..2],
        [(10_000 - held).to_string(), held.to_string()],
        "queued and in progress: {text}"
    );
    page.find(Locator::Id("filter")).await.unwrap().send_keys("machine-42").await.unwrap();
    assert_eq!(ask(&page, rows).await, 10, "machines 420 to 429");
    assert_eq!(
        ask(&page, "return document.getElementById('worker-words').textContent").await,
        "10 of 501 workers"
    );
    page.find(Locator::Id("filter")).await.unwrap().clear().await.unwrap();
    ask(&page, "byId('filter').dispatchEvent(new Event('input'))").await;
    let cost = ask(
        &page,
        "const begun = performance.now(); for (let i = 0; i < 20; i++) show(last); return (performance.now() - begun) / 20",
    );
    #[allow(clippy::print_stdout, reason = "the test's own output")]
    {
        println!("one look takes the page {:.1} ms", cost.await.as_f64().unwrap());
    }
    page.close().await.unwrap();
}
