//! Asking. Questions go to standard error; answers are lines of standard input.

use crate::{interrupt, output};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use std::io::{self, BufRead, IsTerminal, Read};

/// The longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 4096;

/// True when there is somebody to ask.
pub fn is_possible() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks for a line; none at the end of input.
pub fn line(question: &str) -> io::Result<Option<String>> {
    output::question(&format!("{question}: "));
    read_line()
}

/// Asks for a password without showing it.
pub fn password(question: &str) -> io::Result<Option<String>> {
    output::question(&format!("{question}: "));
    let before = tcgetattr(io::stdin())?;
    let mut silent = before.clone();
    silent.local_flags.remove(LocalFlags::ECHO);
    silent.local_flags.insert(LocalFlags::ECHONL);
    interrupt::set_terminal(Some(before.clone()));
    tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &silent)?;
    let answer = read_line();
    let restored = tcsetattr(io::stdin(), SetArg::TCSANOW, &before);
    interrupt::set_terminal(None);
    restored?;
    answer
}

/// Asks a question that only `y` or `yes` answers.
pub fn yes(question: &str) -> io::Result<bool> {
    let answer = line(&format!("{question} [y/N]"))?.unwrap_or_default();
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn read_line() -> io::Result<Option<String>> {
    let mut text = String::new();
    let count = io::stdin().lock().take(ANSWER_BYTES_MAX).read_line(&mut text)?;
    Ok((count > 0).then(|| text.trim_end_matches(['\n', '\r']).to_owned()))
}
