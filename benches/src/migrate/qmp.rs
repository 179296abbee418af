//! qemu's monitor, as far as the measurements need it: a command at a time, and events that are waited for.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// No command takes longer on a machine that works, and no program to listen.
const DEADLINE: Duration = Duration::from_secs(30);
const TRY_EVERY: Duration = Duration::from_millis(10);

/// A connection to a monitor.
#[derive(Debug)]
pub struct Monitor {
    lines: BufReader<UnixStream>,
    events: Vec<Value>,
}

impl Monitor {
    /// Connects as soon as somebody listens.
    ///
    /// # Errors
    /// When nobody does in time, or it is no monitor.
    pub fn connect(path: &Path) -> Result<Self> {
        let until = Instant::now() + DEADLINE;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() >= until => {
                    return Err(error).with_context(|| format!("no monitor at {}", path.display()));
                }
                Err(_) => thread::sleep(TRY_EVERY),
            }
        };
        let mut monitor = Self { lines: BufReader::new(stream), events: Vec::new() };
        monitor.read(until)?.get("QMP").context("this is no monitor")?;
        monitor.execute("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    /// Gives a command, and waits for what it returns.
    ///
    /// # Errors
    /// When it is refused; with what qemu says.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let line = json!({"execute": command, "arguments": arguments}).to_string() + "\n";
        self.lines.get_mut().write_all(line.as_bytes())?;
        let until = Instant::now() + DEADLINE;
        loop {
            let mut said = self.read(until)?;
            if let Some(error) = said.get("error") {
                bail!("{command}: {}", error.get("desc").unwrap_or(error));
            }
            match said.get_mut("return") {
                Some(value) => return Ok(value.take()),
                None => self.events.push(said),
            }
        }
    }

    /// Waits for an event, and returns its data. Those before it are dropped.
    ///
    /// # Errors
    /// When it does not come in time.
    pub fn wait(&mut self, event: &str, deadline: Duration) -> Result<Value> {
        let until = Instant::now() + deadline;
        loop {
            let said = match self.events.is_empty() {
                true => self.read(until).with_context(|| format!("there was no {event}"))?,
                false => self.events.remove(0),
            };
            if said.get("event").is_some_and(|name| name == event) {
                return Ok(said.get("data").cloned().unwrap_or_default());
            }
        }
    }

    fn read(&mut self, until: Instant) -> Result<Value> {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.lines.get_ref().set_read_timeout(Some(left))?;
        let mut line = String::new();
        let count = self.lines.read_line(&mut line).context("the monitor says nothing")?;
        anyhow::ensure!(count > 0, "the monitor has hung up");
        serde_json::from_str(&line).context("the monitor speaks no JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// A monitor that says these lines after as many as it is told.
    fn played(answers: &'static [&'static str]) -> (tempfile::TempDir, Result<Monitor>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut asked = BufReader::new(stream.try_clone().unwrap());
            (&stream).write_all(b"{\"QMP\":{}}\n").unwrap();
            for answer in answers {
                asked.read_line(&mut String::new()).unwrap();
                (&stream).write_all(answer.as_bytes()).unwrap();
            }
        });
        let monitor = Monitor::connect(&path);
        (dir, monitor)
    }

    #[test]
    fn answers_are_found_among_events_which_are_kept() {
        let answers = &[
            "{\"return\":{}}\n",
            "{\"event\":\"A\",\"data\":{\"n\":1}}\n{\"event\":\"B\",\"data\":{\"n\":2}}\n{\"return\":7}\n",
            "{\"error\":{\"class\":\"X\",\"desc\":\"no such node\"}}\n",
        ];
        let (_dir, monitor) = played(answers);
        let mut monitor = monitor.unwrap();
        assert_eq!(monitor.execute("x", json!({})).unwrap(), 7);
        assert_eq!(monitor.wait("B", DEADLINE).unwrap(), json!({"n": 2}));
        let error = monitor.execute("y", json!({})).unwrap_err().to_string();
        assert!(error.contains("no such node"), "{error}");
        assert!(monitor.wait("C", Duration::from_millis(20)).is_err());
    }
}
