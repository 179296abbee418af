//! What is going on while we wait: on a terminal a spinner, with a bar once it is known how much is done; else a line
//! whenever there is news.

use super::{one_line, say};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

/// On a terminal, while it is not known how much is done.
const SPINNER: &str = "{spinner} {wide_msg} {elapsed}";
/// And once it is.
const BAR: &str = "{spinner} [{bar:20}] {pos:>3}% {wide_msg} {elapsed}";

/// Without a terminal a line is written when so many per cent more are done.
const STEP_PERCENT: u64 = 10;

/// News of one wait.
pub struct Progress {
    name: String,
    started: Instant,
    bar: Option<ProgressBar>,
    last: Option<(String, Option<u64>)>,
}

impl Progress {
    /// For the thing called `name`.
    pub fn new(name: &str) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(100);
            set_style(&bar, SPINNER);
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { name: one_line(name), started: Instant::now(), bar, last: None }
    }

    /// Shows the news, if they are new.
    pub fn show(&mut self, text: &str, percent: Option<u64>) {
        let text = one_line(text);
        if let Some(bar) = &self.bar {
            set_style(bar, if percent.is_some() { BAR } else { SPINNER });
            bar.set_position(percent.unwrap_or(0));
            bar.set_message(format!("{}: {text}", self.name));
            self.last = Some((text, percent));
            return;
        }
        let is_news = match &self.last {
            Some((old, old_percent)) => {
                words(old) != words(&text) || percent.unwrap_or(0) >= old_percent.unwrap_or(0) + STEP_PERCENT
            }
            None => true,
        };
        if is_news {
            let percent_shown = percent.map(|n| format!(" {n}%")).unwrap_or_default();
            say(&format!("{}: {text}{percent_shown} ({} s)", self.name, self.started.elapsed().as_secs()));
            self.last = Some((text, percent));
        }
    }

    /// The last news.
    pub fn last(&self) -> &str {
        self.last.as_ref().map_or("none", |(text, _)| text)
    }

    /// Takes the spinner away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A text without its numbers: speeds and seconds that change all the time are no news by themselves.
fn words(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// The templates are this file's own, and right.
fn set_style(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
}
