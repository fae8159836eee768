//! The job monitor's duties. Any number of monitors may run; a duty skips what another has in hand.

pub mod rescue;
