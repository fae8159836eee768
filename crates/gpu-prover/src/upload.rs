//! Witnesses on their way to a device, while it works on another.
//!
//! Whoever wants a proof writes its witness to host memory from a shelf, in its own thread; the device's thread begins the copy between two
//! stages of the proof at hand, and the device reads that memory by itself. So a device with enough to do never waits for a witness.
//!
//! The memory is page-locked by the device's thread when it first sees it, and goes back to the shelf for the next witness: after the first
//! few proofs nothing is allocated.

// What a device reads by itself must stay.
#![allow(unsafe_code)]

use crate::F;
use crate::device::{Buffer, Device};
use crate::driver::DriverError;
use cust::event::Event;
use plonk_prover::wire_column;
use plonky2::field::types::PrimeField64;
use plonky2::iop::witness::PartitionWitness;
use rayon::prelude::*;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Host memory for witnesses, of one device.
#[derive(Debug, Default)]
pub(crate) struct Shelf(Mutex<Vec<Vec<u64>>>);

/// A witness's wires in memory from a shelf, column by column, canonical.
#[derive(Debug)]
pub(crate) struct Staged {
    memory: Vec<u64>,
    length: usize,
    shelf: Arc<Shelf>,
}

/// A witness's wires on their way to a device, or there.
#[derive(Debug)]
pub(crate) struct Upload {
    // Dropped in this order: until they are copied the device reads the one and writes to the other.
    copied: Copied,
    staged: Staged,
    buffer: Buffer,
}

/// When something is copied; waits for it at the end.
#[derive(Debug)]
struct Copied(Event);

/// Where a witness's wires are.
#[derive(Debug)]
pub(crate) enum Wires {
    /// On the host.
    Staged(Staged),
    /// On their way, or on the device.
    Uploaded(Upload),
}

/// Writes a witness's wires, column by column, canonical.
pub(crate) fn write_wires(witness: &PartitionWitness<'_, F>, memory: &mut [u64]) {
    memory.par_chunks_exact_mut(witness.degree).enumerate().for_each(|(column, values)| {
        let wires = wire_column(witness, column).map(|wire| wire.to_canonical_u64());
        values.iter_mut().zip(wires).for_each(|(value, wire)| *value = wire);
    });
}

impl Shelf {
    fn memories(&self) -> MutexGuard<'_, Vec<Vec<u64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A witness's wires, in the shortest memory that is long enough.
    pub(crate) fn stage(self: &Arc<Self>, witness: &PartitionWitness<'_, F>) -> Staged {
        let length = witness.degree * witness.num_wires;
        let mut memories = self.memories();
        let fitting = (0..memories.len()).filter(|at| memories[*at].len() >= length);
        let shortest = fitting.min_by_key(|at| memories[*at].len());
        let known = shortest.map(|at| memories.swap_remove(at));
        drop(memories);
        // From here on the shelf has it back whatever happens.
        let memory = known.unwrap_or_else(|| vec![0; length]);
        let mut staged = Staged { memory, length, shelf: self.clone() };
        write_wires(witness, &mut staged.memory[..length]);
        staged
    }

    /// Frees all but the longest ones, so many. By the thread of the device that may have locked them.
    pub(crate) fn trim(&self, most: usize, device: &Device) {
        let mut memories = self.memories();
        memories.sort_by_key(|memory| std::cmp::Reverse(memory.len()));
        while memories.len() > most
            && let Some(shortest) = memories.pop()
        {
            device.page_unlock(&shortest);
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        self.shelf.memories().push(std::mem::take(&mut self.memory));
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        // What fails here has failed for all that the device does, and copies nothing any more.
        let _ = self.0.synchronize();
    }
}

impl Upload {
    /// Begins to copy the wires to a range of their length.
    ///
    /// # Errors
    /// [`DriverError`], with the wires as they were.
    pub(crate) fn begin(buffer: Buffer, staged: Staged) -> Result<Self, (DriverError, Staged)> {
        buffer.device().page_lock(&staged.memory);
        // SAFETY: they stay until `copied` is dropped, and nobody writes to them meanwhile.
        match unsafe { buffer.write_beside(&staged.memory[..staged.length]) } {
            Ok(copied) => Ok(Self { copied: Copied(copied), staged, buffer }),
            Err(error) => Err((error, staged)),
        }
    }

    /// Waits until they are there; they are still on the host, too.
    ///
    /// # Errors
    /// [`DriverError::Failed`], with the wires on the host.
    fn finish(self) -> Result<(Buffer, Staged), (DriverError, Staged)> {
        let Self { copied, staged, buffer } = self;
        match copied.0.synchronize() {
            Ok(()) => Ok((buffer, staged)),
            Err(error) => Err((buffer.device().failed("cuEventSynchronize")(error), staged)),
        }
    }
}

impl Staged {
    /// How many bytes they are.
    pub(crate) fn bytes(&self) -> usize {
        self.length * size_of::<u64>()
    }
}

impl Wires {
    /// Begins to upload them, where there is room for them. What fails here fails again when it is their turn, and is told then.
    pub(crate) fn begin(device: &Device, staged: Staged) -> Self {
        let Ok(buffer) = device.allocate(staged.length) else { return Self::Staged(staged) };
        match Upload::begin(buffer, staged) {
            Ok(upload) => Self::Uploaded(upload),
            Err((_, staged)) => Self::Staged(staged),
        }
    }

    /// The wires on the host, and nothing of a device.
    pub(crate) fn cancel(self) -> Staged {
        match self {
            Self::Uploaded(Upload { copied, staged, .. }) => {
                drop(copied);
                staged
            }
            Self::Staged(staged) => staged,
        }
    }

    /// The wires on the device, and still on the host.
    ///
    /// # Errors
    /// [`DriverError`], with the wires on the host.
    pub(crate) fn on(self, device: &Device) -> Result<(Buffer, Staged), (DriverError, Staged)> {
        match self {
            Self::Uploaded(upload) => upload.finish(),
            Self::Staged(staged) => match device.allocate(staged.length) {
                Ok(buffer) => Upload::begin(buffer, staged)?.finish(),
                Err(error) => Err((error, staged)),
            },
        }
    }
}
