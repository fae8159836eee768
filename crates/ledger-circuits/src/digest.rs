//! The Poseidon digests of the ledger, each natively and as a gadget.
//!
//! Every digest starts with a tag of its own, so that no digest of one purpose is one of another. All are
//! `hash_n_to_hash_no_pad` of plonky2 over inputs of a fixed length, where it is collision resistant (width 12, rate 8,
//! capacity 4 elements: 128 bits).

use crate::{Builder, F};
use plonky2::field::types::{Field, Field64, PrimeField64};
use plonky2::hash::hash_types::{HashOut, HashOutTarget};
use plonky2::hash::poseidon::PoseidonHash;
use plonky2::iop::target::Target;
use plonky2::plonk::config::Hasher;
use serde::{Deserialize, Deserializer, Serialize};
use std::{fmt, str::FromStr};

/// Tags, the first element of each digest's input.
mod tag {
    pub(super) const ACCOUNT: u64 = 0x01;
    pub(super) const LEAF: u64 = 0x02;
    pub(super) const QUERY: u64 = 0x03;
    pub(super) const LOG: u64 = 0x04;
    pub(super) const PUBLIC_DATA: u64 = 0x05;
}

/// A number that is no field element: it is not below the field's order, 2^64 − 2^32 + 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not below the field's order, {order}", order = F::ORDER)]
pub struct NotCanonical(pub u64);

/// The field element of a number from outside. A number is never reduced modulo the field's order: two numbers would
/// then stand for one element, and a statement about either would be proven by a proof of the other.
pub(crate) fn canonical(number: u64) -> Result<F, NotCanonical> {
    if number < F::ORDER { Ok(F::from_canonical_u64(number)) } else { Err(NotCanonical(number)) }
}

/// Four elements of the Goldilocks field, each below the field's order; written as 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord, Serialize)]
pub struct Digest([u64; 4]);

impl Digest {
    /// The digest of these elements.
    ///
    /// # Errors
    /// [`NotCanonical`] names the first element that is none.
    pub fn new(elements: [u64; 4]) -> Result<Self, NotCanonical> {
        match elements.into_iter().find(|element| *element >= F::ORDER) {
            Some(element) => Err(NotCanonical(element)),
            None => Ok(Self(elements)),
        }
    }

    /// The four elements.
    #[must_use]
    pub fn numbers(self) -> [u64; 4] {
        self.0
    }

    /// The digest as a plonky2 hash.
    #[must_use]
    pub fn to_hash(self) -> HashOut<F> {
        HashOut { elements: self.elements() }
    }

    /// The canonical form of a plonky2 hash.
    #[must_use]
    pub fn from_hash(hash: HashOut<F>) -> Self {
        Self(hash.elements.map(|e| e.to_canonical_u64()))
    }

    fn elements(self) -> [F; 4] {
        self.0.map(F::from_canonical_u64)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<T: Deserializer<'de>>(deserializer: T) -> Result<Self, T::Error> {
        Self::new(Deserialize::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|e| write!(f, "{e:016x}"))
    }
}

/// A text that is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a digest: 64 lower-case hexadecimal digits, each 16 of them below the field's order")]
pub struct BadDigest(String);

impl FromStr for Digest {
    type Err = BadDigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadDigest(text.to_owned());
        if text.len() != 64 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(bad());
        }
        let mut elements = [0; 4];
        for (i, element) in elements.iter_mut().enumerate() {
            *element = u64::from_str_radix(&text[i * 16..(i + 1) * 16], 16).map_err(|_| bad())?;
        }
        Self::new(elements).map_err(|_| bad())
    }
}

fn hash(parts: &[&[F]]) -> Digest {
    Digest::from_hash(PoseidonHash::hash_no_pad(&parts.concat()))
}

fn constant(value: u64) -> F {
    F::from_canonical_u64(value)
}

/// The key of an account: a digest of its name. 7 bytes go into an element, the length comes first.
#[must_use]
pub fn account_key(name: &str) -> Digest {
    let bytes = name.as_bytes();
    let mut input = vec![constant(tag::ACCOUNT), F::from_canonical_usize(bytes.len())];
    input.extend(bytes.chunks(7).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        F::from_canonical_u64(u64::from_le_bytes(word))
    }));
    hash(&[&input])
}

/// The leaf of an account in the state tree.
#[must_use]
pub fn leaf(key: Digest, balance: u64) -> Digest {
    hash(&[&[constant(tag::LEAF)], &key.elements(), &[F::from_canonical_u64(balance)]])
}

/// The inner node of the state tree over two children.
#[must_use]
pub fn node(left: Digest, right: Digest) -> Digest {
    Digest::from_hash(PoseidonHash::two_to_one(left.to_hash(), right.to_hash()))
}

/// The storage queue after one more query: "the account's balance was `old` and is now `new`".
#[must_use]
pub fn push_query(queue: Digest, key: Digest, old: u64, new: u64) -> Digest {
    let balances = [F::from_canonical_u64(old), F::from_canonical_u64(new)];
    hash(&[&[constant(tag::QUERY)], &queue.elements(), &key.elements(), &balances])
}

/// The log after one more transfer.
#[must_use]
pub fn push_log(log: Digest, from: Digest, to: Digest, amount: u64) -> Digest {
    let amount = [F::from_canonical_u64(amount)];
    hash(&[&[constant(tag::LOG)], &log.elements(), &from.elements(), &to.elements(), &amount])
}

/// The public-data hash after the transfer with this number (the first is 1).
#[must_use]
pub fn push_public_data(data: Digest, number: u64, from: Digest, to: Digest, amount: u64) -> Digest {
    let numbers = [F::from_canonical_u64(number), F::from_canonical_u64(amount)];
    hash(&[&[constant(tag::PUBLIC_DATA)], &data.elements(), &numbers, &from.elements(), &to.elements()])
}

/// The same digests inside a circuit.
pub(crate) mod gadget {
    use super::{Builder, Field, HashOutTarget, PoseidonHash, Target, constant, tag};
    use crate::F;

    fn hash(builder: &mut Builder, tag: u64, parts: &[&[Target]]) -> HashOutTarget {
        let tag = builder.constant(constant(tag));
        builder.hash_n_to_hash_no_pad::<PoseidonHash>([&[tag], parts.concat().as_slice()].concat())
    }

    pub(crate) fn leaf(builder: &mut Builder, key: HashOutTarget, balance: Target) -> HashOutTarget {
        hash(builder, tag::LEAF, &[&key.elements, &[balance]])
    }

    pub(crate) fn push_query(
        builder: &mut Builder,
        queue: HashOutTarget,
        key: HashOutTarget,
        old: Target,
        new: Target,
    ) -> HashOutTarget {
        hash(builder, tag::QUERY, &[&queue.elements, &key.elements, &[old, new]])
    }

    pub(crate) fn push_log(
        builder: &mut Builder,
        log: HashOutTarget,
        from: HashOutTarget,
        to: HashOutTarget,
        amount: Target,
    ) -> HashOutTarget {
        hash(builder, tag::LOG, &[&log.elements, &from.elements, &to.elements, &[amount]])
    }

    pub(crate) fn push_public_data(
        builder: &mut Builder,
        data: HashOutTarget,
        number: Target,
        from: HashOutTarget,
        to: HashOutTarget,
        amount: Target,
    ) -> HashOutTarget {
        hash(builder, tag::PUBLIC_DATA, &[&data.elements, &[number, amount], &from.elements, &to.elements])
    }

    /// The digest that marks an empty leaf of the state tree.
    pub(crate) fn empty(builder: &mut Builder) -> HashOutTarget {
        let zero = builder.constant(F::ZERO);
        HashOutTarget { elements: [zero; 4] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_read_back_and_bad_ones_are_refused() {
        let digest = account_key("Zoë");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert!("00".parse::<Digest>().is_err());
        assert!("f".repeat(64).parse::<Digest>().is_err(), "not canonical");
        assert!(digest.to_string().to_uppercase().parse::<Digest>().is_err(), "two spellings of one digest");
        // The order itself would be zero, and bincode reads what a text's parser refuses.
        assert_eq!(Digest::new([0, 0, F::ORDER, 0]), Err(NotCanonical(F::ORDER)));
        let config = bincode::config::standard();
        for (elements, is_digest) in [([F::ORDER - 1; 4], true), ([1, 2, 3, F::ORDER], false)] {
            let bytes = bincode::serde::encode_to_vec(elements, config).unwrap();
            let read = bincode::serde::decode_from_slice::<Digest, _>(&bytes, config);
            assert_eq!(read.is_ok(), is_digest, "{elements:?}: {read:?}");
        }
    }

    #[test]
    fn names_that_differ_in_trailing_zeros_or_length_have_different_keys() {
        let names = ["", "\0", "\0\0", "a", "a\0", "abcdefg", "abcdefg\0", "abcdefgh"];
        for (i, a) in names.iter().enumerate() {
            for b in &names[i + 1..] {
                assert_ne!(account_key(a), account_key(b), "{a:?} and {b:?}");
            }
        }
    }
}
