//! How stories of moves begin, and what people say in them.

use hub_core::Event;
use hub_core::approval::Approval;
use proto::{Divergence, Epoch, Generation, Role};

use super::{Story, cluster};

/// East's application, and the user prefers west now.
pub fn moving() -> Story {
    moving_where(|_| {})
}

pub fn moving_where(prepare: impl FnOnce(&mut Story)) -> Story {
    let mut story = Story::protected();
    prepare(&mut story);
    story.say("the user prefers west");
    story.edit(|placement| placement.preferred = cluster("west"));
    story
}

/// East was lost and west has taken over; east is back, stopped, with its outdated copy.
pub fn after_a_disaster() -> Story {
    let mut story = Story::protected();
    story.kill("east");
    story.pass(14_000);
    assert_eq!(story.holder().as_deref(), Some("west"), "{}", story.told());
    story.forget_what_was_told();
    story.say("east returns, and fences itself before it speaks");
    let east = story.member("east");
    (east.up, east.role, east.epoch) = (true, Role::Fenced, Epoch(1));
    (east.pods, east.wants, east.divergence) = (0, 0, Divergence::Unknown);
    for member in &mut story.members {
        member.sees.values_mut().for_each(|sees| *sees = true);
    }
    story.pass(3000);
    story
}

pub fn approve(story: &mut Story, operation: &str, epoch: u64) {
    let generation = story.placement.generation;
    answer(story, operation, epoch, generation, true);
}

pub fn answer(story: &mut Story, operation: &str, epoch: u64, generation: Generation, approve: bool) {
    let word = if approve { "approves" } else { "declines" };
    story.say(&format!("ops {word} {operation}"));
    story.step(Event::ApprovalSeen(Box::new(approval(operation, epoch, generation, approve))));
}

pub fn approval(operation: &str, epoch: u64, generation: Generation, approve: bool) -> Approval {
    Approval {
        namespace: "shop".to_owned(),
        name: format!("answer-to-{operation}"),
        operation: operation.to_owned(),
        placement: "shop".to_owned(),
        epoch: Epoch(epoch),
        generation,
        approver: "ops".to_owned(),
        approve,
        asserts_off: None,
        expires: None,
        created: None,
    }
}
