//! Whether an operation is carried out, or shown only.

use crate::database::connections::Transaction;
use crate::model::error::StoreError;

/// Whether an operation is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is.
    Apply,
    /// It is undone at its end: what it says is what it would have changed.
    DryRun,
}

/// Ends an operation's transaction as its mode says.
pub(crate) async fn end(
    transaction: Transaction<'_>,
    mode: Mode,
    action: &'static str,
) -> Result<(), StoreError> {
    let ended = match mode {
        Mode::Apply => transaction.commit().await,
        Mode::DryRun => transaction.rollback().await,
    };
    ended.map_err(StoreError::database(action))
}
