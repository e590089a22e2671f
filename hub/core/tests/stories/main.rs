//! What the hub decides, told as stories.

mod story;

mod golden;
mod later_claims;

mod adversity;
mod approvals;
mod fleet;
mod gates;
mod moves_survive_the_hub;
mod planned;
mod returns;
mod witness;
