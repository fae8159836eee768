//! The programs themselves, started as a user starts them: a database, an artifact folder, processes.

use crate::{empty_database, proxy::Proxy};
use job_store::DatabaseUrl;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

/// How often something outside this process is looked at until it is so.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// A process that was told to end and has not after this time never will.
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// The folder that this build's programs are in, with both built as they are now.
fn programs_folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let test = std::env::current_exe().expect("a test knows its path");
        let folder = test.parent().and_then(Path::parent).expect("tests lie in deps/").to_owned();
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "--package=prover", "--package=prover-cli"]);
        if folder.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().expect("cargo runs").success(), "the programs are built");
        folder
    })
}

/// An example of this build, which `program` takes.
///
/// # Panics
/// When it does not compile.
#[must_use]
pub fn example(name: &'static str) -> String {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package=prover", "--package=prover-cli", "--example", name]);
    if programs_folder().ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().expect("cargo runs").success(), "the example is built");
    format!("examples/{name}")
}

/// A program of this build, without settings from the environment.
#[must_use]
pub fn program(name: &str) -> Command {
    let mut command = Command::new(programs_folder().join(name));
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("ROUNDHOUSE_") || key == "DATABASE_URL" {
            command.env_remove(key);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Compiles a C++ source to a library: NVIDIA's libraries are emulated by some.
///
/// # Panics
/// Without a C++ compiler (`g++`, or what `CXX` names).
pub fn compile_library(source: &Path, library: &Path) {
    let mut compiler = Command::new(std::env::var("CXX").unwrap_or("g++".to_owned()));
    compiler.args(["-std=c++17", "-O2", "-shared", "-fPIC", "-Wno-unknown-pragmas", "-o"]);
    let compiled = compiler.args([library, source]).status().expect("a C++ compiler");
    assert!(compiled.success(), "{} does not compile", source.display());
}

/// Runs a program to its end.
#[must_use]
pub fn output(command: &mut Command) -> Output {
    command.output().expect("the program starts")
}

/// What a finished program wrote to standard error.
#[must_use]
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a finished program wrote to standard output.
#[must_use]
pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Looks again and again until `look` finds something.
///
/// # Panics
/// After `limit`, with what was waited for.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < limit, "waited {limit:?} in vain until {what}");
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// A program that runs; it is killed when the test is done with it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts a program, its standard error going to a file.
    pub fn start(command: &mut Command, log: PathBuf) -> Self {
        let file = fs::File::create(&log).expect("the folder takes a log");
        let child = command.stdout(Stdio::null()).stderr(file).spawn().expect("the program starts");
        Self { child, log }
    }

    /// Its standard error so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process has an id");
        kill_process(pid, signal).expect("the process is ours");
    }

    /// How it ended, if it has: its exit status, or minus the signal.
    pub fn ended(&mut self) -> Option<i32> {
        let status = self.child.try_wait().expect("it is ours")?;
        status.code().or_else(|| status.signal().map(|signal| -signal))
    }

    /// Waits for its end, for so long; its exit status, or minus the signal that ended it.
    pub fn wait(&mut self, limit: Duration) -> i32 {
        until("the process ends", limit, || self.ended())
    }

    /// SIGTERM, then its end.
    pub fn terminate(&mut self) -> i32 {
        self.signal(Signal::TERM);
        self.wait(END_TIMEOUT)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait(END_TIMEOUT);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            // The harness shows this with the failed test.
            #[allow(clippy::print_stdout, reason = "a test's own output")]
            {
                println!("{}:\n{}", self.log.display(), self.log());
            }
        }
    }
}

/// A database, an artifact folder, and settings for programs that share them.
#[derive(Debug)]
pub struct Scene {
    folder: tempfile::TempDir,
    database_url: String,
    settings: Vec<(String, String)>,
    prover: String,
    cli: String,
}

impl Scene {
    /// A scene with a migrated database and these settings, given as environment variables.
    pub async fn new(settings: &[(&str, &str)]) -> Self {
        Self::on(&empty_database().await, settings)
    }

    /// The same on this database.
    ///
    /// # Panics
    /// When it cannot be migrated.
    #[must_use]
    pub fn on(url: &DatabaseUrl, settings: &[(&str, &str)]) -> Self {
        Self::of_programs(url, settings, ["prover".to_owned(), "prover_cli".to_owned()])
    }

    /// The same with other programs in the places of `prover` and `prover_cli`.
    ///
    /// # Panics
    /// As [`Scene::on`].
    #[must_use]
    pub fn of_programs(url: &DatabaseUrl, settings: &[(&str, &str)], [prover, cli]: [String; 2]) -> Self {
        let scene = Self {
            prover,
            cli,
            folder: tempfile::tempdir().expect("the temporary folder takes a folder"),
            database_url: url.expose().to_owned(),
            settings: settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        };
        let migrated = output(scene.program("prover").args(["database", "migrate"]));
        assert!(migrated.status.success(), "{}", stderr(&migrated));
        scene.run_cli(&["insert-version"]);
        scene
    }

    /// The mock, with these costs.
    pub async fn mock(mock_file: &str) -> Self {
        Self::mock_on(&empty_database().await, mock_file, &[])
    }

    /// The mock, with these costs, on this database, and with more settings.
    ///
    /// # Panics
    /// As [`Scene::on`].
    #[must_use]
    pub fn mock_on(url: &DatabaseUrl, mock_file: &str, settings: &[(&str, &str)]) -> Self {
        let mut scene = Self::on(url, &[&[("ROUNDHOUSE_PROOF_SYSTEM", "mock")], settings].concat());
        let path = scene.write("mock.toml", mock_file);
        scene.settings.push(("ROUNDHOUSE_MOCK_FILE".to_owned(), path.to_string_lossy().into_owned()));
        scene
    }

    /// A file or folder of the scene.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("the folder takes a file");
        path
    }

    /// The scene's database by way of a proxy: what `DATABASE_URL` must be.
    ///
    /// # Panics
    /// Never: both are valid.
    #[must_use]
    pub fn database_by_way_of(&self, proxy: &Proxy) -> String {
        let url = DatabaseUrl::new(&self.database_url).expect("it was used before");
        let url = url.with_host_and_port("127.0.0.1", proxy.port()).expect("a port is valid");
        url.expose().to_owned()
    }

    /// Starts `prover run` with these arguments, and settings that go before the scene's.
    #[must_use]
    pub fn start_with(&self, name: &str, arguments: &[&str], settings: &[(&str, String)]) -> Running {
        let mut command = self.program("prover");
        command.arg("run").args(arguments).envs(settings.iter().map(|(key, value)| (key, value)));
        Running::start(&mut command, self.path(&format!("{name}.log")))
    }

    /// A program with the scene's settings.
    #[must_use]
    pub fn program(&self, name: &str) -> Command {
        let mut command = program(match name {
            "prover" => &self.prover,
            "prover_cli" => &self.cli,
            other => other,
        });
        command
            .env("DATABASE_URL", &self.database_url)
            .env("ROUNDHOUSE_OBJECT_STORE", self.path("artifacts"))
            .envs(self.settings.iter().map(|(key, value)| (key, value)))
            .current_dir(self.folder.path());
        command
    }

    /// Starts `prover run` with these arguments; `name` is that of its log.
    #[must_use]
    pub fn start(&self, name: &str, arguments: &[&str]) -> Running {
        self.start_with(name, arguments, &[])
    }

    /// Runs `prover_cli`, which must succeed; what it prints.
    pub fn run_cli(&self, arguments: &[&str]) -> String {
        let result = output(self.program("prover_cli").args(arguments));
        assert!(result.status.success(), "prover_cli {arguments:?}: {}", stderr(&result));
        stdout(&result)
    }

    /// `status batch --json`.
    #[must_use]
    pub fn status(&self, chain_id: u32, number: u32) -> serde_json::Value {
        let (chain_id, number) = (chain_id.to_string(), number.to_string());
        let text = self.run_cli(&["--json", "status", "batch", "--chain-id", &chain_id, "--number", &number]);
        serde_json::from_str(&text).expect("--json prints JSON")
    }

    /// Waits until a batch has ended; its status then.
    #[must_use]
    pub fn until_ended(&self, chain_id: u32, number: u32, limit: Duration) -> serde_json::Value {
        until("the batch ends", limit, || {
            std::thread::sleep(LOOK_INTERVAL * 10);
            let status = self.status(chain_id, number);
            matches!(status["status"].as_str(), Some("successful" | "failed")).then_some(status)
        })
    }
}

/// How many jobs of a round and stage a status counts, in this state or in any.
#[must_use]
pub fn jobs(status: &serde_json::Value, round: i64, stage: &str, state: Option<&str>) -> i64 {
    let all = status["jobs"].as_array().map(Vec::as_slice).unwrap_or_default();
    let counted = all.iter().filter(|job| {
        job["round"] == round && job["stage"] == stage && state.is_none_or(|state| job["status"] == state)
    });
    counted.filter_map(|job| job["count"].as_i64()).sum()
}
