use super::*;

/// A failover of the demo, as Prometheus saw it.
fn recorded() -> Record {
    serde_json::from_str(include_str!("../recorded.json")).expect("a record")
}

#[test]
fn every_phase_is_named_with_how_long_it_took_and_what_it_is() {
    let record = recorded();
    let page = render(&record);
    let phases = &record.operations[0].phases;
    assert_eq!(
        phases.iter().map(|phase| phase.name.as_str()).collect::<Vec<_>>(),
        ["Detect", "Fence", "Restore", "AwaitFence", "Promote", "TakeOwnership", "ScaleUp", "AwaitReady"]
    );
    for phase in phases {
        assert!(page.contains(&format!(">{}</text>", phase.name)), "{} is not drawn", phase.name);
        let row = format!("<tr><td>{}</td><td class=\"n\">", phase.name);
        assert!(page.contains(&row), "{} is not in the table", phase.name);
        assert!(page.contains(&format!("{:.3} s</td>", phase.took)), "{} has no duration", phase.name);
        assert_ne!(meaning(&phase.name), meaning("no phase"), "nobody says what {} is", phase.name);
    }
}

#[test]
fn the_figures_are_those_that_were_measured_and_announced() {
    let page = render(&recorded());
    for told in [
        "<h1>shop failed over from east to west; it was away for 7.88 s</h1>",
        "<span class=\"ok\">within</span> the 29.7 s that was announced",
        "3.94 s",
        "3.03 s was expected right before",
        "<b>east</b> was last heard at 07:50:07.936",
    ] {
        assert!(page.contains(told), "{told:?} is not told");
    }
    let mut slow = recorded();
    slow.operations[0].downtime = Some(40.0);
    assert!(render(&slow).contains("<span class=\"over-it\">over</span> the 29.7 s that was announced"));
}

#[test]
fn the_phases_add_up_to_the_time_without_the_application() {
    let record = recorded();
    let operation = &record.operations[0];
    let sum: f64 = operation.phases.iter().map(|phase| phase.took).sum();
    let downtime = operation.downtime.expect("a downtime");
    assert!((sum - downtime).abs() < 0.05 * downtime, "{sum} of {downtime}");
}

#[test]
fn text_from_elsewhere_stays_text() {
    let mut record = recorded();
    let evil = "\"><script>alert(1)</script><b onload='x'>&";
    evil.clone_into(&mut record.namespace);
    evil.clone_into(&mut record.placement);
    evil.clone_into(&mut record.operations[0].kind);
    evil.clone_into(&mut record.operations[0].from);
    evil.clone_into(&mut record.operations[0].to);
    evil.clone_into(&mut record.operations[0].result);
    evil.clone_into(&mut record.operations[0].phases[0].name);
    evil.clone_into(&mut record.owner.name);
    for lane in record.sites.iter_mut().chain([&mut record.owner]) {
        evil.clone_into(&mut lane.name);
        lane.stays.iter_mut().for_each(|stay| evil.clone_into(&mut stay.state));
    }
    record.lags.iter_mut().for_each(|curve| evil.clone_into(&mut curve.name));
    for alert in &mut record.alerts {
        evil.clone_into(&mut alert.name);
        evil.clone_into(&mut alert.severity);
        evil.clone_into(&mut alert.about);
    }
    let page = render(&record);
    for markup in ["<script", "onload='", "alert(1)</"] {
        assert!(!page.contains(markup), "{markup} got through");
    }
    assert!(page.matches("&lt;script&gt;").count() > 15, "it is told as text");
}

#[test]
fn the_page_needs_nothing_from_elsewhere_and_runs_nothing() {
    let page = render(&recorded());
    for from_elsewhere in ["http://", "https://", "src=", "url(", "@import", "<script", "<link"] {
        assert!(!page.contains(from_elsewhere), "{from_elsewhere} is in the page");
    }
    assert!(page.contains("prefers-color-scheme: dark") && page.contains("lang=\"en\""));
    assert_eq!(page.matches("<svg").count(), page.matches("role=\"img\" aria-label=\"").count());
    assert_eq!(page.matches("<svg").count(), 4);
}

#[test]
fn a_move_there_and_back_is_told_as_two() {
    let mut record = recorded();
    let back = Operation {
        kind: "Migrate".to_owned(),
        from: "west".to_owned(),
        to: "east".to_owned(),
        downtime: Some(3.0),
        ..record.operations[0].clone()
    };
    record.operations.push(back);
    let page = render(&record);
    let title = "shop failed over from east to west; it was away for 7.88 s, then moved from west to east; it was away for 3 s";
    assert!(page.contains(&format!("<h1>{title}</h1>")), "{page}");
    assert!(
        page.contains("Where the time went: east to west")
            && page.contains("Where the time went: west to east")
    );
}

#[test]
fn a_curve_is_broken_where_nothing_was_known() {
    let mut record = recorded();
    let whole = render(&record).matches("L").count();
    for curve in &mut record.lags {
        curve.points.drain(10..20);
    }
    let broken = render(&record);
    let path =
        broken.split("class=\"curve c1\"").nth(1).and_then(|rest| rest.split('>').next()).expect("a curve");
    assert_eq!(path.matches('M').count(), 2, "{path}");
    assert!(broken.matches("L").count() < whole);
}

#[test]
fn what_was_never_seen_leaves_a_page_that_says_so() {
    let mut record = recorded();
    record.operations.clear();
    record.alerts.clear();
    record.lags.clear();
    let page = render(&record);
    assert!(page.contains("<h1>Nothing happened</h1>") && !page.contains("NaN"), "{page}");
}
