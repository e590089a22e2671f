//! The gate in an application's pod: `understudy-gate wait` before it starts, `understudy-gate guard` beside it.

use std::process::ExitCode;

use understudy_gate::guard::{run, say, whole};
use understudy_gate::settings::Settings;

const _: () = assert!(!proto::rule::CAN_BE_SWITCHED_OFF, "what runs in a cluster keeps every safety rule");

fn main() -> ExitCode {
    let part = std::env::args().nth(1);
    let settings = match Settings::read(part.as_deref(), |name| std::env::var(name).ok()) {
        Ok(settings) => settings,
        Err(error) => {
            say(&whole(&error));
            return ExitCode::from(2);
        }
    };
    match run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&whole(&error));
            ExitCode::FAILURE
        }
    }
}
