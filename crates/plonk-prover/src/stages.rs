//! Where a proof's time goes.

use std::time::{Duration, Instant};

/// A part of the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// The witness's way to a device.
    Upload,
    /// From values on the subgroup to polynomials.
    Interpolation,
    /// From polynomials to values on the coset: the low-degree extension.
    Extension,
    /// All Merkle trees.
    Hashing,
    /// The permutation argument's products.
    Permutation,
    /// The constraints at all points, through the vanishing polynomial.
    Quotient,
    /// Evaluations at the opening points, and their combination.
    Openings,
    /// The reductions of the combination, but for their trees.
    Folding,
    /// The proof of work.
    ProofOfWork,
}

impl Stage {
    /// Every stage, in the order in which each is first entered.
    pub const ALL: [Self; 9] = [
        Self::Upload,
        Self::Interpolation,
        Self::Extension,
        Self::Hashing,
        Self::Permutation,
        Self::Quotient,
        Self::Openings,
        Self::Folding,
        Self::ProofOfWork,
    ];

    /// Its name, for people and labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Interpolation => "interpolation",
            Self::Extension => "extension",
            Self::Hashing => "hashing",
            Self::Permutation => "permutation",
            Self::Quotient => "quotient",
            Self::Openings => "openings",
            Self::Folding => "folding",
            Self::ProofOfWork => "proof of work",
        }
    }
}

/// Times by stage, summed over as many proofs as were made with it.
#[derive(Debug, Clone, Default)]
pub struct Stages {
    times: [Duration; Stage::ALL.len()],
    /// Poseidon permutations of the Merkle trees.
    pub permutations: usize,
}

impl Stages {
    /// The time of a stage.
    #[must_use]
    pub fn of(&self, stage: Stage) -> Duration {
        self.times[stage as usize]
    }

    /// Does something, and adds the time that it took.
    pub fn time<T>(&mut self, stage: Stage, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let result = work();
        self.times[stage as usize] += begun.elapsed();
        result
    }
}
