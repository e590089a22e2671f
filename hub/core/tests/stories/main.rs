//! What the hub decides, told as stories.

mod story;

mod golden;

mod adversity;
