//! A whole component: squares numbers from a queue in memory on four workers, and survives a panic on the way.
//!
//! `cargo run -p job-runner --example in_memory`

use async_trait::async_trait;
use job_runner::{
    ExecuteError, Executor, JobContext, JobPicker, JobRunner, JobSaver, Lease, Outcome, PickError, Picked,
    SaveError,
};
use std::collections::VecDeque;

struct Square;

impl Executor for Square {
    type Input = u64;
    type Output = u64;
    type Metadata = u64; // the job's id

    fn execute(&self, input: u64, _ctx: &JobContext<'_, u64>) -> Result<u64, ExecuteError> {
        assert!(input != 13, "an unlucky number");
        Ok(input * input)
    }
}

struct Numbers(VecDeque<u64>);

#[async_trait]
impl JobPicker for Numbers {
    type Executor = Square;

    async fn pick(&mut self, want: usize) -> Result<Vec<Picked<Square>>, PickError> {
        if self.0.is_empty() {
            return Err(PickError::Closed);
        }
        let take = want.min(self.0.len());
        Ok(self.0.drain(..take).map(|n| Picked::new(n, n)).collect())
    }

    async fn wait(&mut self) {}
}

struct Print;

#[async_trait]
impl JobSaver for Print {
    type Executor = Square;

    async fn save(&self, id: &u64, _: &Lease, outcome: &mut Outcome<u64>) -> Result<(), SaveError> {
        tracing::info!("{id}: {outcome:?}");
        Ok(())
    }

    async fn release(&self, id: &u64) {
        tracing::info!("{id}: handed back");
    }
}

#[tokio::main]
async fn main() {
    tracing_subscriber::fmt().init();
    let report = JobRunner::builder("square")
        .picker(Numbers((1..=20).collect()))
        .executor(Square)
        .saver(Print)
        .workers(4)
        .build()
        .run()
        .await;
    tracing::info!("{report:?}");
}
