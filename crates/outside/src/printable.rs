//! Texts that somebody else wrote, for a terminal that shows them and does not obey them.

use std::{borrow::Cow, fmt::Write};

/// Whether a terminal would do something with this character instead of showing it: C0 and C1 controls (escape sequences begin with
/// one), line and paragraph separators, and what turns the direction of the text around it.
fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escape(text: &str, is_escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_escaped(c) {
            // Writing to a string cannot fail. All of them lie in the basic plane, so this is an escape of JSON too.
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// A value for one line: everything that a terminal would obey, line ends included, is written `\u001b`, with the character's number in
/// four hexadecimal digits. Inside the strings of a JSON text that is the same string.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    escape(text, is_obeyed)
}

/// As [`printable`], for a text of many lines: line ends stay.
#[must_use]
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    escape(text, |c| c != '\n' && is_obeyed(c))
}

/// As [`printable_lines`], for a text within another: each line but the first is marked, so that none passes for a line of the whole.
#[must_use]
pub fn printable_within(text: &str) -> Cow<'_, str> {
    let shown = printable_lines(text.trim_end());
    if shown.contains('\n') { shown.replace('\n', "\n    | ").into() } else { shown }
}

/// As [`printable`], for a line of the log as it is written: the escape character stays, with which the writer colours it.
#[must_use]
pub fn printable_log_line(line: &str) -> Cow<'_, str> {
    escape(line, |c| c != '\u{1b}' && is_obeyed(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_shown_instead() {
        let sly = "\u{1b}[2Jgone\u{7}\u{9b}31m\r\u{202e}txt.exe\u{7f}\u{0}\n";
        assert_eq!(printable(sly), r"\u001b[2Jgone\u0007\u009b31m\u000d\u202etxt.exe\u007f\u0000\u000a");
        assert!(printable_lines(sly).ends_with("\\u0000\n"));
        for number in (0..=0x10_ffff).filter_map(char::from_u32).filter(|c| c.is_control()) {
            assert!(!printable(&number.to_string()).contains(number));
        }
    }

    #[test]
    fn a_text_within_another_forges_no_line_of_it() {
        assert_eq!(
            printable_within("it broke\nbatch 1: successful\r\n"),
            "it broke\n    | batch 1: successful"
        );
        assert_eq!(
            printable_log_line("\u{1b}[32mINFO\u{1b}[0m a\r\n\u{202e}b"),
            "\u{1b}[32mINFO\u{1b}[0m a\\u000d\\u000a\\u202eb"
        );
    }

    #[test]
    fn what_is_harmless_stays_as_it_is() {
        let text = "Zoë owes 5 € to 日本, \"quoted\", c:\\path – 👍";
        assert!(matches!(printable(text), Cow::Borrowed(same) if same == text));
    }
}
