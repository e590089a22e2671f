//! The page: what happened, in words first, then in time, then in numbers. One file, without a script or anything from elsewhere.

use jiff::Timestamp;

use super::drawing::{Axis, Bar, Drawing, Escaped, Guide, seconds};
use super::{Alert, Lane, Operation, Phase, Record, Stay};
use crate::prometheus::Span;

const STYLE: &str = include_str!("page.css");
/// How many colours the curves have; more volumes share them.
const COLOURS: usize = 4;
/// So many looks without a value, and a curve is broken there.
const UNBROKEN: f64 = 2.5;

/// Tells everything that was seen.
pub fn render(record: &Record) -> String {
    let main = record.operations.first();
    let axis =
        Axis { span: record.seen.span, zero: main.map_or(record.seen.span.from, |operation| operation.zero) };
    let title = main.map_or_else(|| "Nothing happened".to_owned(), |operation| headline(record, operation));
    let parts = [
        head(record, main, &title),
        figures(record, main),
        record.operations.iter().map(|operation| waterfall(axis, operation)).collect(),
        sites(axis, record),
        losses(axis, record),
        alerts(axis, record),
        source(record),
    ];
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{}</main>\n</body>\n</html>\n",
        Escaped(&title),
        parts.concat()
    )
}

/// The first operation in whole words, and what came after it.
fn headline(record: &Record, first: &Operation) -> String {
    let rest = record.operations.iter().skip(1).map(|operation| format!(", then {}", in_words(operation)));
    format!("{} {}{}", record.placement, in_words(first), rest.collect::<String>())
}

fn in_words(operation: &Operation) -> String {
    let Operation { kind, from, to, .. } = operation;
    let did = match kind.as_str() {
        "FailOver" => "failed over",
        "FailBack" => "went back",
        "Migrate" => "moved",
        _ => return format!("went through {kind}"),
    };
    let away = operation.downtime.map(|downtime| format!("; it was away for {}", seconds(downtime)));
    format!("{did} from {from} to {to}{}", away.unwrap_or_default())
}

fn head(record: &Record, main: Option<&Operation>, title: &str) -> String {
    let mut lead = String::new();
    if let Some(operation) = main {
        lead = told(operation);
    }
    format!(
        "<header>\n<p class=\"over\">Understudy · {} · {}</p>\n<h1>{}</h1>\n<p class=\"lead\">{lead}</p>\n</header>\n",
        Escaped(&format!("{}/{}", record.namespace, record.placement)),
        clock(main.map_or(record.seen.span.from, |operation| operation.zero), "%Y-%m-%d %H:%M:%S UTC"),
        Escaped(title)
    )
}

/// The story in three sentences.
fn told(operation: &Operation) -> String {
    let Operation { kind, from, to, zero, phases, .. } = operation;
    let longest = phases.iter().max_by(|one, other| one.took.total_cmp(&other.took));
    let longest = longest.map_or_else(String::new, |phase| {
        format!(
            " The longest part was <b>{}</b>, {}: {}.",
            Escaped(&phase.name),
            seconds(phase.took),
            Escaped(meaning(&phase.name))
        )
    });
    let detected = phases.iter().find(|phase| phase.name == "Detect");
    match (kind.as_str(), detected) {
        ("FailOver", Some(detected)) => format!(
            "<b>{}</b> was last heard at {}. The hub decided {} later, and <b>{}</b> served again {} after that.{longest}",
            Escaped(from),
            clock(*zero, "%H:%M:%S%.3f"),
            seconds(detected.took),
            Escaped(to),
            seconds(operation.ended - zero - detected.took),
        ),
        _ => format!(
            "It was decided at {}, and had ended {} later: {}.{longest}",
            clock(*zero, "%H:%M:%S%.3f"),
            seconds(operation.ended - zero),
            Escaped(&operation.result),
        ),
    }
}

fn figures(record: &Record, main: Option<&Operation>) -> String {
    let Some(operation) = main else { return String::new() };
    let mut cards = String::new();
    if let Some(downtime) = operation.downtime {
        let note = operation.promised_downtime.map(|promised| compared(downtime, promised, "announced"));
        cards += &card("Away (measured RTO)", &seconds(downtime), &note.unwrap_or_default());
    }
    if let Some(loss) = operation.data_loss {
        let bound = record.bound.map(|bound| compared(loss, bound, "allowed")).unwrap_or_default();
        let expected = operation.promised_loss.map_or_else(String::new, |promised| {
            format!("<div class=\"note\">{} was expected right before</div>", seconds(promised))
        });
        cards += &card("Given up (measured RPO)", &seconds(loss), &format!("{bound}{expected}"));
    } else if operation.downtime.is_some() {
        cards += &card("Given up", "nothing", "<div class=\"note\">a planned move loses no write</div>");
    }
    if let Some(longest) = operation.phases.iter().max_by(|one, other| one.took.total_cmp(&other.took)) {
        let whole: f64 = operation.phases.iter().map(|phase| phase.took).sum();
        let note = format!(
            "<div class=\"note\">{}, {:.0} % of the time</div>",
            Escaped(&longest.name),
            100.0 * longest.took / whole
        );
        cards += &card("Longest part", &seconds(longest.took), &note);
    }
    let fired = record.alerts.iter().filter(|alert| fires(alert)).count();
    let stand = record.alerts.iter().filter(|alert| stands(alert, record.seen.span.to)).count();
    let note = format!("<div class=\"note\">{stand} of them still at the end of this page</div>");
    cards += &card("Alerts that fired", &fired.to_string(), &note);
    format!("<dl class=\"figures\">\n{cards}</dl>\n")
}

fn card(name: &str, value: &str, note: &str) -> String {
    format!("<div class=\"figure\"><dt>{name}</dt><dd><div class=\"value\">{value}</div>{note}</dd></div>\n")
}

/// A measure beside what it may be, as a bar and in words.
fn compared(measured: f64, limit: f64, word: &str) -> String {
    let share = (100.0 * measured / limit).clamp(0.0, 100.0);
    let (class, verdict) = if measured <= limit {
        ("", "<span class=\"ok\">within</span>")
    } else {
        (" class=\"too-much\"", "<span class=\"over-it\">over</span>")
    };
    format!(
        "<div class=\"gauge\" aria-hidden=\"true\"><i{class} style=\"width:{share:.0}%\"></i></div><div class=\"note\">{verdict} the {} that was {word}</div>",
        seconds(limit)
    )
}

fn waterfall(axis: Axis, operation: &Operation) -> String {
    let described: Vec<String> =
        operation.phases.iter().map(|phase| format!("{} {}", phase.name, seconds(phase.took))).collect();
    let mut drawing = Drawing::new(
        axis,
        &format!("Phases of the {}", operation.kind),
        &described.join(", "),
        &guides(operation),
    );
    drawing.name_guides();
    let whole = Span { from: operation.zero, to: operation.ended };
    let label = seconds(whole.to - whole.from);
    let hint = format!("{} in all: {label}", operation.kind);
    drawing.row(
        &operation.kind,
        &[Bar { span: whole, class: "whole", label: &label, beside: true, hint: &hint }],
    );
    for phase in &operation.phases {
        let Phase { name, begins, took } = phase;
        let span = Span { from: *begins, to: begins + took };
        let hint = format!("{name}: {}, {}", seconds(*took), meaning(name));
        drawing.row(
            name,
            &[Bar { span, class: family(name), label: &seconds(*took), beside: true, hint: &hint }],
        );
    }
    let rows: String = operation.phases.iter().map(|phase| phase_row(phase, operation)).collect();
    format!(
        "<section>\n<h2>Where the time went{}</h2>\n<p>Each part as long as the hub measured it; seconds count from {}. A part that took no time was done before its turn came.</p>\n\
         {}<div class=\"scroll\">{}</div>\n<details><summary>The same in numbers</summary><table><thead><tr><th>Part</th><th class=\"n\">Begins</th><th class=\"n\">Takes</th><th class=\"n\">Share</th><th>Which is</th></tr></thead><tbody>{rows}</tbody></table></details>\n</section>\n",
        way(operation),
        if operation.kind == "FailOver" { "the last sign of life" } else { "the decision" },
        legend(&[
            ("notice", "noticing"),
            ("wait", "waiting for safety"),
            ("storage", "storage"),
            ("start", "starting")
        ]),
        drawing.finish()
    )
}

/// From where to where, if the application went anywhere.
fn way(operation: &Operation) -> String {
    let Operation { from, to, .. } = operation;
    if from == to { String::new() } else { format!(": {} to {}", Escaped(from), Escaped(to)) }
}

fn phase_row(phase: &Phase, operation: &Operation) -> String {
    let whole: f64 = operation.phases.iter().map(|phase| phase.took).sum();
    format!(
        "<tr><td>{}</td><td class=\"n\">+{:.3} s</td><td class=\"n\">{:.3} s</td><td class=\"n\">{:.0} %</td><td>{}</td></tr>",
        Escaped(&phase.name),
        phase.begins - operation.zero,
        phase.took,
        100.0 * phase.took / whole.max(f64::MIN_POSITIVE),
        Escaped(meaning(&phase.name))
    )
}

/// The last sign of life, the decision, and the end.
fn guides(operation: &Operation) -> Vec<Guide> {
    let detected = operation.phases.iter().find(|phase| phase.name == "Detect");
    let begins = if detected.is_some() { "last sign of life" } else { "decided" };
    let decided = detected.map(|phase| Guide { at: operation.zero + phase.took, name: "decided" });
    let ended = if operation.downtime.is_some() { "serves again" } else { "ended" };
    let both = [Guide { at: operation.zero, name: begins }, Guide { at: operation.ended, name: ended }];
    both.into_iter().chain(decided).collect()
}

fn all_guides(record: &Record) -> Vec<Guide> {
    record.operations.iter().flat_map(guides).collect()
}

fn sites(axis: Axis, record: &Record) -> String {
    let described: Vec<String> = record.sites.iter().map(lane_in_words).collect();
    let mut drawing =
        Drawing::new(axis, "Liveness of the clusters", &described.join("; "), &all_guides(record));
    for lane in &record.sites {
        let classes: Vec<String> = lane.stays.iter().map(|stay| stay.state.to_lowercase()).collect();
        drawing.row(&lane.name, &bars(&lane.stays, &classes));
    }
    let classes = vec!["owner".to_owned(); record.owner.stays.len()];
    drawing.row("owns the data", &bars(&record.owner.stays, &classes));
    format!(
        "<section>\n<h2>The clusters meanwhile</h2>\n<p>As the hub held them: it suspects a cluster before it calls it lost, and it moves nothing for a suspicion.</p>\n\
         <div class=\"scroll\">{}</div>\n</section>\n",
        drawing.finish()
    )
}

fn lane_in_words(lane: &Lane) -> String {
    let stays: Vec<String> = lane.stays.iter().map(|stay| stay.state.clone()).collect();
    format!("{}: {}", lane.name, stays.join(", then "))
}

fn bars<'a>(stays: &'a [Stay], classes: &'a [String]) -> Vec<Bar<'a>> {
    let of = |(stay, class): (&'a Stay, &'a String)| Bar {
        span: stay.span,
        class: known(class),
        label: &stay.state,
        beside: false,
        hint: &stay.state,
    };
    stays.iter().zip(classes).map(of).collect()
}

/// A class of the style, and never a text from elsewhere.
fn known(class: &str) -> &'static str {
    const KNOWN: [&str; 9] =
        ["live", "suspected", "lost", "unheard", "owner", "pending", "critical", "warning", "info"];
    KNOWN.into_iter().find(|known| *known == class).unwrap_or("wait")
}

fn losses(axis: Axis, record: &Record) -> String {
    let classes: Vec<String> =
        (0..record.lags.len()).map(|number| format!("c{}", number % COLOURS + 1)).collect();
    let mut curves = vec![("expected loss", "c0", record.expected_loss.as_slice())];
    let of_volumes = record.lags.iter().zip(&classes);
    curves.extend(
        of_volumes.map(|(curve, class)| (curve.name.as_str(), class.as_str(), curve.points.as_slice())),
    );
    let worst =
        curves.iter().flat_map(|(_, _, points)| points.iter().map(|point| point.value)).fold(0.0, f64::max);
    // A bound far above everything would press all curves to the ground.
    let near = record.bound.filter(|bound| *bound <= 3.0 * worst);
    let name = near.map(|bound| format!("allowed: {}", seconds(bound)));
    let lines: Vec<(f64, &str)> = near.into_iter().zip(name.as_deref()).collect();
    let mut drawing =
        Drawing::new(axis, "Age of the copies", &format!("At worst {}", seconds(worst)), &all_guides(record));
    drawing.curves(&curves, &lines, UNBROKEN * record.seen.every);
    let allowed = record.bound.map_or_else(String::new, |bound| {
        format!(" {} may be lost, by the placement; beyond that nothing would be moved.", seconds(bound))
    });
    let named: Vec<(&str, &str)> = curves.iter().map(|(name, class, _)| (*class, *name)).collect();
    format!(
        "<section>\n<h2>What would be lost</h2>\n<p>How old the newest whole copy of each volume is. When the active cluster falls silent nothing is copied any more, and the age grows until the copy itself is promoted.{allowed}</p>\n\
         {}<div class=\"scroll\">{}</div>\n</section>\n",
        legend(&named),
        drawing.finish()
    )
}

fn alerts(axis: Axis, record: &Record) -> String {
    let mut drawing = Drawing::new(
        axis,
        "Alerts",
        &record.alerts.iter().map(|alert| alert.name.as_str()).collect::<Vec<_>>().join(", "),
        &all_guides(record),
    );
    let mut shown: Vec<&Alert> = record.alerts.iter().collect();
    // Those that fired first, in this order; the others were only on their way.
    shown.sort_by(|one, other| fired_at(one).total_cmp(&fired_at(other)));
    for alert in &shown {
        let classes: Vec<String> = alert
            .stays
            .iter()
            .map(|stay| if stay.state == "firing" { alert.severity.clone() } else { "pending".to_owned() })
            .collect();
        drawing
            .row(alert.name.strip_prefix("Understudy").unwrap_or(&alert.name), &bars(&alert.stays, &classes));
    }
    let rows: String = shown.iter().map(|alert| alert_row(alert, axis, record.seen.span.to)).collect();
    format!(
        "<section>\n<h2>Alerts</h2>\n<p>Those of deploy/alerts, with every waiting time divided by {}. Each has a page in docs/runbooks, by its name.</p>\n\
         {}<div class=\"scroll\">{}</div>\n<details><summary>The same in numbers</summary><table><thead><tr><th>Alert</th><th>About</th><th>Severity</th><th class=\"n\">Fired at</th><th class=\"n\">Until</th></tr></thead><tbody>{rows}</tbody></table></details>\n</section>\n",
        record.seen.quicker,
        legend(&[("critical", "critical"), ("warning", "warning"), ("info", "info"), ("pending", "pending")]),
        drawing.finish()
    )
}

fn alert_row(alert: &Alert, axis: Axis, end: f64) -> String {
    let mut firing = alert.stays.iter().filter(|stay| stay.state == "firing");
    let (first, last) = (firing.clone().next(), firing.next_back());
    let at = |moment: f64| format!("{:+.1} s", moment - axis.zero);
    let fired = first.map_or_else(|| "pending only".to_owned(), |stay| at(stay.span.from));
    let until = last.map_or_else(String::new, |stay| {
        if stands(alert, end) { "still fires".to_owned() } else { at(stay.span.to) }
    });
    format!(
        "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"n\">{fired}</td><td class=\"n\">{until}</td></tr>",
        Escaped(&alert.name),
        Escaped(&alert.about),
        Escaped(&alert.severity)
    )
}

fn fires(alert: &Alert) -> bool {
    fired_at(alert).is_finite()
}

fn fired_at(alert: &Alert) -> f64 {
    let first = alert.stays.iter().find(|stay| stay.state == "firing");
    first.map_or(f64::INFINITY, |stay| stay.span.from)
}

fn stands(alert: &Alert, end: f64) -> bool {
    alert.stays.iter().any(|stay| stay.state == "firing" && stay.span.to >= end - 1.0)
}

fn source(record: &Record) -> String {
    let queries: String = super::gathering::QUERIES
        .iter()
        .map(|query| format!("<li><code>{}</code></li>", Escaped(query)))
        .collect();
    format!(
        "<footer>\n<details><summary>All of this was asked of Prometheus, which looked every {:.0} ms. The queries</summary><ul>{queries}</ul></details>\n</footer>\n",
        record.seen.every * 1000.0
    )
}

fn legend(entries: &[(&str, &str)]) -> String {
    let entries: String = entries
        .iter()
        .map(|(class, name)| format!("<li><i class=\"{class}\"></i>{}</li>", Escaped(name)))
        .collect();
    format!("<ul class=\"legend\" aria-hidden=\"true\">{entries}</ul>\n")
}

/// What kind of work a phase is.
fn family(phase: &str) -> &'static str {
    match phase {
        "Detect" => "notice",
        "Fence" | "AwaitFence" | "ScaleDown" => "wait",
        "TakeOwnership" | "ScaleUp" | "AwaitReady" => "start",
        _ => "storage",
    }
}

fn meaning(phase: &str) -> &'static str {
    match phase {
        "Detect" => "from the last sign of life to the decision",
        "Fence" => "telling the old holder to stop, if it still hears",
        "AwaitFence" => "until the old holder has certainly stopped, by its own lease",
        "ScaleDown" => "stopping the application at the old holder",
        "BackUp" => "its manifests, as they are after it has stopped",
        "Demote" => "the old copies secondary, and every write across",
        "Restore" => "volumes and claims bound at the target",
        "Promote" => "every volume primary at the target: from here there is no return",
        "TakeOwnership" => "the target holds the placement",
        "ScaleUp" => "starting the application",
        "AwaitReady" => "until it is ready",
        "Resync" => "making the outdated copy anew",
        "AwaitSync" => "until that copy is whole",
        "Rejoin" => "the former holder becomes the standby",
        "Release" => "letting go",
        _ => "a part that this page does not know",
    }
}

fn clock(at: f64, pattern: &str) -> String {
    let moment = Timestamp::from_millisecond((at * 1000.0).round() as i64);
    moment.map(|moment| moment.strftime(pattern).to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
