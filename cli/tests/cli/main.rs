//! The real `bigv` against a fake brain, with a temporary home.
#![forbid(unsafe_code)]

mod brain;
mod fixtures;
mod program;

mod arguments;
mod console;
mod failures;
mod migrations;
mod profiles;
mod shows;
mod terminal;
mod waits;
