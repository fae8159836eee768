//! The sparse Merkle tree of accounts, natively.
//!
//! An account's leaf lies at the path given by the low [`DEPTH`](crate::LedgerParams::tree_depth) bits of its key's
//! first element and holds a digest of the whole key and the balance. Two names whose paths collide cannot both
//! have an account; [`PathTaken`] says so and the input is refused. The circuit relies on nothing but
//! the root.

use crate::digest::{self, Digest};
use std::collections::HashMap;

/// An account's path is that of another account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathTaken;

/// One account as the tree stores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Leaf {
    key: Digest,
    balance: u64,
}

/// What a storage query needs to know about one leaf before it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// Digests beside the path, from the leaf up.
    pub siblings: Vec<Digest>,
    /// Whether the leaf is empty: the account does not exist yet.
    pub is_empty: bool,
}

/// The tree. Memory: about 50 bytes × depth an account.
#[derive(Debug, Clone)]
pub struct StateTree {
    depth: usize,
    leaves: HashMap<u64, Leaf>,
    /// Inner nodes and leaves that are not those of an empty tree, by (level, index); level 0 holds the leaves.
    nodes: HashMap<(u8, u64), Digest>,
    /// The digest of an empty subtree of each height.
    empty: Vec<Digest>,
}

impl StateTree {
    /// An empty tree of this depth, 1 to 63.
    #[must_use]
    pub fn new(depth: usize) -> Self {
        assert!((1..=63).contains(&depth), "the depth of a state tree is 1 to 63, not {depth}");
        let mut empty = vec![Digest::default()];
        for level in 0..depth {
            empty.push(digest::node(empty[level], empty[level]));
        }
        Self { depth, leaves: HashMap::new(), nodes: HashMap::new(), empty }
    }

    /// The state root.
    #[must_use]
    pub fn root(&self) -> Digest {
        self.node(self.depth, 0)
    }

    /// The balance of an account, if it exists.
    #[must_use]
    pub fn balance(&self, key: Digest) -> Option<u64> {
        self.leaves.get(&self.path(key)).filter(|leaf| leaf.key == key).map(|leaf| leaf.balance)
    }

    /// Whether another account already lies at this key's path.
    #[must_use]
    pub fn is_path_taken_by_another(&self, key: Digest) -> bool {
        self.leaves.get(&self.path(key)).is_some_and(|leaf| leaf.key != key)
    }

    /// The path of a key: its leaf's index.
    #[must_use]
    pub fn path(&self, key: Digest) -> u64 {
        key.numbers()[0] & ((1 << self.depth) - 1)
    }

    /// What a circuit needs to open the leaf at this key's path.
    #[must_use]
    pub fn open(&self, key: Digest) -> Opening {
        let path = self.path(key);
        let siblings = (0..self.depth).map(|level| self.node(level, (path >> level) ^ 1)).collect();
        Opening { siblings, is_empty: !self.leaves.contains_key(&path) }
    }

    /// Sets an account's balance, creating the account where there is none.
    ///
    /// # Errors
    /// [`PathTaken`] when another account lies at the path; nothing is changed.
    pub fn set(&mut self, key: Digest, balance: u64) -> Result<(), PathTaken> {
        if self.is_path_taken_by_another(key) {
            return Err(PathTaken);
        }
        let path = self.path(key);
        self.leaves.insert(path, Leaf { key, balance });
        let mut current = digest::leaf(key, balance);
        self.nodes.insert((0, path), current);
        for level in 0..self.depth {
            let index = path >> level;
            let sibling = self.node(level, index ^ 1);
            current =
                if index & 1 == 0 { digest::node(current, sibling) } else { digest::node(sibling, current) };
            self.nodes.insert((level as u8 + 1, index >> 1), current);
        }
        Ok(())
    }

    fn node(&self, level: usize, index: u64) -> Digest {
        self.nodes.get(&(level as u8, index)).copied().unwrap_or(self.empty[level])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::account_key;

    #[test]
    fn the_root_depends_on_content_alone() {
        let names = ["ada", "bob", "cyd", "dee"];
        let mut forward = StateTree::new(16);
        let mut backward = StateTree::new(16);
        for name in names {
            forward.set(account_key(name), 7).unwrap();
        }
        for name in names.iter().rev() {
            backward.set(account_key(name), 1).unwrap();
            backward.set(account_key(name), 7).unwrap();
        }
        assert_eq!(forward.root(), backward.root());
        backward.set(account_key("bob"), 8).unwrap();
        assert_ne!(forward.root(), backward.root());
        assert_ne!(StateTree::new(16).root(), forward.root());
    }

    #[test]
    fn an_opening_leads_to_the_root() {
        let mut tree = StateTree::new(20);
        for i in 0..50 {
            tree.set(account_key(&format!("account {i}")), i).unwrap();
        }
        let key = account_key("account 9");
        let opening = tree.open(key);
        let mut current = digest::leaf(key, 9);
        for (level, sibling) in opening.siblings.iter().enumerate() {
            current = if tree.path(key) >> level & 1 == 0 {
                digest::node(current, *sibling)
            } else {
                digest::node(*sibling, current)
            };
        }
        assert_eq!(current, tree.root());
        assert!(!opening.is_empty && tree.open(account_key("nobody")).is_empty);
    }

    #[test]
    fn a_colliding_path_is_refused_and_changes_nothing() {
        let mut tree = StateTree::new(1);
        tree.set(account_key("a"), 1).unwrap();
        let other = (0..)
            .map(|i| account_key(&format!("x{i}")))
            .find(|key| tree.path(*key) == tree.path(account_key("a")))
            .unwrap();
        let root = tree.root();
        assert_eq!(tree.set(other, 5), Err(PathTaken));
        assert_eq!((tree.root(), tree.balance(other)), (root, None));
    }
}
