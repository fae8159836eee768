//! Example batches from a seed: the files under `examples/ledger/` are made by it.

use std::collections::BTreeMap;

/// Opening balances and transfers as CSV texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExampleFiles {
    /// Content of `accounts.csv`.
    pub accounts: String,
    /// Content of `transfers.csv`.
    pub transfers: String,
}

/// Opening balance of every generated account.
const OPENING_BALANCE: u64 = 1_000_000;

/// Folder below `examples/ledger/`, transfers, accounts and seed of each shipped example.
pub const SHIPPED: [(&str, usize, usize, u64); 3] =
    [("", 16, 8, 1), ("medium", 256, 64, 2), ("large", 4_096, 512, 3)];

/// A small generator of numbers that look random and are the same everywhere: SplitMix64.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// A valid batch: `transfers` transfers among `accounts` accounts, some of which open by receiving.
#[must_use]
pub fn example(transfers: usize, accounts: usize, seed: u64) -> ExampleFiles {
    assert!(accounts >= 2, "a transfer needs two accounts");
    let mut random = SplitMix(seed);
    let name = |i: u64| format!("account-{i:05}");
    let opened = accounts as u64 - accounts as u64 / 8;
    let mut balances: BTreeMap<u64, u64> = (0..opened).map(|i| (i, OPENING_BALANCE)).collect();
    let mut files =
        ExampleFiles { accounts: "account,balance\n".to_owned(), transfers: "from,to,amount\n".to_owned() };
    for i in 0..opened {
        files.accounts.push_str(&format!("{},{OPENING_BALANCE}\n", name(i)));
    }
    let mut made = 0;
    while made < transfers {
        let from = random.below(opened);
        let to = random.below(accounts as u64);
        let has = balances.get(&from).copied().unwrap_or_default();
        if from == to || has == 0 {
            continue;
        }
        let amount = 1 + random.below(has.div_ceil(10));
        balances.insert(from, has - amount);
        *balances.entry(to).or_default() += amount;
        files.transfers.push_str(&format!("{},{},{amount}\n", name(from), name(to)));
        made += 1;
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipped_examples_are_what_the_generator_makes() {
        for (folder, transfers, accounts, seed) in SHIPPED {
            let dir =
                std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/ledger").join(folder);
            let files = example(transfers, accounts, seed);
            for (name, text) in [("accounts.csv", files.accounts), ("transfers.csv", files.transfers)] {
                let path = dir.join(name);
                let found = std::fs::read_to_string(&path).unwrap_or_default();
                assert!(found == text, "{} is not what the generator makes", path.display());
            }
        }
    }
}
