//! The text form of spans of time in specs and statuses: `500ms`, `20s`, `1h30m`.

use std::fmt;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanError {
    pub text: String,
}

impl fmt::Display for SpanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a span of time: write whole numbers with ms, s, m or h, as in 500ms, 20s or 1h30m",
            self.text
        )
    }
}

impl std::error::Error for SpanError {}

const MILLISECONDS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

pub fn parse(text: &str) -> Result<Duration, SpanError> {
    let error = || SpanError { text: text.to_owned() };
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
        let number: u64 = rest[..digits].parse().map_err(|_| error())?;
        let letters = rest[digits..].find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len() - digits);
        let unit = &rest[digits..digits + letters];
        let (_, scale) = MILLISECONDS.iter().find(|(name, _)| *name == unit).ok_or_else(error)?;
        total = number.checked_mul(*scale).and_then(|part| total.checked_add(part)).ok_or_else(error)?;
        rest = &rest[digits + letters..];
    }
    if text.is_empty() { Err(error()) } else { Ok(Duration::from_millis(total)) }
}

/// The two largest units that matter to a reader: `1h30m`, `1m48s`, `12s`, `250ms`. Longer spans lose their milliseconds.
pub fn format(span: Duration) -> String {
    let seconds = span.as_secs();
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes, rest) {
        (0, 0, 0) if !span.is_zero() => format!("{}ms", span.as_millis()),
        (0, 0, rest) => format!("{rest}s"),
        (0, minutes, 0) => format!("{minutes}m"),
        (0, minutes, rest) => format!("{minutes}m{rest}s"),
        (hours, 0, _) => format!("{hours}h"),
        (hours, minutes, _) => format!("{hours}h{minutes}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_people_write_them() {
        for (text, millis) in
            [("500ms", 500), ("20s", 20_000), ("10m", 600_000), ("1h30m", 5_400_000), ("0s", 0)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_span_is_refused_with_the_text_and_the_remedy() {
        for text in
            ["", "5", "m", "5d", "-5s", "1.5s", "5 s", "99999999999999999999s", "18446744073709551615h"]
        {
            let message = parse(text).expect_err(text).to_string();
            assert!(message.contains(&format!("{text:?}")) && message.contains("20s"), "{message}");
        }
    }

    #[test]
    fn spans_are_written_short() {
        for (millis, text) in [
            (0, "0s"),
            (250, "250ms"),
            (12_400, "12s"),
            (108_000, "1m48s"),
            (600_000, "10m"),
            (5_430_000, "1h30m"),
        ] {
            assert_eq!(format(Duration::from_millis(millis)), text);
        }
    }
}
