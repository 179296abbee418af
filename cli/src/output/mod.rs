//! The only place that prints. Results go to standard output, everything else to standard error.
//!
//! A command gives an [`Output`]: the JSON as the API has it, and a [`Page`] made of the same data.
//! Nothing a server sends reaches a terminal with control characters in it.

mod human;
pub mod migrations;
pub mod pages;
pub mod progress;
mod table;

use crate::{args::Format, error::Error, exit::Exit};
use serde_json::Value;
use std::io::{self, IsTerminal, Write};

/// What a command has to say.
#[derive(Debug)]
pub struct Output {
    /// For scripts: what the API answered.
    pub json: Value,
    /// For people.
    pub page: Page,
}

impl Output {
    /// A sentence; in JSON it is `{"message": …}`.
    pub fn message(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { json: serde_json::json!({ "message": text }), page: Page::Text(text) }
    }

    /// Text that is the same in every format: help, completion.
    pub fn raw(text: String) -> Self {
        Self { json: Value::Null, page: Page::Raw(text) }
    }
}

/// What people see, without how.
#[derive(Clone, Debug)]
pub enum Page {
    /// A sentence.
    Text(String),
    /// Text that goes out as it is, made by `bigv` itself.
    Raw(String),
    /// What there is to know about one thing.
    Facts(Vec<(&'static str, String)>),
    /// Many things of a kind.
    List {
        /// A heading, when it is part of more.
        title: Option<&'static str>,
        /// What the columns are.
        headers: Vec<&'static str>,
        /// One thing a row.
        rows: Vec<Vec<String>>,
        /// What to say when there are none.
        none: String,
    },
    /// One after another.
    Several(Vec<Page>),
}

/// Prints a result.
pub fn print(output: &Output, format: Format) -> Result<(), Error> {
    let text = match (&output.page, format) {
        (Page::Raw(text), _) => text.clone(),
        (page, Format::Human) => human::render(page),
        (page, Format::Table) => table::render(page),
        // Escaped by the writer, so there is nothing to filter.
        (_, Format::Json) => format!("{:#}\n", output.json),
    };
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // Whoever reads has seen enough.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| Error::System(format!("cannot write the result: {e}"))),
    }
}

/// Shows clap's error or help.
pub fn usage(error: &clap::Error) -> Exit {
    // Nothing is left to tell it to if this fails.
    let _ = error.print();
    if error.use_stderr() { Exit::BadInput } else { Exit::Ok }
}

/// Shows why a command did not work, and what to do about it.
pub fn error(error: &Error) {
    say(&format!("bigv: {error}"));
    if let Some(hint) = error.hint() {
        say(&format!("({hint})"));
    }
}

/// Shows something that is not quite right.
pub fn warning(text: &str) {
    say(&format!("bigv: warning: {text}"));
}

/// Shows something worth knowing that is not the result.
pub fn notice(text: &str) {
    say(&format!("bigv: {text}"));
}

/// Shows a question and stays in its line.
pub fn question(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = stderr.write_all(printable(text).as_bytes()).and_then(|()| stderr.flush());
}

/// The last words at Ctrl-C.
pub fn interrupted(note: Option<&str>) {
    if io::stderr().is_terminal() {
        say("");
    }
    match note {
        Some(note) => say(&format!("bigv: interrupted; {note}")),
        None => say("bigv: interrupted; a change that was asked of the brain already is made all the same"),
    }
}

/// A line on standard error. When that is closed there is nobody to tell.
fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", printable(text));
}

/// `text` without what could steer a terminal. Line breaks stay.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if is_printable(c) || c == '\n' { c } else { '\u{fffd}' }).collect()
}

/// `text` in one line, without what could steer a terminal.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if is_printable(c) { c } else { '\u{fffd}' }).collect()
}

/// Control characters, and those that turn the direction of writing round.
fn is_printable(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\nc\u{9b}d\u{202e}e\r"), "a\u{fffd}[2Jb\nc\u{fffd}d\u{fffd}e\u{fffd}");
        assert_eq!(one_line("a\nb"), "a\u{fffd}b");
    }
}
