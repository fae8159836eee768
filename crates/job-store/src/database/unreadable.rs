//! Rows that nothing of this program wrote: an id that is no job's, a chain beyond its range.
//!
//! One such row must not hide the others. It is skipped, counted in `job_store_unreadable_rows_total`, and named in the log.

use crate::database::metrics::{QueryLabels, STORE_METRICS};
use crate::model::error::StoreError;
use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

/// Rows that are named in the log; a report that is made every second names each once.
const NAMED_MAX: usize = 1_000;

/// The rows that can be read.
pub(crate) fn readable<R, T>(
    query: &'static str,
    rows: impl IntoIterator<Item = R>,
    mut read: impl FnMut(R) -> Result<T, StoreError>,
) -> Vec<T> {
    let read = rows.into_iter().filter_map(|row| read(row).map_err(|e| skipped(query, &e)).ok());
    read.collect()
}

/// Counts a row that is skipped, and names it in the log.
pub(crate) fn skipped(query: &'static str, reason: &StoreError) {
    static NAMED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    STORE_METRICS.unreadable_rows[&QueryLabels { query }].inc();
    let text = format!("{query}: a row is skipped: {reason}");
    let mut named = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
    if named.len() < NAMED_MAX && named.insert(text.clone()) {
        tracing::error!("{text}");
    }
}
