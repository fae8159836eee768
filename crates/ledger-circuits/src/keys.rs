//! The ten circuits of a key set: built once, cached by the keystore, loaded when first needed, shared.

use crate::circuits::{configs, public_data, recursion, storage_application, transfer_execution, wrap};
use crate::params::{Kind, LedgerParams};
use crate::{Builder, C, Circuit, CommonData, D, F, Verifier, VerifierKey};
use keystore::{GenerationLock, KeyEntry, Keystore, KeystoreError};
use plonky2::field::types::Field;
use plonky2::plonk::circuit_data::CircuitConfig;
use plonky2::util::serialization::{DefaultGateSerializer, DefaultGeneratorSerializer};
use proof_system::{KeyFile, KeyFiles, ProofSystemError};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use thiserror::Error;

/// Most rounds in the search for a shape that is its own verifier's shape; two are enough in practice.
const SHAPE_ROUNDS_MAX: usize = 6;

/// One of the circuits of a key set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CircuitName {
    /// A basic circuit.
    Basic(Kind),
    /// The leaf over basic proofs of a kind.
    Leaf(Kind),
    /// The node, of every kind and depth.
    Node,
    /// The recursion tip.
    Tip,
    /// The scheduler.
    Scheduler,
    /// The first wrap.
    FirstWrap,
    /// The second wrap, whose proof is the final proof.
    SecondWrap,
}

impl CircuitName {
    /// Every circuit, in the order in which they can be built: each needs the keys of those before it.
    pub const ALL: [Self; 11] = [
        Self::Basic(Kind::TransferExecution),
        Self::Basic(Kind::StorageApplication),
        Self::Basic(Kind::PublicData),
        Self::Leaf(Kind::TransferExecution),
        Self::Leaf(Kind::StorageApplication),
        Self::Leaf(Kind::PublicData),
        Self::Node,
        Self::Tip,
        Self::Scheduler,
        Self::FirstWrap,
        Self::SecondWrap,
    ];

    /// The name in the manifest.
    #[must_use]
    pub fn key_name(self) -> String {
        match self {
            Self::Basic(kind) => kind.name().to_owned(),
            Self::Leaf(kind) => format!("leaf-{}", kind.name()),
            Self::Node => "node".to_owned(),
            Self::Tip => "recursion-tip".to_owned(),
            Self::Scheduler => "scheduler".to_owned(),
            Self::FirstWrap => "compression-first".to_owned(),
            Self::SecondWrap => "compression-second".to_owned(),
        }
    }

    fn verifier_name(self) -> String {
        format!("{}-verification", self.key_name())
    }

    fn number(self) -> usize {
        Self::ALL.iter().position(|name| *name == self).unwrap_or_default()
    }

    fn config(self) -> CircuitConfig {
        match self {
            Self::Scheduler => configs::scheduler_config(),
            Self::FirstWrap => configs::first_wrap_config(),
            Self::SecondWrap => configs::second_wrap_config(),
            _ => configs::recursion_config(),
        }
    }
}

/// Why keys are not to be had.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The keystore refused.
    #[error(transparent)]
    Keystore(#[from] KeystoreError),
    /// A key file passes its checksum and still does not decode: it was made by another version.
    #[error(
        "key {0} cannot be decoded: it was made by another version of this program; delete the key folder"
    )]
    Undecodable(String),
    /// The circuits do not fit together for these parameters.
    #[error("the circuits cannot be built with these parameters: {0}")]
    Unbuildable(String),
}

/// The key set of one set of parameters. Cheap to share; circuits are loaded at first use and kept.
#[derive(Debug)]
pub struct LedgerKeys {
    params: LedgerParams,
    store: Keystore,
    /// By their numbers, each behind a lock of its own: different ones are loaded at the same time.
    circuits: [Mutex<Option<Arc<Circuit>>>; CircuitName::ALL.len()],
    verifiers: Mutex<BTreeMap<CircuitName, Arc<Verifier>>>,
}

/// Hears how far key generation is: circuits done, circuits in all, name of the next.
pub type Progress<'a> = &'a (dyn Fn(usize, usize, &str) + Sync);

impl LedgerKeys {
    /// The key set of these parameters in this keystore. Reads nothing yet.
    #[must_use]
    pub fn new(params: LedgerParams, store: Keystore) -> Self {
        Self { params, store, circuits: Default::default(), verifiers: Mutex::default() }
    }

    /// The parameters.
    #[must_use]
    pub fn params(&self) -> &LedgerParams {
        &self.params
    }

    /// Makes sure that every key of the set is on disk; generates what is missing.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn generate(&self, progress: Progress<'_>) -> Result<(), KeyError> {
        let is_missing =
            |name: &CircuitName| !self.store.has(&name.key_name()) || !self.store.has(&name.verifier_name());
        if !CircuitName::ALL.iter().any(is_missing) {
            return Ok(());
        }
        let lock = self.store.lock_generation()?;
        let total = CircuitName::ALL.len();
        for (done, name) in CircuitName::ALL.into_iter().enumerate() {
            // Asked again under the lock: another process may have generated it meanwhile.
            if is_missing(&name) {
                progress(done, total, &name.key_name());
                self.generate_one(name, &lock)?;
            }
        }
        progress(total, total, "");
        Ok(())
    }

    fn generate_one(&self, name: CircuitName, lock: &GenerationLock) -> Result<(), KeyError> {
        let circuit = self.build(name)?;
        let generators = DefaultGeneratorSerializer::<C, D>::default();
        let bytes = circuit
            .to_bytes(&DefaultGateSerializer, &generators)
            .map_err(|_| KeyError::Unbuildable(format!("{} cannot be serialised", name.key_name())))?;
        self.store.store(&name.key_name(), &bytes, lock)?;
        let bytes = circuit
            .verifier_data()
            .to_bytes(&DefaultGateSerializer)
            .map_err(|_| KeyError::Unbuildable(format!("{} cannot be serialised", name.key_name())))?;
        self.store.store(&name.verifier_name(), &bytes, lock)?;
        Ok(())
    }

    /// A circuit's proving data, out of memory or the keystore.
    ///
    /// # Errors
    /// See [`KeyError`]; a key that was never generated is one of them.
    pub fn circuit(&self, name: CircuitName) -> Result<Arc<Circuit>, KeyError> {
        let mut kept = self.circuits[name.number()].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(circuit) = &*kept {
            return Ok(circuit.clone());
        }
        let bytes = self.bytes(&name.key_name())?;
        let generators = DefaultGeneratorSerializer::<C, D>::default();
        let circuit = Circuit::from_bytes(&bytes, &DefaultGateSerializer, &generators)
            .map_err(|_| KeyError::Undecodable(name.key_name()))?;
        let circuit = Arc::new(circuit);
        *kept = Some(circuit.clone());
        Ok(circuit)
    }

    /// Loads these circuits' proving data, on all cores: gigabytes of them are decoded.
    ///
    /// # Errors
    /// As [`LedgerKeys::circuit`].
    pub fn load(&self, names: &[CircuitName]) -> Result<(), KeyError> {
        names.par_iter().try_for_each(|name| self.circuit(*name).map(drop))
    }

    /// A circuit's verification data.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn verifier(&self, name: CircuitName) -> Result<Arc<Verifier>, KeyError> {
        let mut verifiers = self.verifiers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(verifier) = verifiers.get(&name) {
            return Ok(verifier.clone());
        }
        let bytes = self.bytes(&name.verifier_name())?;
        let verifier = Arc::new(
            Verifier::from_bytes(bytes, &DefaultGateSerializer)
                .map_err(|_| KeyError::Undecodable(name.verifier_name()))?,
        );
        verifiers.insert(name, verifier.clone());
        Ok(verifier)
    }

    /// The bytes of the final proof's verification key.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn final_verification_key(&self) -> Result<Vec<u8>, KeyError> {
        self.bytes(&CircuitName::SecondWrap.verifier_name())
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>, KeyError> {
        if let Some(bytes) = self.store.load(name)? {
            return Ok(bytes);
        }
        self.generate(&|_, _, _| ())?;
        self.store.load(name)?.ok_or_else(|| KeyError::Undecodable(name.to_owned()))
    }

    /// A builder for this circuit; its digest depends on its place in the set.
    fn builder(name: CircuitName) -> Builder {
        let mut builder = Builder::new(name.config());
        builder.set_domain_separator(vec![F::from_canonical_usize(name.number() + 1)]);
        builder
    }

    /// Builds a circuit; those that it needs must be in the keystore.
    fn build(&self, name: CircuitName) -> Result<Circuit, KeyError> {
        let mut builder = Self::builder(name);
        match name {
            CircuitName::Basic(kind) => {
                match kind {
                    Kind::TransferExecution => transfer_execution::define(&mut builder, &self.params),
                    Kind::StorageApplication => storage_application::define(&mut builder, &self.params),
                    Kind::PublicData => public_data::define(&mut builder, &self.params),
                }
                Ok(builder.build::<C>())
            }
            CircuitName::Leaf(kind) => {
                let shape = self.shape()?;
                self.define_leaf(&mut builder, kind, Some(&shape))?;
                of_shape(builder.build::<C>(), &shape, name)
            }
            CircuitName::Node => {
                let shape = self.shape()?;
                recursion::define_node(&mut builder, &shape, &self.leaf_keys()?, self.params.node_fan_in);
                of_shape(builder.build::<C>(), &shape, name)
            }
            CircuitName::Tip => {
                let node = self.verifier(CircuitName::Node)?;
                recursion::define_tip(&mut builder, &node.common, &self.leaf_keys()?, &node.verifier_only);
                Ok(builder.build::<C>())
            }
            CircuitName::Scheduler => {
                let tip = self.verifier(CircuitName::Tip)?;
                recursion::define_scheduler(&mut builder, &tip.common, &tip.verifier_only);
                Ok(builder.build::<C>())
            }
            CircuitName::FirstWrap | CircuitName::SecondWrap => {
                let inner = if name == CircuitName::FirstWrap {
                    self.verifier(CircuitName::Scheduler)?
                } else {
                    self.verifier(CircuitName::FirstWrap)?
                };
                wrap::define(&mut builder, &inner.common, &inner.verifier_only);
                Ok(builder.build::<C>())
            }
        }
    }

    fn define_leaf(
        &self,
        builder: &mut Builder,
        kind: Kind,
        shape: Option<&CommonData>,
    ) -> Result<(), KeyError> {
        let basic = self.verifier(CircuitName::Basic(kind))?;
        recursion::define_leaf(
            builder,
            kind,
            &basic.common,
            &basic.verifier_only,
            self.params.leaf_fan_in,
            shape,
        );
        Ok(())
    }

    fn leaf_keys(&self) -> Result<[VerifierKey; 3], KeyError> {
        let key = |kind| Ok::<_, KeyError>(self.verifier(CircuitName::Leaf(kind))?.verifier_only.clone());
        let [first, second, third] = Kind::ALL;
        Ok([key(first)?, key(second)?, key(third)?])
    }

    /// The shape that leaves and nodes share: one whose verifier, in a node, has that shape again.
    ///
    /// Found by going round: start from a leaf's own shape, build the node over it, take the node's shape, and so on
    /// until it stays. The shape depends on gates and degree alone, so placeholder keys do, and nothing is committed.
    fn shape(&self) -> Result<CommonData, KeyError> {
        let first_leaf = CircuitName::Leaf(Kind::TransferExecution);
        if self.store.has(&first_leaf.verifier_name()) {
            return Ok(self.verifier(first_leaf)?.common.clone());
        }
        let mut builder = Self::builder(CircuitName::Leaf(Kind::StorageApplication));
        self.define_leaf(&mut builder, Kind::StorageApplication, None)?;
        let mut shape = builder.build::<C>();
        let key = shape.verifier_only.clone();
        let placeholder = [key.clone(), key.clone(), key];
        for _ in 0..SHAPE_ROUNDS_MAX {
            let mut builder = Self::builder(CircuitName::Node);
            recursion::define_node(&mut builder, &shape.common, &placeholder, self.params.node_fan_in);
            let (next, _) = builder.try_build_with_options::<C>(false);
            if next.common == shape.common {
                return Ok(next.common);
            }
            shape = next;
        }
        Err(KeyError::Unbuildable(format!(
            "no shape of leaves and nodes is its own verifier's after {SHAPE_ROUNDS_MAX} rounds"
        )))
    }
}

impl KeyFiles for LedgerKeys {
    fn list(&self) -> Result<Vec<KeyFile>, ProofSystemError> {
        let entries = self.store.entries().map_err(KeyError::from)?;
        let file = |(name, KeyEntry { blake3, size_bytes }): (String, KeyEntry)| {
            let is_here = self.store.has(&name);
            KeyFile { name, blake3, size_bytes, is_here }
        };
        Ok(entries.into_iter().map(file).collect())
    }

    fn load(&self, name: &str) -> Result<Option<Vec<u8>>, ProofSystemError> {
        Ok(self.store.load(name).map_err(KeyError::from)?)
    }

    fn store(&self, name: &str, bytes: &[u8]) -> Result<(), ProofSystemError> {
        let lock = self.store.lock_generation().map_err(KeyError::from)?;
        Ok(self.store.store(name, bytes, &lock).map_err(KeyError::from)?)
    }
}

fn of_shape(circuit: Circuit, shape: &CommonData, name: CircuitName) -> Result<Circuit, KeyError> {
    if circuit.common == *shape {
        return Ok(circuit);
    }
    Err(KeyError::Unbuildable(format!(
        "{} has 2^{} rows and {} gates, its shape 2^{} and {}",
        name.key_name(),
        circuit.common.degree_bits(),
        circuit.common.gates.len(),
        shape.degree_bits(),
        shape.gates.len()
    )))
}
