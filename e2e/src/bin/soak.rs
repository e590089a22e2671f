//! `cargo soak`.
fn main() {}
