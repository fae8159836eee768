//! The ledger, executed natively: what the circuits prove, computed the ordinary way.
//!
//! [`Execution`] keeps the state tree and emits what each circuit needs, in a stream. The rules are those of
//! [`crate::balances`].

use crate::circuits::public_data::{LogEntry, PublicDataInput};
use crate::circuits::storage_application::{StorageApplicationInput, StorageQuery};
use crate::circuits::transfer_execution::{Transfer, TransferExecutionInput};
use crate::circuits::{ChainState, STATE_LEN};
use crate::digest::{self, Digest, account_key};
use crate::input::LedgerInput;
use crate::state_tree::StateTree;
use crate::{Kind, LedgerParams, Statement};
use proving_model::BatchId;
use serde::Serialize;

const _: () = assert!(STATE_LEN == 9, "a chain state is two digests and a counter");

/// A basic circuit's input, ready to be encoded.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(crate) enum BasicInput {
    TransferExecution(TransferExecutionInput),
    StorageApplication(StorageApplicationInput),
    PublicData(PublicDataInput),
}

impl BasicInput {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::TransferExecution(_) => Kind::TransferExecution,
            Self::StorageApplication(_) => Kind::StorageApplication,
            Self::PublicData(_) => Kind::PublicData,
        }
    }
}

/// A batch being executed.
#[derive(Debug)]
pub(crate) struct Execution {
    params: LedgerParams,
    tree: StateTree,
    root_before: Digest,
    execution: ChainState,
    storage: ChainState,
    data: ChainState,
    open_transfers: (ChainState, Vec<Transfer>),
    open_queries: (ChainState, Vec<StorageQuery>),
    open_entries: (ChainState, Vec<LogEntry>),
}

impl Execution {
    /// The ledger before the first transfer.
    pub(crate) fn new(params: LedgerParams, accounts: &[(String, u64)]) -> Result<Self, String> {
        let mut tree = StateTree::new(params.tree_depth);
        for (name, balance) in accounts {
            tree.set(account_key(name), *balance)
                .map_err(|_| format!("account {name:?} has another account's place in the state tree"))?;
        }
        let root = tree.root();
        let storage = ChainState { second: root, ..ChainState::default() };
        let empty = ChainState::default();
        Ok(Self {
            params,
            tree,
            root_before: root,
            execution: empty,
            storage,
            data: empty,
            open_transfers: (empty, Vec::new()),
            open_queries: (storage, Vec::new()),
            open_entries: (empty, Vec::new()),
        })
    }

    /// Carries out one transfer, which [`Balances`] has accepted; returns the circuits that it filled.
    pub(crate) fn apply(&mut self, from: &str, to: &str, amount: u64) -> Result<Vec<BasicInput>, String> {
        let (from, to) = (account_key(from), account_key(to));
        let from_balance = self.tree.balance(from).unwrap_or_default();
        let from_new = from_balance.checked_sub(amount).ok_or("overdraft")?;
        self.query(from, from_balance, from_new)?;
        let to_balance = self.tree.balance(to).unwrap_or_default();
        self.query(to, to_balance, to_balance + amount)?;
        self.open_transfers.1.push(Transfer { from, to, amount, from_balance, to_balance });
        self.open_entries.1.push(LogEntry { from, to, amount });

        let log = digest::push_log(self.execution.second, from, to, amount);
        let count = self.execution.count + 1;
        self.execution = ChainState { first: self.storage.first, second: log, count };
        let hash = digest::push_public_data(self.data.second, count, from, to, amount);
        self.data = ChainState { first: log, second: hash, count };
        Ok(self.take_full(false))
    }

    fn query(&mut self, key: Digest, old: u64, new: u64) -> Result<(), String> {
        let opening = self.tree.open(key);
        self.tree.set(key, new).map_err(|_| "two accounts of one path".to_owned())?;
        self.open_queries.1.push(StorageQuery {
            key,
            old,
            new,
            is_new: opening.is_empty,
            siblings: opening.siblings,
        });
        self.storage.first = digest::push_query(self.storage.first, key, old, new);
        self.storage.second = self.tree.root();
        Ok(())
    }

    /// The circuits of what is left.
    pub(crate) fn finish(&mut self) -> Vec<BasicInput> {
        self.take_full(true)
    }

    /// The statement about what was carried out so far.
    pub(crate) fn statement(&self, batch: BatchId) -> Result<Statement, String> {
        Ok(Statement {
            chain_id: batch.chain_id.into(),
            batch_number: batch.number.into(),
            root_before: self.root_before,
            root_after: self.storage.second,
            transfers: u32::try_from(self.execution.count).map_err(|_| {
                format!("{} transfers are more than a statement can say", self.execution.count)
            })?,
            public_data_hash: self.data.second,
        })
    }

    fn take_full(&mut self, even_if_not_full: bool) -> Vec<BasicInput> {
        let due = |len: usize, capacity: usize| len == capacity || (even_if_not_full && len > 0);
        let mut full = Vec::new();
        if due(self.open_transfers.1.len(), self.params.transfers_per_execution) {
            let (start, transfers) =
                std::mem::replace(&mut self.open_transfers, (self.execution, Vec::new()));
            full.push(BasicInput::TransferExecution(TransferExecutionInput { start, transfers }));
        }
        if due(self.open_queries.1.len(), 2 * self.params.transfers_per_storage) {
            let (start, queries) = std::mem::replace(&mut self.open_queries, (self.storage, Vec::new()));
            full.push(BasicInput::StorageApplication(StorageApplicationInput { start, queries }));
        }
        if due(self.open_entries.1.len(), self.params.transfers_per_public_data) {
            let (start, entries) = std::mem::replace(&mut self.open_entries, (self.data, Vec::new()));
            full.push(BasicInput::PublicData(PublicDataInput { start, entries }));
        }
        full
    }
}

/// The statement of a whole batch, computed without any circuit: what an auditor computes from the files.
pub(crate) fn statement_of(
    params: LedgerParams,
    batch: BatchId,
    input: &LedgerInput,
) -> Result<Statement, String> {
    let mut execution = Execution::new(params, &input.accounts)?;
    for (from, to, amount) in &input.transfers {
        execution.apply(from, to, *amount)?;
    }
    execution.statement(batch)
}
