//! The alerts that users get, read, and made quicker: a federation cannot wait for a quarter of an hour.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct RuleFile {
    groups: Vec<Group>,
}

#[derive(Debug, Deserialize)]
struct Group {
    rules: Vec<Alert>,
}

/// An alert by its name, and the expression that raises it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Alert {
    #[serde(rename = "alert")]
    pub name: String,
    pub expr: String,
}

/// Every alert of a rule file.
pub fn alerts(rules: &str) -> Result<Vec<Alert>> {
    let file: RuleFile = serde_saphyr::from_str(rules).context("parsing the alerts")?;
    Ok(file.groups.into_iter().flat_map(|group| group.rules).collect())
}

/// The same rules with every duration divided: what stands behind `for:`, behind `offset`, and between brackets. Nothing else
/// is touched, so that thresholds, labels and texts are those of the users.
pub fn quickened(rules: &str, quicker: u32) -> Result<String> {
    let mut told = String::with_capacity(rules.len());
    for line in rules.lines() {
        let line = match line.split_once("for: ") {
            Some((indent, span)) if indent.trim().is_empty() => {
                format!("{indent}for: {}", divided(span.trim(), quicker)?)
            }
            _ => behind(&behind(line, "[", quicker)?, " offset ", quicker)?,
        };
        told.push_str(&line);
        told.push('\n');
    }
    Ok(told)
}

/// Divides every duration that stands directly behind the mark.
fn behind(line: &str, mark: &str, quicker: u32) -> Result<String> {
    let mut parts = line.split(mark);
    let mut told = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|letter: char| !letter.is_ascii_alphanumeric()).unwrap_or(part.len());
        let (span, rest) = part.split_at(end);
        told = format!("{told}{mark}{}{rest}", divided(span, quicker)?);
    }
    Ok(told)
}

fn divided(span: &str, quicker: u32) -> Result<String> {
    let divided = parse(span)? / quicker;
    ensure!(divided >= Duration::from_millis(1), "{span} divided by {quicker} is nothing");
    Ok(format!("{}ms", divided.as_millis()))
}

fn parse(span: &str) -> Result<Duration> {
    let unit = span.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(span.len());
    let (number, unit) = span.split_at(unit);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        other => anyhow::bail!("{span}: {other:?} is no unit that the alerts use"),
    };
    let number: u64 = number.parse().with_context(|| format!("{span} is no duration"))?;
    Ok(Duration::from_secs(number * seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_divided_and_nothing_else_is() {
        let rules = "  - alert: A\n    expr: >-\n      rate(a[5m]) > 60 unless a offset 1h\n    for: 15m\n    annotations:\n      summary: wait for: 5m\n";
        let expected = rules
            .replace("[5m]", "[5000ms]")
            .replace("offset 1h", "offset 60000ms")
            .replace("    for: 15m", "    for: 15000ms");
        assert_eq!(quickened(rules, 60).expect("durations"), expected);
    }

    #[test]
    fn a_duration_that_is_not_understood_is_an_error() {
        assert!(quickened("    for: 5 minutes", 60).is_err());
        assert!(quickened("a[1x]", 60).is_err());
    }

    #[test]
    fn every_alert_of_the_users_is_found_and_stays_the_same_alert() {
        let own = super::super::ALERTS;
        let names = |rules: &str| -> Vec<String> {
            alerts(rules).expect("alerts").into_iter().map(|alert| alert.name).collect()
        };
        let quick = quickened(own, 60).expect("durations");
        assert_eq!(names(&quick), names(own));
        assert_eq!(names(own).len(), own.matches("- alert: ").count());
        assert!(!quick.contains("for: 15m") && !quick.contains("[15m]"), "{quick}");
    }
}
