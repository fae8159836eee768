//! The rules of the ledger on names, amounts and balances: cheap enough to check a file line by line.

use crate::digest::account_key;
use std::collections::HashMap;

/// Longest account name.
pub const NAME_BYTES_MAX: usize = 256;
/// Largest amount.
pub const AMOUNT_MAX: u64 = 1 << 62;
/// Balances stay below this.
pub const BALANCE_END: u64 = 1 << 63;

/// Account balances under the rules of the ledger.
#[derive(Debug)]
pub(crate) struct Balances {
    tree_depth: usize,
    balances: HashMap<String, u64>,
    /// Who has which path of the state tree: two names of one path cannot both have an account.
    paths: HashMap<u64, String>,
}

impl Balances {
    pub(crate) fn new(tree_depth: usize) -> Self {
        Self { tree_depth, balances: HashMap::new(), paths: HashMap::new() }
    }

    /// Opens an account.
    pub(crate) fn open(&mut self, name: &str, balance: u64) -> Result<(), String> {
        check_name(name)?;
        if balance >= BALANCE_END {
            return Err(format!("the balance {balance} of {name:?} is above {}", BALANCE_END - 1));
        }
        if self.balances.contains_key(name) {
            return Err(format!("account {name:?} is there twice"));
        }
        let path = account_path(name, self.tree_depth);
        if let Some(other) = self.paths.get(&path) {
            return Err(format!(
                "account {name:?} has the place of account {other:?} in the state tree; choose another name"
            ));
        }
        self.paths.insert(path, name.to_owned());
        self.balances.insert(name.to_owned(), balance);
        Ok(())
    }

    /// Checks a transfer and carries it out; opens the receiver's account where there is none.
    pub(crate) fn transfer(&mut self, from: &str, to: &str, amount: u64) -> Result<(), Refused> {
        let refuse = |field, reason: String| Err(Refused { field, reason });
        if !(1..=AMOUNT_MAX).contains(&amount) {
            return refuse(Field::Amount, format!("the amount {amount} is not from 1 to {AMOUNT_MAX}"));
        }
        if from == to {
            return refuse(Field::To, format!("account {from:?} sends to itself"));
        }
        let Some(&sender) = self.balances.get(from) else {
            return refuse(
                Field::From,
                format!("unknown account {from:?} cannot send; it is in no earlier line"),
            );
        };
        let Some(left) = sender.checked_sub(amount) else {
            return refuse(
                Field::Amount,
                format!("overdraft: account {from:?} has {sender} and sends {amount}"),
            );
        };
        let receiver = self.balances.get(to).copied().unwrap_or_default();
        let sum = receiver + amount;
        if sum >= BALANCE_END {
            let most = BALANCE_END - 1;
            return refuse(
                Field::Amount,
                format!(
                    "overflow: account {to:?} has {receiver}, receives {amount}, and may have {most} at most"
                ),
            );
        }
        if !self.balances.contains_key(to) {
            self.open(to, 0).map_err(|reason| Refused { field: Field::To, reason })?;
        }
        self.balances.insert(from.to_owned(), left);
        self.balances.insert(to.to_owned(), sum);
        Ok(())
    }

    pub(crate) fn into_sorted(self) -> Vec<(String, u64)> {
        let mut sorted: Vec<_> = self.balances.into_iter().collect();
        sorted.sort();
        sorted
    }
}

/// A field of a transfer, in the order of the file's columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    From,
    To,
    Amount,
}

/// Why a transfer is not carried out, and the field that is to blame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) field: Field,
    pub(crate) reason: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reason)
    }
}

pub(crate) fn check_name(name: &str) -> Result<(), String> {
    match name.len() {
        0 => Err("an account name cannot be empty".to_owned()),
        1..=NAME_BYTES_MAX => Ok(()),
        length => Err(format!("the account name has {length} bytes; {NAME_BYTES_MAX} are allowed")),
    }
}

/// The path in the state tree that a name's account takes.
pub(crate) fn account_path(name: &str, depth: usize) -> u64 {
    account_key(name).numbers()[0] & ((1 << depth) - 1)
}
