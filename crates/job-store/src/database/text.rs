//! Texts that come from outside, as the database takes them.
//!
//! An error's text may hold anything: what a program printed, a NUL, ten megabytes. PostgreSQL refuses a NUL, and a write that books a
//! failure must not fail itself. So every such text passes [`stored`].

use std::borrow::Cow;

/// Bytes of a text that are kept.
const TEXT_BYTES_MAX: usize = 64 << 10;
/// Of them, those of its end: causes and summaries often come last.
const TAIL_BYTES: usize = 16 << 10;
/// Bytes of a name, such as a host's.
const NAME_BYTES_MAX: usize = 255;

/// The text without control characters but line feeds and tabs, and at most 64 KiB of it: its beginning and its end.
pub(crate) fn stored(text: &str) -> Cow<'_, str> {
    cut(clean(text), TEXT_BYTES_MAX, TAIL_BYTES)
}

/// The name without control characters, and at most 255 bytes of it.
pub(crate) fn stored_name(name: &str) -> Cow<'_, str> {
    cut(clean(name), NAME_BYTES_MAX, 0)
}

fn clean(text: &str) -> Cow<'_, str> {
    let is_kept = |c: char| !c.is_control() || c == '\n' || c == '\t';
    if text.chars().all(is_kept) {
        return Cow::Borrowed(text);
    }
    text.chars().map(|c| if is_kept(c) { c } else { char::REPLACEMENT_CHARACTER }).collect::<String>().into()
}

fn cut(text: Cow<'_, str>, most: usize, tail: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return text;
    }
    // The note takes less than 64 bytes.
    let head = &text[..text.floor_char_boundary(most - tail - most.min(64))];
    let tail = &text[text.ceil_char_boundary(text.len() - tail)..];
    let left_out = text.len() - head.len() - tail.len();
    format!("{head} […{left_out} bytes left out…] {tail}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_texts_stay_as_they_are() {
        for text in ["", "it broke", "line\n\tline", "καλημέρα", &"x".repeat(TEXT_BYTES_MAX)] {
            assert!(matches!(stored(text), Cow::Borrowed(same) if same == text));
        }
    }

    #[test]
    fn control_characters_are_replaced() {
        assert_eq!(stored("a\0b\x1b[31mc\r\u{9b}d"), "a\u{fffd}b\u{fffd}[31mc\u{fffd}\u{fffd}d");
    }

    #[test]
    fn long_texts_keep_their_beginning_and_their_end() {
        for filling in ["x", "é", "\0", "🦀"] {
            let text = format!("first {} last", filling.repeat(10 << 20));
            let kept = stored(&text);
            assert!(kept.len() <= TEXT_BYTES_MAX, "{}", kept.len());
            assert!(kept.starts_with("first ") && kept.ends_with(" last") && kept.contains("bytes left out"));
            let name = stored_name(&text);
            assert!(name.len() <= NAME_BYTES_MAX && name.starts_with("first "), "{}", name.len());
        }
    }
}
