//! The circuits: three basic ones, four that aggregate, and two that wrap.
//!
//! Each circuit allocates all its inputs as virtual targets before anything else, in a function `allocate`. So the
//! targets of a circuit loaded from a key file are found again by calling it on a fresh builder.

pub(crate) mod configs;
pub(crate) mod public_data;
pub(crate) mod recursion;
pub(crate) mod storage_application;
pub(crate) mod transfer_execution;
pub(crate) mod wrap;

use crate::digest::{Digest, NotCanonical, canonical};
use crate::{Builder, F, Witness};
use plonky2::field::types::{Field, PrimeField64};
use plonky2::hash::hash_types::{HashOut, HashOutTarget};
use plonky2::iop::target::{BoolTarget, Target};
use plonky2::iop::witness::WitnessWrite;
use serde::{Deserialize, Serialize};

/// Elements of a chain state, whichever the kind.
pub(crate) const STATE_LEN: usize = 9;

/// Bits of a balance: below 2^63, so that a sum of a balance and an amount never wraps around the field.
pub(crate) const BALANCE_BITS: usize = 63;

/// Bits of an amount minus one: amounts are 1 to 2^62.
pub(crate) const AMOUNT_BITS: usize = 62;

/// What one basic circuit hands to the next of its kind: two digests and a counter.
///
/// | kind | first | second | count |
/// |---|---|---|---|
/// | transfer execution | storage queue | log | transfers so far |
/// | storage application | storage queue | state root | 0 |
/// | public data | log | public-data hash | transfers so far |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct ChainState {
    pub(crate) first: Digest,
    pub(crate) second: Digest,
    pub(crate) count: u64,
}

impl ChainState {
    /// The state as field elements; a payload may come from anybody, so its counter is checked.
    fn elements(self) -> Result<[F; STATE_LEN], NotCanonical> {
        let mut elements = [F::ZERO; STATE_LEN];
        elements[..4].copy_from_slice(&self.first.to_hash().elements);
        elements[4..8].copy_from_slice(&self.second.to_hash().elements);
        elements[8] = canonical(self.count)?;
        Ok(elements)
    }

    pub(crate) fn from_elements(elements: &[F]) -> Self {
        let digest =
            |at: usize| Digest::from_hash(HashOut { elements: std::array::from_fn(|i| elements[at + i]) });
        Self { first: digest(0), second: digest(4), count: elements[8].to_canonical_u64() }
    }
}

/// A chain state inside a circuit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChainTarget {
    pub(crate) first: HashOutTarget,
    pub(crate) second: HashOutTarget,
    pub(crate) count: Target,
}

impl ChainTarget {
    pub(crate) fn allocate(builder: &mut Builder) -> Self {
        Self {
            first: builder.add_virtual_hash(),
            second: builder.add_virtual_hash(),
            count: builder.add_virtual_target(),
        }
    }

    pub(crate) fn elements(&self) -> Vec<Target> {
        [self.first.elements.as_slice(), &self.second.elements, &[self.count]].concat()
    }

    pub(crate) fn assign(&self, witness: &mut Witness, state: ChainState) -> anyhow::Result<()> {
        witness.set_target_arr(&self.elements(), &state.elements()?)
    }
}

/// `active ? yes : no`, element by element.
pub(crate) fn select_hash(
    builder: &mut Builder,
    active: BoolTarget,
    yes: HashOutTarget,
    no: HashOutTarget,
) -> HashOutTarget {
    HashOutTarget {
        elements: std::array::from_fn(|i| builder.select(active, yes.elements[i], no.elements[i])),
    }
}
