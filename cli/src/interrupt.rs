//! Ctrl-C: says what goes on without us, puts the terminal back, and ends with exit code 255.
//!
//! SIGINT is blocked in every thread and one thread waits for it, so no code runs in a signal
//! handler. Nothing is ever cancelled at the brain.

use crate::{error::Error, exit::Exit, output};
use nix::sys::{
    signal::{SigSet, Signal},
    termios::{SetArg, Termios, tcsetattr},
};
use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

static AT_INTERRUPT: Mutex<AtInterrupt> = Mutex::new(AtInterrupt { note: None, terminal: None });

struct AtInterrupt {
    note: Option<String>,
    terminal: Option<Termios>,
}

/// Starts waiting for SIGINT. To be called before any other thread is started, which then inherits
/// the blocked signal.
pub fn watch() -> Result<(), Error> {
    let interrupt = SigSet::from(Signal::SIGINT);
    let cannot = |e: &dyn std::error::Error| Error::System(format!("cannot watch for Ctrl-C: {e}"));
    interrupt.thread_block().map_err(|e| cannot(&e))?;
    thread::Builder::new()
        .name("interrupt".into())
        .spawn(move || {
            while interrupt.wait() != Ok(Signal::SIGINT) {}
            let state = lock();
            if let Some(terminal) = &state.terminal {
                // There is nobody left to tell if this fails.
                let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, terminal);
            }
            output::interrupted(state.note.as_deref());
            std::process::exit(Exit::Interrupted.code().into());
        })
        .map(drop)
        .map_err(|e| cannot(&e))
}

/// Lets SIGINT through again: for a program that takes this one's place.
pub fn release() {
    // Where this fails that program only ignores Ctrl-C.
    let _ = SigSet::from(Signal::SIGINT).thread_unblock();
}

/// What to say at an interrupt: what goes on, and how to look again.
pub fn set_note(note: Option<String>) {
    lock().note = note;
}

/// What to make of the terminal at an interrupt.
pub fn set_terminal(terminal: Option<Termios>) {
    lock().terminal = terminal;
}

fn lock() -> MutexGuard<'static, AtInterrupt> {
    AT_INTERRUPT.lock().unwrap_or_else(PoisonError::into_inner)
}
