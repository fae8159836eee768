//! Chaining: one runner's saver feeds the next runner's picker, in the same process, with back-pressure.
//!
//! The lease travels along: the job stays the same job, and whoever holds it last saves it.

use crate::{Executor, JobPicker, PickError, Picked};
use async_trait::async_trait;
use tokio::sync::mpsc;

/// The sending end; clone it for several savers.
pub struct ChainSender<E: Executor> {
    sender: mpsc::Sender<Picked<E>>,
}

impl<E: Executor> std::fmt::Debug for ChainSender<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChainSender").field("free", &self.sender.capacity()).finish()
    }
}

impl<E: Executor> Clone for ChainSender<E> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone() }
    }
}

/// The next runner is gone; the job comes back, to be released.
pub struct Closed<T>(pub T);

impl<T> std::fmt::Debug for Closed<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Closed(the job)")
    }
}

impl<E: Executor> ChainSender<E> {
    /// Hands a job to the next runner; waits while the channel is full.
    ///
    /// # Errors
    /// [`Closed`] with the job, when the next runner has stopped.
    pub async fn send(&self, job: Picked<E>) -> Result<(), Box<Closed<Picked<E>>>> {
        self.sender.send(job).await.map_err(|e| Box::new(Closed(e.0)))
    }
}

/// The picker of the next runner. It reports [`PickError::Closed`] once every sender is gone and the channel is empty.
pub struct ChainPicker<E: Executor> {
    receiver: mpsc::Receiver<Picked<E>>,
    /// What `wait` received, so that its cancellation loses nothing.
    next: Option<Picked<E>>,
}

impl<E: Executor> std::fmt::Debug for ChainPicker<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChainPicker").field("waiting", &self.receiver.len()).finish()
    }
}

/// A chain of this capacity: how many jobs may lie between the two runners. Each holds its whole input in memory.
#[must_use]
pub fn chain<E: Executor>(capacity: usize) -> (ChainSender<E>, ChainPicker<E>) {
    let (sender, receiver) = mpsc::channel(capacity.max(1));
    (ChainSender { sender }, ChainPicker { receiver, next: None })
}

#[async_trait]
impl<E: Executor> JobPicker for ChainPicker<E> {
    type Executor = E;

    async fn pick(&mut self, want: usize) -> Result<Vec<Picked<E>>, PickError> {
        let mut picked: Vec<Picked<E>> = self.next.take().into_iter().collect();
        while picked.len() < want {
            match self.receiver.try_recv() {
                Ok(job) => picked.push(job),
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) if picked.is_empty() => {
                    return Err(PickError::Closed);
                }
                Err(mpsc::error::TryRecvError::Disconnected) => break,
            }
        }
        Ok(picked)
    }

    async fn wait(&mut self) {
        if self.next.is_none() {
            self.next = self.receiver.recv().await;
        }
    }

    async fn close(&mut self) -> Vec<Picked<E>> {
        self.receiver.close();
        let mut left: Vec<Picked<E>> = self.next.take().into_iter().collect();
        while let Ok(job) = self.receiver.try_recv() {
            left.push(job);
        }
        left
    }
}
