//! What a program owes the others when it is process 1 of a container or a namespace, with no init before it.
//!
//! Process 1 gets every process whose parent has ended, and must take note of its end, or it stays as a zombie and counts against the
//! container's limit. And the kernel drops signals for process 1 that it does not handle: SIGTERM to a program that is loading its keys would
//! do nothing.
//!
//! So process 1 starts the program once more, as its child, and is an init only. Ends of foreign children are then never mixed with
//! those of the program's own, which somebody in it waits for: those are another process's.

use anyhow::Context;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, wait};
use rustix::termios::{tcgetpgrp, tcsetpgrp};
use std::{
    env,
    fs::File,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};
use tokio::signal::unix::{SignalKind, signal};

/// What is passed on to the program: what others send to stop it, or to tell it something.
const PASSED_ON: [(SignalKind, Signal); 6] = [
    (SignalKind::terminate(), Signal::TERM),
    (SignalKind::interrupt(), Signal::INT),
    (SignalKind::hangup(), Signal::HUP),
    (SignalKind::quit(), Signal::QUIT),
    (SignalKind::user_defined1(), Signal::USR1),
    (SignalKind::user_defined2(), Signal::USR2),
];

/// The exit status of a program that a signal ended, above the signal's number, as shells have it.
const ENDED_BY_SIGNAL: i32 = 128;

/// Where this process is process 1, runs the program as its child until it ends, and returns its exit status; `None` where it is not, or
/// is the child. To be called first of all, while there is one thread.
#[must_use]
pub fn as_first_process() -> Option<ExitCode> {
    if !getpid().is_init() {
        return None;
    }
    match run_program() {
        Ok(status) => Some(ExitCode::from(u8::try_from(status).unwrap_or(crate::FAILED))),
        Err(e) => {
            // Logging has not begun.
            eprintln!("cannot be process 1 for others, whose ends nobody will take note of: {e:#}");
            None
        }
    }
}

/// Starts the program, and takes note of the ends of all processes until it has ended.
fn run_program() -> anyhow::Result<i32> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _context = runtime.enter();
    // Handled before there is anything to handle, so that none is lost.
    let mut ends = signal(SignalKind::child())?;
    let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
    for (kind, passed) in PASSED_ON {
        let (mut stream, sender) = (signal(kind)?, sender.clone());
        runtime.spawn(async move { while stream.recv().await.is_some() && sender.send(passed).is_ok() {} });
    }
    let program = start_program()?;
    runtime.block_on(async {
        loop {
            tokio::select! {
                Some(passed) = told.recv() => {
                    // It may have ended a moment ago.
                    let _ = kill_process(program, passed);
                }
                _ = ends.recv() => {
                    if let Some(status) = reap(program) {
                        return Ok(status);
                    }
                }
            }
        }
    })
}

/// This program with its arguments once more. It has a group of processes of its own: a terminal sends Ctrl-C to a group, and the program
/// would get it twice, from the terminal and from us, which stops it at once.
fn start_program() -> anyhow::Result<Pid> {
    let mut arguments = env::args_os();
    let name = arguments.next().unwrap_or_default();
    let path = env::current_exe()
        .context("cannot find this program, which is started once more: is /proc mounted?")?;
    let child = Command::new(&path)
        .arg0(name)
        .args(arguments)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {} once more", path.display()))?;
    let program = Pid::from_child(&child);
    // Dropped, not waited for: `reap` waits for all.
    drop(child);
    // It reads from our terminal, where we were the ones to: our group has our number, or is outside of the namespace and has none.
    if let Ok(terminal) = File::open("/dev/tty")
        && tcgetpgrp(&terminal) == Ok(Pid::INIT)
    {
        let _ = tcsetpgrp(&terminal, program);
    }
    Ok(program)
}

/// Takes note of all that have ended; the program's exit status, if it is one of them.
fn reap(program: Pid) -> Option<i32> {
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid == program {
            return Some(exit_status(status));
        }
    }
    None
}

fn exit_status(status: WaitStatus) -> i32 {
    let by_signal = status.terminating_signal().map(|signal| ENDED_BY_SIGNAL + signal);
    status.exit_status().or(by_signal).unwrap_or(i32::from(crate::FAILED))
}

#[cfg(test)]
#[path = "first_process_tests.rs"]
mod tests;
