//! The public statement of a batch.

use crate::F;
use crate::circuits::recursion::{STATEMENT_LEN, limbs};
use crate::digest::Digest;
use plonky2::field::types::Field;
use proof_system::Rejected;
use serde::{Deserialize, Serialize};

/// Names the format of a statement file.
const FORMAT: &str = "roundhouse-ledger-statement-2";
/// Most bytes of a statement file; one has about 500.
pub const STATEMENT_BYTES_MAX: usize = 4 << 10;

/// What a final proof proves; see the crate's documentation for its meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The chain that the batch belongs to.
    pub chain_id: u64,
    /// The batch's number.
    pub batch_number: u64,
    /// State root before the first transfer.
    pub root_before: Digest,
    /// State root after the last.
    pub root_after: Digest,
    /// How many transfers.
    pub transfers: u32,
    /// Hash of all transfers in their order.
    pub public_data_hash: Digest,
}

/// The file's form. Ids are texts: they have up to 64 bits, and many readers of JSON keep 53.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StatementFile {
    format: String,
    #[serde(with = "text")]
    chain_id: u64,
    #[serde(with = "text")]
    batch_number: u64,
    #[serde(with = "text")]
    root_before: Digest,
    #[serde(with = "text")]
    root_after: Digest,
    transfers: u32,
    #[serde(with = "text")]
    public_data_hash: Digest,
}

/// Values that are written as texts.
mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::{fmt::Display, str::FromStr};

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Statement {
    /// The statement as JSON, one field a line.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let file = StatementFile {
            format: FORMAT.to_owned(),
            chain_id: self.chain_id,
            batch_number: self.batch_number,
            root_before: self.root_before,
            root_after: self.root_after,
            transfers: self.transfers,
            public_data_hash: self.public_data_hash,
        };
        // Strings and integers have no way to fail; an empty statement would be refused by every verifier.
        let mut json = serde_json::to_vec_pretty(&file).unwrap_or_default();
        json.push(b'\n');
        json
    }

    /// Reads a statement file. It has one form, the bytes that [`Statement::to_json`] writes: no two files state the same.
    ///
    /// # Errors
    /// [`Rejected`] with line and field.
    pub fn from_json(json: &[u8]) -> Result<Self, Rejected> {
        if json.len() > STATEMENT_BYTES_MAX {
            return Err(Rejected(format!(
                "the statement has {} bytes; a statement of a ledger batch has {STATEMENT_BYTES_MAX} at most",
                json.len()
            )));
        }
        let file: StatementFile = serde_json::from_slice(json)
            .map_err(|e| Rejected(format!("the statement is not one of a ledger batch: {e}")))?;
        if file.format != FORMAT {
            return Err(Rejected(format!("the statement's format is {:?}, not {FORMAT:?}", file.format)));
        }
        let statement = Self {
            chain_id: file.chain_id,
            batch_number: file.batch_number,
            root_before: file.root_before,
            root_after: file.root_after,
            transfers: file.transfers,
            public_data_hash: file.public_data_hash,
        };
        if statement.to_json() != json {
            return Err(Rejected(
                "the statement is not in its one form: fields in their order, one a line, indented by two spaces, \
                 ids without leading zeros, and a line feed at the end, as `prover prove` writes it"
                    .to_owned(),
            ));
        }
        Ok(statement)
    }

    /// The statement as the final proof's public inputs.
    pub(crate) fn public_inputs(&self) -> [F; STATEMENT_LEN] {
        let mut inputs = [F::ZERO; STATEMENT_LEN];
        inputs[..2].copy_from_slice(&limbs(self.chain_id));
        inputs[2..4].copy_from_slice(&limbs(self.batch_number));
        inputs[4..8].copy_from_slice(&self.root_before.to_hash().elements);
        inputs[8..12].copy_from_slice(&self.root_after.to_hash().elements);
        inputs[12] = F::from_canonical_u32(self.transfers);
        inputs[13..17].copy_from_slice(&self.public_data_hash.to_hash().elements);
        inputs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::account_key;
    use plonky2::field::types::Field64;

    fn statement() -> Statement {
        Statement {
            chain_id: 11_297_108_109,
            batch_number: u64::MAX,
            root_before: account_key("before"),
            root_after: account_key("after"),
            transfers: 16,
            public_data_hash: account_key("data"),
        }
    }

    #[test]
    fn a_statement_reads_back_and_its_ids_keep_all_their_bits() {
        let json = statement().to_json();
        assert_eq!(Statement::from_json(&json), Ok(statement()));
        let inputs = statement().public_inputs();
        assert_eq!(inputs[..4], [2_707_173_517, 2, 0xffff_ffff, 0xffff_ffff].map(F::from_canonical_u64));
    }

    /// Modulo the field's order the number would be the same, and so would the proof.
    #[test]
    fn a_number_with_the_fields_order_added_is_refused_in_every_field() {
        let json = String::from_utf8(statement().to_json()).unwrap();
        let small = Digest::new([1, 2, 3, 4]).unwrap().to_string();
        let json_of_small = json.replace(&account_key("before").to_string(), &small);
        assert!(Statement::from_json(json_of_small.as_bytes()).is_ok());
        for at in 0..4 {
            let mut elements = [1, 2, 3, 4];
            elements[at] += F::ORDER;
            let shifted: String = elements.iter().map(|e| format!("{e:016x}")).collect();
            let forged = json_of_small.replace(&small, &shifted);
            assert!(Statement::from_json(forged.as_bytes()).is_err(), "element {at}");
        }
        let more = |number: u128| (number + u128::from(F::ORDER)).to_string();
        for (field, forged) in [
            ("\"transfers\": 16", format!("\"transfers\": {}", more(16))),
            ("\"chain_id\": \"11297108109\"", format!("\"chain_id\": \"{}\"", more(11_297_108_109))),
            (
                "\"batch_number\": \"18446744073709551615\"",
                format!("\"batch_number\": \"{}\"", more(u64::MAX.into())),
            ),
        ] {
            assert!(json.contains(field), "{field}");
            let forged = json.replace(field, &forged);
            let refused = Statement::from_json(forged.as_bytes()).unwrap_err().to_string();
            assert!(refused.contains("line"), "{refused}");
        }
    }

    #[test]
    fn a_statement_has_one_form() {
        let json = String::from_utf8(statement().to_json()).unwrap();
        let upper = account_key("data").to_string();
        let as_array = {
            let map: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&json).unwrap();
            let order = ["format", "chain_id", "batch_number", "root_before", "root_after", "transfers"];
            let mut values: Vec<_> = order.iter().map(|field| map[*field].clone()).collect();
            values.push(map["public_data_hash"].clone());
            serde_json::to_string(&values).unwrap()
        };
        for (forged, what) in [
            (as_array, "an array"),
            (json.replace(&upper, &upper.to_uppercase()), "upper-case digits"),
            (json.replace('\n', " "), "one line"),
            (format!("{json}\n"), "a line more"),
            (json.trim_end().to_owned(), "no line feed at the end"),
            (json.replace("\"11297108109\"", "\"011297108109\""), "a leading zero"),
            (json.replace("\"11297108109\"", "\"+11297108109\""), "a sign"),
            (json.replace("\"11297108109\"", "11297108109"), "an id as a number"),
            (json.replace("16,", "1.6e1,"), "a float"),
            (json.replace("\"transfers\"", "\"transf\\u0065rs\""), "an escape"),
            (json.replace("{\n", "{\n  \"transfers\": 16,\n"), "a field twice"),
            (format!("{}{json}", " ".repeat(STATEMENT_BYTES_MAX)), "padding"),
        ] {
            assert_ne!(forged, json, "{what}");
            assert!(Statement::from_json(forged.as_bytes()).is_err(), "{what} is accepted");
        }
    }
}
