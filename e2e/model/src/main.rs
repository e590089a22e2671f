use model::rule::Rule;
use model::scope::SCOPES;
use model::search::{Found, search};
fn show(found: &Found, rule: Option<Rule>, path: bool) {
    let what =
        found.violation.as_ref().map(|it| format!("{} in {}", it.property, it.steps())).unwrap_or_default();
    println!(
        "{:30} {:24} {:>9} {:>6.1}s {} {}",
        format!("{rule:?}"),
        found.scope.name,
        found.states,
        found.took.as_secs_f64(),
        if found.completed { "ok" } else { "NO" },
        what
    );
    if path && let Some(it) = &found.violation {
        for (state, step) in &it.path {
            println!(
                "    {:?}\n                                      {:?} {:?} {:?} {:?}",
                step, state.hub, state.sites[0], state.sites[1], state.wire
            );
        }
    }
}
fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (a, b) = (args[0].as_str(), args[1].as_str());
    for scope in SCOPES {
        if a != "all" && a != scope.name {
            continue;
        }
        if b == "-" {
            show(&search(*scope, None), None, true);
            continue;
        }
        for rule in Rule::ALL {
            if b != "each" && format!("{rule:?}") != b {
                continue;
            }
            show(&search(*scope, Some(*rule)), Some(*rule), b != "each");
        }
    }
}
