//! The one loop: ask, hear, look at the clock; and what follows when there is no lease any more.

use std::error::Error;
use std::io::Write;
use std::time::Duration;

use proto::{GateNonce, Moment};
use rustix::rand::{GetRandomFlags, getrandom};
use thiserror::Error;

use crate::clock;
use crate::conversation::Conversation;
use crate::ending::{Act, Ending};
use crate::judge;
use crate::lease::Gate;
use crate::memory::{Memory, MemoryError};
use crate::sandbox::{Sandbox, SandboxError};
use crate::settings::{Part, Settings};

/// No wait is cut finer than this; the protocol's `stop` allows for a tick of 100 ms.
const TICK: Duration = Duration::from_millis(20);
/// Answers taken before the clock is looked at again.
const AT_ONCE: usize = 16;

#[derive(Debug, Error)]
pub enum GateError {
    #[error("looking at the pod")]
    Sandbox(#[from] SandboxError),
    #[error("keeping the lease")]
    Memory(#[from] MemoryError),
    #[error("making a nonce")]
    Random(#[source] std::io::Error),
}

/// Waits for a lease and returns, or guards one and does not return.
pub fn run(settings: Settings) -> Result<(), GateError> {
    let sandbox = Sandbox::find()?;
    let memory = Memory::open(settings.memory.clone(), sandbox.began)?;
    match settings.part {
        Part::Wait => wait(settings, &memory),
        Part::Guard => guard(settings, &sandbox, &memory),
    }
}

fn wait(settings: Settings, memory: &Memory) -> Result<(), GateError> {
    let mut watch = Watch::new(Gate::new(settings.who.clone()), settings);
    say("waiting for the lease");
    loop {
        watch.step(memory)?;
        if watch.gate.may_start(clock::now()) {
            say("there is a lease: the application may start");
            return Ok(());
        }
    }
}

fn guard(settings: Settings, sandbox: &Sandbox, memory: &Memory) -> ! {
    let who = settings.who.clone();
    let gate = match memory.read() {
        Some(remembered) => Gate::resumed(who, remembered),
        // Whatever runs here was started without a lease that anybody knows of.
        None => Gate::new(who),
    };
    let mut watch = Watch::new(gate, settings);
    say("guarding the lease");
    loop {
        let now = clock::now();
        match watch.gate.deadline() {
            Some(deadline) if now < deadline => {}
            Some(deadline) => end(sandbox, deadline, watch.gate.grace()),
            None => end(sandbox, now, Duration::ZERO),
        }
        if let Err(error) = watch.step(memory) {
            // The lease goes on: at worst a gate that is started again does not know it.
            say(&whole(&error));
        }
    }
}

/// From here there is no way back: a lease that comes now is for the next sandbox.
fn end(sandbox: &Sandbox, deadline: Moment, grace: Duration) -> ! {
    say(&format!("the lease ended at {:.3}: the application is ended", seconds(deadline)));
    let mut ending = Ending::new(deadline, grace);
    let mut ended = false;
    loop {
        let processes = sandbox.processes().unwrap_or_else(|error| {
            // What cannot be seen is ended unseen.
            say(&whole(&error));
            Vec::new()
        });
        match ending.next(clock::now(), &processes) {
            Act::Wait => {}
            Act::Ask(processes) => complain(sandbox.ask(&processes)),
            Act::EndSandbox => {
                if !ended {
                    say("the sandbox is ended");
                }
                complain(sandbox.end());
                if ended {
                    complain(sandbox.kill_the_others());
                }
                ended = true;
            }
        }
        std::thread::sleep(TICK);
    }
}

struct Watch {
    gate: Gate,
    settings: Settings,
    conversation: Conversation,
    refused: Option<String>,
}

impl Watch {
    fn new(gate: Gate, settings: Settings) -> Watch {
        let conversation = Conversation::begin(settings.agent.clone());
        Watch { gate, settings, conversation, refused: None }
    }

    /// One tick.
    fn step(&mut self, memory: &Memory) -> Result<(), GateError> {
        if let Some(jump) = self.gate.compare_clocks(clock::now(), clock::wall()) {
            say(&format!("the clocks have parted by {jump:?}: the lease is suspended"));
        }
        if self.gate.is_question_due(clock::now()) {
            let nonce = nonce()?;
            let question = self.gate.ask(clock::now(), nonce);
            self.conversation.ask(question, self.gate.period());
        }
        let mut heard = false;
        let mut patience = TICK;
        for _ in 0..AT_ONCE {
            let Some(answer) = self.conversation.answer(patience) else { break };
            patience = Duration::ZERO;
            let judged =
                judge::hear(&mut self.gate, &self.settings.authorities, clock::now(), clock::wall(), &answer);
            match judged {
                Ok(()) => heard = true,
                Err(error) => self.tell_once(whole(&error)),
            }
        }
        if heard {
            self.refused = None;
            if let Some(remembered) = self.gate.remembered() {
                memory.write(remembered)?;
            }
        }
        Ok(())
    }

    fn tell_once(&mut self, refused: String) {
        if self.refused.as_ref() != Some(&refused) {
            say(&refused);
            self.refused = Some(refused);
        }
    }
}

fn nonce() -> Result<GateNonce, GateError> {
    let mut bytes = [0; 16];
    getrandom(&mut bytes, GetRandomFlags::empty()).map_err(|error| GateError::Random(error.into()))?;
    Ok(GateNonce::of_bytes(bytes))
}

fn complain(result: Result<(), SandboxError>) {
    if let Err(error) = result {
        say(&whole(&error));
    }
}

/// A line in the container's log.
pub fn say(what: &str) {
    // A log that nobody reads any more must not end the gate before it has ended the application.
    let _nobody_reads = writeln!(std::io::stderr(), "understudy-gate: {:.3} {what}", seconds(clock::now()));
}

fn seconds(moment: Moment) -> f64 {
    moment.0 as f64 / 1000.0
}

/// An error with its causes, in one line.
pub fn whole(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
