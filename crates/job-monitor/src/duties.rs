//! How duties are led and repeated.

use crate::metrics::MONITOR_METRICS;
use artifact_store::ArtifactError;
use job_store::duties::leadership::Leader;
use job_store::{JobStore, StoreError};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A leader that has not been heard of for so long is none any more.
const LEASE: Duration = Duration::from_secs(3);
/// How often a leader says that it lives.
const PROLONG_INTERVAL: Duration = Duration::from_secs(1);

/// Why a turn of a duty failed; the next turn tries again.
#[derive(Debug, Error)]
pub enum DutyError {
    /// The job store's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The object store's.
    #[error(transparent)]
    Artifacts(#[from] ArtifactError),
}

/// What this monitor leads, and until when.
#[derive(Debug, Clone, Default)]
pub(crate) struct Led {
    duties: BTreeSet<String>,
    until: Option<Instant>,
    contact: Contact,
}

/// How this monitor reaches the database.
#[derive(Debug, Clone, Copy, Default)]
enum Contact {
    /// It has, as long as it knows.
    #[default]
    Unbroken,
    Away,
    /// Since then.
    Back(Instant),
}

impl Led {
    fn includes(&self, duty: &str) -> bool {
        self.until.is_some_and(|until| Instant::now() < until) && self.duties.contains(duty)
    }

    /// For how long this monitor has reached the database without a break; one that began lately knows of none.
    pub(crate) fn in_contact(&self) -> Duration {
        match self.contact {
            Contact::Unbroken => Duration::MAX,
            Contact::Away => Duration::ZERO,
            Contact::Back(since) => since.elapsed(),
        }
    }
}

/// Leads what no other monitor leads, until the shutdown signal.
pub(crate) async fn lead(
    store: &JobStore,
    leader: &Leader,
    duties: &[&'static str],
    led: watch::Sender<Led>,
    shutdown: &CancellationToken,
) {
    loop {
        let asked = Instant::now();
        let answer = store.lead(leader, duties, LEASE).await;
        if answer.is_err() || asked.elapsed() > LEASE {
            led.send_modify(|led| led.contact = Contact::Away);
        }
        match answer {
            Ok(now) => {
                let Led { duties: before, contact, .. } = led.borrow().clone();
                let contact =
                    if matches!(contact, Contact::Away) { Contact::Back(Instant::now()) } else { contact };
                let until = Some(asked + LEASE);
                let now = Led { duties: now.into_iter().collect(), until, contact };
                for duty in duties {
                    let leads = now.duties.contains(*duty);
                    MONITOR_METRICS.leads[duty].set(u64::from(leads));
                    if leads != before.contains(*duty) {
                        let verb = if leads { "leads" } else { "no longer leads" };
                        tracing::info!("this monitor {verb} the {duty} duty");
                    }
                }
                led.send_replace(now);
            }
            Err(e) => tracing::warn!(
                "nobody can be asked who leads the duties, next try in {PROLONG_INTERVAL:?}: {e}"
            ),
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = tokio::time::sleep(PROLONG_INTERVAL) => {}
        }
    }
    if let Err(e) = store.resign(leader).await {
        tracing::debug!("others take over the duties once the lease is over: {e}");
    }
}

/// Runs a duty at every interval while this monitor leads it; an error is logged, and the next turn tries again.
pub(crate) async fn repeat_led<F>(
    name: &'static str,
    interval: Duration,
    led: watch::Receiver<Led>,
    shutdown: &CancellationToken,
    mut duty: impl FnMut() -> F,
) where
    F: Future<Output = Result<(), DutyError>>,
{
    repeat(name, interval, shutdown, || {
        let turn = led.borrow().includes(name).then(&mut duty);
        async {
            match turn {
                Some(turn) => turn.await,
                None => Ok(()),
            }
        }
    })
    .await;
}

/// Runs a duty at every interval, whoever else does.
pub(crate) async fn repeat<F>(
    name: &'static str,
    interval: Duration,
    shutdown: &CancellationToken,
    mut duty: impl FnMut() -> F,
) where
    F: Future<Output = Result<(), DutyError>>,
{
    // There from the start: an increase is seen only from a value on.
    MONITOR_METRICS.duty_errors[&name].inc_by(0);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
        let begun = Instant::now();
        if let Err(e) = duty().await {
            MONITOR_METRICS.duty_errors[&name].inc();
            tracing::warn!("the {name} duty failed, next try in {interval:?}: {e}");
        }
        MONITOR_METRICS.duty_time[&name].observe(begun.elapsed());
    }
}
