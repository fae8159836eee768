//! One at a time: of any number of monitors one leads each duty, and another takes over when it ends, hangs or is cut off.
//!
//! Leading is a lease that is prolonged, and not a lock on a connection: a process that hangs keeps its connections. Duties are safe
//! to run twice at once; leading spares the work.

use crate::database::store::JobStore;
use crate::database::text::stored_name;
use crate::model::error::StoreError;
use sqlx::PgConnection;
use std::time::Duration;
use uuid::Uuid;

/// A process that leads, or would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Fresh and random.
    pub id: Uuid,
    /// Its host, for people.
    pub host: String,
    /// Its process id, for people.
    pub pid: u32,
}

impl JobStore {
    /// Leads these duties for so long from now, as far as no other does; returns those that it leads.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn lead(
        &self,
        leader: &Leader,
        duties: &[&str],
        lease: Duration,
    ) -> Result<Vec<String>, StoreError> {
        let duties: Vec<String> = duties.iter().map(|duty| (*duty).to_owned()).collect();
        self.relaxed
            .statement("lead", async |connection: &mut PgConnection| {
                sqlx::query_scalar!(
                    "INSERT INTO duties AS known (name, leader, host, pid, expires_at)
                     SELECT duty, $2, $3, $4, now() + make_interval(secs => $5)
                     FROM UNNEST($1::text[]) AS duty ORDER BY duty
                     ON CONFLICT (name) DO UPDATE SET
                         leader = excluded.leader, host = excluded.host, pid = excluded.pid,
                         expires_at = excluded.expires_at
                     -- A lease beyond any that is given is none.
                     WHERE known.leader = excluded.leader OR known.expires_at < now()
                        OR known.expires_at > now() + make_interval(secs => 10 * $5)
                     RETURNING name",
                    &duties,
                    leader.id,
                    &*stored_name(&leader.host),
                    i32::try_from(leader.pid).unwrap_or(i32::MAX),
                    lease.as_secs_f64()
                )
                .fetch_all(connection)
                .await
            })
            .await
    }

    /// Leads nothing any more: another may at once.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn resign(&self, leader: &Leader) -> Result<(), StoreError> {
        self.relaxed
            .statement("resign", async |connection: &mut PgConnection| {
                sqlx::query!("DELETE FROM duties WHERE leader = $1", leader.id)
                    .execute(connection)
                    .await
                    .map(drop)
            })
            .await
    }
}
