//! Wakes pickers when a backoff ends.

use crate::database::store::JobStore;
use crate::model::error::StoreError;
use proving_model::Stage;
use sqlx::PgConnection;

impl JobStore {
    /// Wakes the pickers of jobs whose rest after a failure ended within the last `window`: nobody announced it. Returns
    /// the stages woken. A job that both this and the window miss is found by the pickers' poll.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn wake_rested(&self, window: std::time::Duration) -> Result<Vec<Stage>, StoreError> {
        let stages = self
            .reports
            .statement("wake_rested", async |connection: &mut PgConnection| {
                sqlx::query_scalar!(
                    r#"SELECT DISTINCT stage AS "stage!" FROM prover_jobs
                     WHERE status = 'queued' AND not_before > queued_at
                       AND not_before <= now() AND not_before > now() - make_interval(secs => $1)"#,
                    window.as_secs_f64()
                )
                .fetch_all(connection)
                .await
            })
            .await?;
        let stages: Vec<Stage> = stages.iter().filter_map(|stage| stage.parse().ok()).collect();
        stages.iter().for_each(|stage| self.waker.wake(*stage));
        Ok(stages)
    }
}
