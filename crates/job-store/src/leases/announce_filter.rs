//! Writes down what a worker takes.

use crate::database::store::JobStore;
use crate::leases::pick::PickFilter;
use crate::model::error::StoreError;
use crate::model::ids::queue;
use sqlx::PgConnection;
use uuid::Uuid;

impl JobStore {
    /// Makes known what a worker takes.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn announce_filter(&self, worker: Uuid, filter: &PickFilter) -> Result<(), StoreError> {
        let rounds: Vec<i16> = filter.rounds.iter().map(|round| round.number()).collect();
        let queues: Vec<i64> =
            filter.memory_classes.iter().map(|class| queue(filter.version, filter.stage, *class)).collect();
        self.relaxed
            .statement("announce_filter", async |connection: &mut PgConnection| {
                sqlx::query!(
                    // Two runners of one process may share a queue, each with its rounds.
                    "INSERT INTO worker_filters AS known (worker_id, queue, rounds)
                     SELECT $1, queue, $3 FROM UNNEST($2::int8[]) AS q (queue)
                     ON CONFLICT (worker_id, queue) DO UPDATE SET rounds = ARRAY(
                         SELECT DISTINCT r FROM UNNEST(known.rounds || excluded.rounds) AS r ORDER BY r)",
                    worker,
                    &queues,
                    &rounds
                )
                .execute(connection)
                .await
            })
            .await?;
        Ok(())
    }
}
