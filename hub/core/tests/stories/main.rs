//! What the hub decides, told as stories.

mod story;

mod golden;
mod later_claims;

mod adversity;
mod fleet;
mod planned;
