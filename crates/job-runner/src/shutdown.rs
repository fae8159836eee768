//! How runners are told to stop.

use tokio_util::sync::CancellationToken;

/// The two steps of an end: nothing more is picked; then what still runs has the drain timeout. Clones share them.
///
/// A process that learns that its machine will be taken away picks no more long before it must end, and what runs may well finish.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    picking_ends: CancellationToken,
    drain_begins: CancellationToken,
}

impl Shutdown {
    /// Nothing more is picked from now on. What runs goes on without a time limit.
    pub fn pick_no_more(&self) {
        self.picking_ends.cancel();
    }

    /// Nothing more is picked, and what runs has the drain timeout from now on.
    pub fn drain(&self) {
        self.drain_begins.cancel();
        self.picking_ends.cancel();
    }

    /// Whether nothing more is to be picked.
    #[must_use]
    pub fn picks_no_more(&self) -> bool {
        self.picking_ends.is_cancelled()
    }

    /// Set when nothing more is to be picked.
    #[must_use]
    pub fn picking_ends(&self) -> &CancellationToken {
        &self.picking_ends
    }

    /// Set when the drain timeout begins.
    #[must_use]
    pub fn drain_begins(&self) -> &CancellationToken {
        &self.drain_begins
    }

    /// One that takes the steps of this one, and can take them by itself.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { picking_ends: self.picking_ends.child_token(), drain_begins: self.drain_begins.child_token() }
    }
}

/// A token that is both steps at once.
impl From<CancellationToken> for Shutdown {
    fn from(token: CancellationToken) -> Self {
        Self { picking_ends: token.clone(), drain_begins: token }
    }
}
