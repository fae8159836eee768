//! Process 1 of a real namespace: the test runs its own binary there once more, which runs itself once more as the program.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it leaves out"
)]

use super::*;
use rustix::process::kill_process;
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::{Output, Stdio},
    time::{Duration, Instant},
};

const PART: &str = "PART_OF_THE_PROGRAM";
const TEST: &str = "first_process::tests::process_1_";
/// What ends is noticed within milliseconds; a machine under load takes longer.
const SOON: Duration = Duration::from_secs(30);

/// Runs the test of this name as process 1, with its program's part. `None` where no namespace can be made.
fn as_process_1(name: &str, part: &str) -> Option<Output> {
    let unshare = |program: &std::ffi::OsStr, arguments: &[String]| {
        Command::new("unshare")
            .args(["--pid", "--fork", "--mount-proc", "--kill-child"])
            .arg(program)
            .args(arguments)
            .env(PART, part)
            .output()
    };
    if !unshare("true".as_ref(), &[]).is_ok_and(|output| output.status.success()) {
        println!("LEFT OUT: no namespace of processes can be made here");
        return None;
    }
    let arguments = ["--exact".to_owned(), format!("{TEST}{name}"), "--nocapture".to_owned()];
    Some(unshare(std::env::current_exe().unwrap().as_os_str(), &arguments).unwrap())
}

/// In process 1 ends it with the program's status; in the program returns its part; in the test itself is `None`.
fn part() -> Option<String> {
    let part = std::env::var(PART).ok()?;
    if getpid().is_init() {
        std::process::exit(run_program().unwrap());
    }
    Some(part)
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < SOON, "not within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// State and parent of each process that is seen here.
fn processes() -> Vec<(String, String)> {
    let stat = |entry: fs::DirEntry| {
        // Not `self`, which is one of them once more.
        entry.file_name().to_str()?.parse::<u32>().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let mut fields = stat.rsplit_once(") ")?.1.split(' ').map(str::to_owned);
        Some((fields.next()?, fields.next()?))
    };
    fs::read_dir("/proc").unwrap().flatten().filter_map(stat).collect()
}

#[test]
fn process_1_reaps_what_others_leave_behind_and_nothing_of_the_programs_own() {
    if part().is_some() {
        let orphans = || processes().into_iter().filter(|(_, parent)| parent == "1").count() - 1;
        for _ in 0..20 {
            // The shell ends at once; what it started is nobody's then.
            let left = Command::new("sh").args(["-c", "for i in 1 2 3; do sleep 0.05 & done"]).status();
            assert!(left.unwrap().success());
            // Beside them, children whose ends the program itself waits for.
            let mut own = Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
            until("our own has ended", || {
                processes()
                    .iter()
                    .any(|(state, parent)| state == "Z" && *parent == std::process::id().to_string())
            });
            assert_eq!(own.wait().unwrap().code(), Some(7));
        }
        until("all orphans are reaped", || orphans() == 0);
        println!("reaped");
        std::process::exit(3);
    }
    let name = "reaps_what_others_leave_behind_and_nothing_of_the_programs_own";
    let Some(output) = as_process_1(name, "reap") else { return };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("reaped"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(3), "the program's exit status is process 1's");
}

#[test]
fn process_1_passes_signals_on_once_and_ends_as_its_program_does() {
    match part().as_deref() {
        Some("handles") => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                for (kind, sent) in PASSED_ON {
                    let mut stream = signal(kind).unwrap();
                    kill_process(Pid::INIT, sent).unwrap();
                    stream.recv().await;
                    let again = tokio::time::timeout(Duration::from_millis(50), stream.recv()).await;
                    assert!(again.is_err(), "{sent:?} came twice");
                }
            });
            std::process::exit(4);
        }
        Some(_) => {
            // Nobody handles it: as process 1 the program would never hear of it.
            kill_process(Pid::INIT, Signal::TERM).unwrap();
            std::thread::sleep(SOON);
            std::process::exit(5);
        }
        None => {}
    }
    let name = "passes_signals_on_once_and_ends_as_its_program_does";
    for (part, status) in [("handles", 4), ("handles nothing", ENDED_BY_SIGNAL + Signal::TERM.as_raw())] {
        let Some(output) = as_process_1(name, part) else { return };
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{part}: {text}");
    }
}

/// A terminal sends Ctrl-C to a group of processes: to the program alone where process 1 has the terminal, as in a container, and else to
/// process 1. Where it has it, the program may read from it, too.
#[test]
fn process_1_has_its_program_get_ctrl_c_once() {
    if let Some(part) = part() {
        if part.starts_with("setsid") {
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).unwrap();
            assert_eq!(line.trim(), "a line");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let came = runtime.block_on(async {
            let mut stream = signal(SignalKind::interrupt()).unwrap();
            println!("ready");
            stream.recv().await;
            let again = tokio::time::timeout(Duration::from_millis(100), stream.recv()).await;
            1 + i32::from(again.is_ok())
        });
        std::process::exit(came);
    }
    if as_process_1("is_no_test", "").is_none() {
        return;
    }
    if Command::new("script").arg("--version").output().is_err() {
        println!("LEFT OUT: there is no `script`, which makes a terminal");
        return;
    }
    let test = format!("{TEST}has_its_program_get_ctrl_c_once");
    for with_the_terminal in ["", "setsid --ctty"] {
        let program = std::env::current_exe().unwrap();
        let process_1 = format!(
            "exec unshare --pid --fork --mount-proc --kill-child {with_the_terminal} '{}' --exact {test} --nocapture",
            program.display()
        );
        let mut terminal = Command::new("timeout");
        terminal.args(["--signal=KILL", &SOON.as_secs().to_string(), "script", "--quiet", "--return"]);
        terminal.args(["--command", &process_1, "/dev/null"]).env(PART, with_the_terminal);
        let mut terminal = terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        if !with_the_terminal.is_empty() {
            terminal.stdin.as_ref().unwrap().write_all(b"a line\n").unwrap();
        }
        let mut shown = BufReader::new(terminal.stdout.take().unwrap()).lines();
        assert!(shown.any(|line| line.unwrap().contains("ready")), "it begins");
        terminal.stdin.as_ref().unwrap().write_all(b"\x03").unwrap();
        assert_eq!(terminal.wait().unwrap().code(), Some(1), "{with_the_terminal}");
    }
}
