//! What the signals mean to a process: SIGTERM and Ctrl-C, a second of them, and SIGUSR1.

use crate::STOPPED_AT_ONCE;
use job_runner::Shutdown;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a process that runs jobs says when it is told to stop.
pub const DRAINING: &str =
    "stopping: running jobs finish, others are handed back; a second signal stops at once";

/// What the first SIGTERM or Ctrl-C drains, which is answered with `words` in the log, if any; a second one ends the process at once.
///
/// SIGUSR1, the notice that the machine will be taken away, stops picking and lets what runs go on: there is no time limit until SIGTERM
/// comes. To a program that picks nothing it means nothing.
///
/// # Errors
/// When the process may not handle signals.
pub fn shutdown_on_signal(words: Option<&'static str>) -> anyhow::Result<Shutdown> {
    let shutdown = Shutdown::default();
    let ends = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(drain_on(ends, shutdown.clone(), words));
    let mut notice = signal(SignalKind::user_defined1())?;
    let stop = shutdown.clone();
    tokio::spawn(async move {
        notice.recv().await;
        stop.pick_no_more();
    });
    Ok(shutdown)
}

async fn drain_on(
    (mut terminate, mut interrupt): (Signal, Signal),
    shutdown: Shutdown,
    words: Option<&'static str>,
) {
    for is_second in [false, true] {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if is_second {
            std::process::exit(STOPPED_AT_ONCE);
        }
        if let Some(words) = words {
            tracing::info!("{words}");
        }
        shutdown.drain();
    }
}
