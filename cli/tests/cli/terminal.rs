//! Questions, on a pseudo-terminal.

use crate::{
    brain::Reply,
    fixtures::{VM, brain},
    program::{Bigv, Run, until},
};
use nix::{
    pty::openpty,
    sys::{
        signal::{Signal, kill},
        termios::{LocalFlags, tcgetattr},
    },
    unistd::Pid,
};
use std::{
    fs::File,
    io::{Read, Write},
    process::{Child, Command},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

/// A child on a terminal of its own: standard input and standard error.
struct Terminal {
    child: Child,
    keyboard: File,
    screen: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Terminal {
    fn start(command: &mut Command) -> Self {
        let pty = openpty(None, None).unwrap();
        let child = command.stdin(pty.slave.try_clone().unwrap()).stderr(pty.slave).spawn().unwrap();
        // The command keeps its ends open until it is given others.
        command.stdin(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let keyboard = File::from(pty.master);
        let mut screen_end = keyboard.try_clone().unwrap();
        let screen = Arc::new(Mutex::new(Vec::new()));
        let its_screen = Arc::clone(&screen);
        let reader = thread::spawn(move || {
            let mut bytes = [0; 1024];
            // EIO: the last process on the terminal is gone.
            while let Ok(count @ 1..) = screen_end.read(&mut bytes) {
                its_screen.lock().unwrap().extend_from_slice(&bytes[..count]);
            }
        });
        Self { child, keyboard, screen, reader }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }

    fn expect(&self, text: &str) {
        until(text, || self.shown().contains(text));
    }

    fn type_in(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    fn echoes(&self) -> bool {
        tcgetattr(&self.keyboard).unwrap().local_flags.contains(LocalFlags::ECHO)
    }

    /// Waits for the end; the second is all that was on the screen.
    fn finish(self, bigv: &Bigv) -> (Run, String) {
        let run = bigv.finish(self.child);
        self.reader.join().unwrap();
        let shown = String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned();
        (run, shown)
    }
}

#[test]
fn only_yes_is_yes() {
    for (answer, code) in [("\n", 5), ("n\n", 5), ("yeah\n", 5), ("y\n", 0)] {
        let brain = brain();
        brain.on(&format!("DELETE {VM}"), [Reply::Json(204, String::new())]);
        let bigv = Bigv::new(&brain);
        let mut terminal = Terminal::start(&mut bigv.command("vm delete web1"));
        terminal.expect("Delete VM web1.default.acme? Its power is cut at once. [y/N]");
        terminal.type_in(answer);
        let (run, shown) = terminal.finish(&bigv);
        assert_eq!(run.code, code, "{answer:?}: {run:?} {shown}");
        assert_eq!(brain.lines().iter().any(|line| line.starts_with("DELETE")), code == 0, "{answer:?}");
    }
}

#[test]
fn what_is_missing_is_asked_for() {
    let brain = brain();
    let bigv = Bigv::new(&brain);
    let mut terminal = Terminal::start(&mut bigv.command("vm show"));
    terminal.expect("The VM's name: ");
    terminal.type_in("web1\n");
    let (run, shown) = terminal.finish(&bigv);
    assert_eq!(run.code, 0, "{shown}");
    assert!(run.stdout.contains("web1.default.acme"), "{run:?}");
}

#[test]
fn no_prompt_asks_nothing_even_there() {
    let brain = brain();
    let bigv = Bigv::new(&brain);
    for option in ["--no-prompt", "--batch"] {
        let (run, shown) = Terminal::start(&mut bigv.command(&format!("vm show {option}"))).finish(&bigv);
        assert_eq!(run.code, 7, "{option}: {shown}");
        assert!(shown.contains("--vm-name"), "{option}: {shown}");
    }
}

#[test]
fn a_password_is_asked_for_unseen_and_again_when_wrong() {
    let brain = brain();
    let wrong = Reply::With(403, "text/plain", "Bad login credentials".into());
    brain.on("POST /session", [wrong, Reply::With(200, "text/plain", "token-1".into())]);
    let bigv = Bigv::new(&brain);
    let mut terminal = Terminal::start(bigv.command("vm show web1").env_remove("BIGV_PASSWORD"));
    terminal.expect("Your password: ");
    until("the echo is off", || !terminal.echoes());
    terminal.type_in("wrong-one\n");
    terminal.expect("Bad login credentials");
    until("it is asked again", || terminal.shown().matches("Your password: ").count() == 2 && !terminal.echoes());
    terminal.type_in("hunter2\n");
    let (run, shown) = terminal.finish(&bigv);
    assert_eq!(run.code, 0, "{shown}");
    assert!(!shown.contains("wrong-one") && !shown.contains("hunter2"), "{shown}");
    assert_eq!(brain.logins(), 2);
}

#[test]
fn ctrl_c_at_the_password_gives_the_echo_back() {
    let brain = brain();
    let bigv = Bigv::new(&brain);
    let terminal = Terminal::start(bigv.command("vm show web1").env_remove("BIGV_PASSWORD"));
    terminal.expect("Your password: ");
    until("the echo is off", || !terminal.echoes());
    let slave_holder = terminal.keyboard.try_clone().unwrap();
    kill(Pid::from_raw(terminal.child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    let (run, shown) = terminal.finish(&bigv);
    assert_eq!(run.code, 255, "{shown}");
    assert!(tcgetattr(&slave_holder).unwrap().local_flags.contains(LocalFlags::ECHO), "the echo is back");
}
