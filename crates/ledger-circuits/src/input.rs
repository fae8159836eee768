//! The user's files: transfers and opening balances, read and checked line by line.
//!
//! Every mistake is refused with its file, line and field before anything is written. What passes here can be
//! proven: balances are simulated as they change, so an overdraft is found at the line that causes it.
//!
//! A spreadsheet runs a cell that begins with `=`, `+`, `-`, `@`, a tab or a line end. So a name that begins so is written as
//! `'=x`, with an apostrophe before it, and read back as `=x`; in an input both forms mean the same account.

use crate::LedgerParams;
use crate::balances::{AMOUNT_MAX, BALANCE_END, Balances, check_name};
use outside::{ReadError, read_limited};
use proof_system::Rejected;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

/// Largest input file: a hundred thousand transfers between names of full length fit.
pub const FILE_BYTES_MAX: u64 = 64 << 20;
/// Most transfers in a batch; the aggregation tree above them is then about a thousand leaves.
pub const TRANSFERS_MAX: usize = 100_000;
/// Most opening accounts: the state tree takes about 3 kB of memory for each.
pub const ACCOUNTS_MAX: usize = 100_000;

/// A ledger's witness input: opening balances and transfers, in the order of the files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerInput {
    /// Account names and opening balances.
    pub accounts: Vec<(String, u64)>,
    /// Sender, receiver, amount.
    pub transfers: Vec<(String, String, u64)>,
}

impl LedgerInput {
    /// Reads and checks both files.
    ///
    /// # Errors
    /// [`Rejected`] with file, line and field of the first mistake.
    pub fn read(transfers: &Path, accounts: &Path, params: &LedgerParams) -> Result<Self, Rejected> {
        // The input first: when it is not there, its accounts are not the news.
        let transfers = Table::open(transfers, &["from", "to", "amount"])?;
        let mut balances = Balances::new(params.tree_depth);
        let accounts = read_accounts(accounts, &mut balances)?;
        let transfers = read_transfers(transfers, &mut balances)?;
        Ok(Self { accounts, transfers })
    }

    /// The payload of a witness input artifact.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Encoding strings and integers into memory has no way to fail; an empty payload would be refused later.
        bincode::serde::encode_to_vec(self, bincode::config::standard()).unwrap_or_default()
    }

    /// Reads a payload; its content is checked again, since it may come from anybody.
    ///
    /// # Errors
    /// [`Rejected`] says what is wrong.
    pub fn decode(payload: &[u8], params: &LedgerParams) -> Result<Self, Rejected> {
        let config = bincode::config::standard().with_limit::<{ 4 * FILE_BYTES_MAX as usize }>();
        let (input, read): (Self, usize) = bincode::serde::decode_from_slice(payload, config)
            .map_err(|e| Rejected(format!("not a ledger's witness input: {e}")))?;
        if read != payload.len() {
            return Err(Rejected(format!("the witness input ends at byte {read} of {}", payload.len())));
        }
        if input.transfers.is_empty() {
            return Err(Rejected("the witness input has no transfers".to_owned()));
        }
        // As in the files: a payload may come from anybody, and memory follows from these numbers.
        for (what, count, most) in [
            ("transfers", input.transfers.len(), TRANSFERS_MAX),
            ("opening accounts", input.accounts.len(), ACCOUNTS_MAX),
        ] {
            if count > most {
                return Err(Rejected(format!(
                    "the witness input has {count} {what}; a batch may have {most} at most"
                )));
            }
        }
        let mut balances = Balances::new(params.tree_depth);
        for (i, (name, balance)) in input.accounts.iter().enumerate() {
            balances.open(name, *balance).map_err(|e| Rejected(format!("account {}: {e}", i + 1)))?;
        }
        for (i, (from, to, amount)) in input.transfers.iter().enumerate() {
            balances.transfer(from, to, *amount).map_err(|e| Rejected(format!("transfer {}: {e}", i + 1)))?;
        }
        Ok(input)
    }

    /// The account file beside a transfer file.
    #[must_use]
    pub fn default_accounts(transfers: &Path) -> std::path::PathBuf {
        transfers.with_file_name("accounts.csv")
    }

    /// Balances after all transfers, by account name.
    ///
    /// # Errors
    /// [`Rejected`] when the input is not one that [`LedgerInput::decode`] returned.
    pub fn balances_after(&self, params: &LedgerParams) -> Result<Vec<(String, u64)>, Rejected> {
        let mut balances = Balances::new(params.tree_depth);
        for (name, balance) in &self.accounts {
            balances.open(name, *balance).map_err(Rejected)?;
        }
        for (from, to, amount) in &self.transfers {
            balances.transfer(from, to, *amount).map_err(|refused| Rejected(refused.reason))?;
        }
        Ok(balances.into_sorted())
    }
}

/// One file being read: knows where it is, for messages.
struct Table {
    file: String,
    reader: csv::Reader<std::io::Cursor<Vec<u8>>>,
    fields: &'static [&'static str],
    record: csv::ByteRecord,
}

impl Table {
    fn open(path: &Path, fields: &'static [&'static str]) -> Result<Self, Rejected> {
        let file = path.display().to_string();
        let bytes = read_limited(path, FILE_BYTES_MAX).map_err(|e| match e {
            ReadError::Folder => Rejected(format!("{file} is a folder, not a CSV file")),
            e => Rejected(format!("cannot read {file}: {e}")),
        })?;
        let header = fields.join(",");
        if bytes.is_empty() {
            return Err(Rejected(format!("{file}: the file is empty; its first line must be {header}")));
        }
        let reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .from_reader(std::io::Cursor::new(bytes));
        let mut table = Self { file, reader, fields, record: csv::ByteRecord::new() };
        let is_header = table.advance()? && table.record.iter().eq(fields.iter().map(|f| f.as_bytes()));
        if !is_header {
            return Err(Rejected(format!("{}:1: the first line must be {header}", table.file)));
        }
        Ok(table)
    }

    fn advance(&mut self) -> Result<bool, Rejected> {
        self.reader
            .read_byte_record(&mut self.record)
            .map_err(|e| Rejected(format!("{}: cannot be read as CSV: {e}", self.file)))
    }

    /// The next row, with as many fields as the header has.
    fn next(&mut self) -> Result<bool, Rejected> {
        if !self.advance()? {
            return Ok(false);
        }
        if self.record.len() != self.fields.len() {
            return Err(Rejected(format!(
                "{}:{}: the line has {} field{}, not {}: {}",
                self.file,
                self.line(),
                self.record.len(),
                if self.record.len() == 1 { "" } else { "s" },
                self.fields.len(),
                self.fields.join(",")
            )));
        }
        Ok(true)
    }

    fn line(&self) -> u64 {
        self.record.position().map_or(0, csv::Position::line)
    }

    fn reject(&self, field: usize, reason: impl std::fmt::Display) -> Rejected {
        Rejected(format!("{}:{}: field {}: {reason}", self.file, self.line(), self.fields[field]))
    }

    fn reject_line(&self, reason: impl std::fmt::Display) -> Rejected {
        Rejected(format!("{}:{}: {reason}", self.file, self.line()))
    }

    fn text(&self, field: usize) -> Result<&str, Rejected> {
        std::str::from_utf8(&self.record[field]).map_err(|_| self.reject(field, "is not valid UTF-8"))
    }

    fn name(&self, field: usize) -> Result<&str, Rejected> {
        let name = from_cell(self.text(field)?);
        check_name(name).map_err(|reason| self.reject(field, reason))?;
        Ok(name)
    }

    fn number(&self, field: usize, min: u64, max: u64) -> Result<u64, Rejected> {
        let text = self.text(field)?;
        let range = || format!("whole numbers from {min} to {max} are allowed");
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(self.reject(field, format!("{text:?} is not a whole number; {}", range())));
        }
        text.parse()
            .ok()
            .filter(|value| (min..=max).contains(value))
            .ok_or_else(|| self.reject(field, format!("{text} is out of range; {}", range())))
    }
}

/// Whether a spreadsheet would take a cell that begins so for a formula, and run it.
fn begins_a_formula(c: char) -> bool {
    matches!(c, '=' | '+' | '-' | '@' | '\t' | '\r' | '\n' | '＝' | '＋' | '－' | '＠')
}

/// Whether a text is, behind any number of apostrophes, what a spreadsheet would run.
fn is_guarded(text: &str) -> bool {
    text.trim_start_matches('\'').starts_with(begins_a_formula)
}

/// A name as a cell of a CSV file that a spreadsheet may open: with an apostrophe before it where the spreadsheet would otherwise run it.
/// [`from_cell`] takes that apostrophe away again, so a name that begins with one gets another.
pub(crate) fn to_cell(name: &str) -> Cow<'_, str> {
    if is_guarded(name) { Cow::Owned(format!("'{name}")) } else { Cow::Borrowed(name) }
}

/// The name in a cell: `'=x` is the name `=x`, and so is `=x` itself.
fn from_cell(cell: &str) -> &str {
    cell.strip_prefix('\'').filter(|name| is_guarded(name)).unwrap_or(cell)
}

fn read_accounts(path: &Path, balances: &mut Balances) -> Result<Vec<(String, u64)>, Rejected> {
    let mut table = Table::open(path, &["account", "balance"])?;
    let mut accounts = Vec::new();
    let mut lines: HashMap<String, u64> = HashMap::new();
    while table.next()? {
        if accounts.len() == ACCOUNTS_MAX {
            return Err(
                table.reject_line(format!("a batch may have {ACCOUNTS_MAX} opening accounts at most"))
            );
        }
        let name = table.name(0)?.to_owned();
        let balance = table.number(1, 0, BALANCE_END - 1)?;
        if let Some(line) = lines.insert(name.clone(), table.line()) {
            return Err(table.reject(0, format!("account {name:?} is already on line {line}")));
        }
        balances.open(&name, balance).map_err(|reason| table.reject(0, reason))?;
        accounts.push((name, balance));
    }
    Ok(accounts)
}

fn read_transfers(mut table: Table, balances: &mut Balances) -> Result<Vec<(String, String, u64)>, Rejected> {
    let mut transfers = Vec::new();
    while table.next()? {
        if transfers.len() == TRANSFERS_MAX {
            return Err(table.reject_line(format!("a batch may have {TRANSFERS_MAX} transfers at most")));
        }
        let from = table.name(0)?.to_owned();
        let to = table.name(1)?.to_owned();
        let amount = table.number(2, 1, AMOUNT_MAX)?;
        balances
            .transfer(&from, &to, amount)
            .map_err(|refused| table.reject(refused.field as usize, refused))?;
        transfers.push((from, to, amount));
    }
    if transfers.is_empty() {
        return Err(Rejected(format!("{}: there are no transfers after the header", table.file)));
    }
    Ok(transfers)
}

#[cfg(test)]
#[path = "input_tests.rs"]
mod tests;
