//! What comes from outside, and what of it is shown: reads with a bound, URLs without their secrets, texts that a terminal
//! shows and does not obey.
//!
//! Every file that a user names is read by [`read_limited`]: its size may be a lie or nothing at all (`/dev/zero`, a pipe).
//! Every URL in a message goes through [`shown`]. Every text that somebody else wrote goes through [`printable`] or
//! [`printable_lines`] before a terminal gets it.

mod printable;
mod read;
mod shown;

pub use printable::{printable, printable_lines, printable_log_line, printable_within};
pub use read::{ReadError, read_limited, read_stream_limited, read_text_limited};
pub use shown::{shown, with_urls_shown, without_secrets};
