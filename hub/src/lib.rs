//! The hub around its core: one conversation per file.

pub mod journal_store;
