//! The dashboards and the alerts that ship in `docker/`, against a real Prometheus (Debian's `prometheus`) that scrapes a real run, with
//! failures in it: every expression parses, and none is empty.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use test_support::http::{free_port, get};
use test_support::programs::{Running, Scene, compile_library, jobs, output, stderr, stdout, until};

const SOON: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(120);

fn docker() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docker").canonicalize().unwrap()
}

/// Every expression of every panel, with its place.
fn panels() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(docker().join("grafana/dashboards")).unwrap() {
        let path = entry.unwrap().path();
        let board: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        for panel in board["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().unwrap() {
                let place = format!("{}, {}", path.file_name().unwrap().display(), panel["title"]);
                // Grafana takes four scrapes at least.
                let expression = target["expr"].as_str().unwrap().replace("$__rate_interval", "30s");
                assert!(!expression.contains('$'), "{place}: {expression}");
                found.push((place, expression));
            }
        }
    }
    found
}

struct Prometheus {
    address: String,
    process: Running,
}

impl Prometheus {
    fn start(scene: &Scene, targets: &[String]) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let config = scene.write(
            "prometheus.yml",
            &format!(
                "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{}]\n\
                 scrape_configs: [{{job_name: roundhouse, static_configs: [{{targets: {targets:?}}}]}}]\n",
                docker().join("prometheus/alerts.yml").display()
            ),
        );
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", scene.path("tsdb").display()))
            .arg(format!("--web.listen-address={address}"));
        let process = Running::start(&mut command, scene.path("prometheus.log"));
        until("prometheus is ready", SOON, || (get(&address, "/-/ready")?.status == 200).then_some(()));
        Self { address, process }
    }

    fn api(&self, path: &str) -> Value {
        let answer = get(&self.address, path).unwrap_or_else(|| panic!("{}", self.process.log()));
        let answer: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(answer["status"], "success", "{path}: {answer}");
        answer["data"].clone()
    }

    /// The samples that an expression has now, as numbers.
    fn ask(&self, expression: &str) -> Vec<f64> {
        let query: String = url::form_urlencoded::byte_serialize(expression.as_bytes()).collect();
        let data = self.api(&format!("/api/v1/query?query={query}"));
        let number = |sample: &Value| sample["value"][1].as_str().unwrap().parse().unwrap();
        data["result"].as_array().unwrap().iter().map(number).collect()
    }

    /// Every expression of every alert, its comparisons answered with 0 or 1 instead of with nothing.
    fn alerts(&self) -> Vec<(String, String)> {
        let data = self.api("/api/v1/rules");
        let groups = data["groups"].as_array().unwrap().iter();
        let rules = groups.flat_map(|group| group["rules"].as_array().unwrap());
        rules
            .map(|rule| {
                let mut expression = rule["query"].as_str().unwrap().to_owned();
                for comparison in [" > ", " < ", " == "] {
                    expression = expression.replace(comparison, &format!("{comparison}bool "));
                }
                (rule["name"].as_str().unwrap().to_owned(), expression)
            })
            .collect()
    }
}

/// A process with an emulated device, and an emulated library that watches it. On a database of its own: the mock proves on no device.
async fn with_a_device(listen: &str) -> (Scene, Running) {
    let keys = Path::new(env!("CARGO_TARGET_TMPDIR")).join("keys");
    let scene = Scene::new(&[("ROUNDHOUSE_KEYS", keys.to_str().unwrap())]).await;
    let mut command = scene.program("prover");
    for (variable, source) in
        [("ROUNDHOUSE_CUDA_DRIVER", "kernels/emulator.cpp"), ("ROUNDHOUSE_NVML", "tests/emulated/nvml.cpp")]
    {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gpu-prover").join(source);
        let library = scene.path(variable);
        compile_library(&source, &library);
        command.env(variable, library);
    }
    command.args(["run", "--component=circuit-prover", "--device=0", "--max-allocation=67108864", listen]);
    let running = Running::start(&mut command, scene.path("device.log"));
    (scene, running)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_expression_of_the_dashboards_and_the_alerts_has_an_answer() {
    let mock = "[[circuit]]\ncount = 24\nprove_ms = 200\n[[circuit]]\ncount = 1\npanics = true\n";
    let scene = Scene::mock(mock).await;
    let ports: Vec<String> = (0..4).map(|_| format!("127.0.0.1:{}", free_port())).collect();
    let listen = |at: usize| format!("--listen={}", ports[at]);
    let _monitor =
        scene.start("monitor", &["--component=prover-job-monitor", "--report-interval-ms=500", &listen(0)]);
    let _rest = scene.start("rest", &["--component=witness-generator,compressor", &listen(1)]);
    let mut victim = scene.start("victim", &["--component=circuit-prover", "-t2", &listen(2)]);
    let _device = with_a_device(&listen(3)).await;
    for port in &ports {
        until("the process listens", SOON, || get(port, "/health/live"));
    }
    let prometheus = Prometheus::start(&scene, &ports);
    let input = scene.write("in.mock", "mock one");
    scene.run_cli(&["insert-batch", "--number=1", "--input", input.to_str().unwrap()]);

    // A worker dies with jobs in hand, a proof is lost, and a circuit fails for good.
    let proven = |least: i64| jobs(&scene.status(0, 1), 0, "circuit_proof", Some("successful")) >= least;
    until("some circuits are proven", LONG, || proven(3).then_some(()));
    victim.kill();
    let lost =
        fs::read_dir(scene.path("artifacts/circuit/0/1/0/1/0")).unwrap().last().unwrap().unwrap().path();
    fs::remove_file(lost).unwrap();
    let _next = scene.start("next", &["--component=circuit-prover", "-t2", &listen(2)]);
    until("all others are proven", LONG, || proven(24).then_some(()));
    assert_eq!(scene.until_ended(0, 1, LONG)["status"], "failed");

    let expressions = panels().into_iter().chain(prometheus.alerts());
    let mut count = 0;
    for (place, expression) in expressions {
        until(&format!("{place} has an answer: {expression}"), SOON, || {
            (!prometheus.ask(&expression).is_empty()).then_some(())
        });
        count += 1;
    }
    assert!(count > 80, "{count} expressions");
    // They tell what happened.
    let is = |expression: &str, expected: f64| {
        until(&format!("{expression} is {expected}"), SOON, || {
            (prometheus.ask(expression) == [expected]).then_some(())
        });
    };
    is(r#"max(job_monitor_batches{status="failed"})"#, 1.0);
    is(r#"max(sum by (instance) (job_monitor_jobs{status="failed"}))"#, 1.0);
    is("sum(job_store_worker_deaths_seen_total)", 1.0);
    is(r#"count(ALERTS{alertname="RoundhouseJobsFailed"})"#, 1.0);
    is(r#"sum(job_monitor_workers{state="live"})"#, 3.0);
    // The attempts of the victim's successor, of whom one failed three times.
    is(r#"sum(job_store_attempt_time_seconds_count{outcome="failed"})"#, 3.0);
}

#[test]
fn the_alerts_pass_their_unit_tests() {
    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]] {
        let checked =
            output(Command::new("promtool").args(arguments).current_dir(docker().join("prometheus")));
        assert!(checked.status.success(), "{}{}", stdout(&checked), stderr(&checked));
    }
}
