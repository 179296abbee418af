//! A fake brain: answers what it is told to, and remembers what it was asked.

use serde_json::Value;
use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

/// One request, as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `GET /accounts`.
    pub line: String,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    pub content_type: Option<String>,
    /// Null when there is none.
    pub body: Value,
}

/// One answer.
#[derive(Clone, Debug)]
pub enum Reply {
    Json(u16, String),
    With(u16, &'static str, String),
    /// Bytes as they are, and then the end of the connection.
    Raw(Vec<u8>),
    /// A body without an end.
    Endless,
    /// Nothing, until the client goes away.
    Hang,
}

#[derive(Default)]
struct State {
    rules: Vec<(String, VecDeque<Reply>)>,
    seen: Vec<Seen>,
}

/// The server; gone when dropped.
pub struct Brain {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Brain {
    /// One that lets everybody log in.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (state, stop) = (Arc::new(Mutex::new(State::default())), Arc::new(AtomicBool::new(false)));
        let (its_state, its_stop) = (Arc::clone(&state), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if its_stop.load(Ordering::SeqCst) {
                    return;
                }
                let state = Arc::clone(&its_state);
                // A client that goes away early is what some tests are about.
                thread::spawn(move || stream.and_then(|stream| serve(stream, &state)).ok());
            }
        });
        let brain = Self { address, state, stop, thread: Some(thread) };
        brain.on("POST /session", [Reply::With(200, "text/plain", "token-1".into())]);
        brain
    }

    /// What to answer to `line` (`GET /accounts?view=overview`), one after another; the last is repeated.
    pub fn on(&self, line: &str, replies: impl IntoIterator<Item = Reply>) {
        let mut state = self.state.lock().unwrap();
        state.rules.retain(|(known, _)| known != line);
        state.rules.push((line.to_owned(), replies.into_iter().collect()));
    }

    /// The same with one answer of JSON.
    pub fn json(&self, line: &str, body: impl Into<String>) {
        self.on(line, [Reply::Json(200, body.into())]);
    }

    /// All requests but the logins.
    pub fn seen(&self) -> Vec<Seen> {
        let seen = self.state.lock().unwrap().seen.clone();
        seen.into_iter().filter(|seen| seen.line != "POST /session").collect()
    }

    /// Their lines.
    pub fn lines(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.line).collect()
    }

    /// How often somebody logged in.
    pub fn logins(&self) -> usize {
        self.state.lock().unwrap().seen.iter().filter(|seen| seen.line == "POST /session").count()
    }
}

impl Drop for Brain {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes accept().
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let seen = read_request(&mut reader)?;
    let reply = {
        let mut state = state.lock().unwrap();
        let line = seen.line.clone();
        state.seen.push(seen);
        match state.rules.iter_mut().find(|(known, _)| *known == line) {
            Some((_, replies)) if replies.len() > 1 => replies.pop_front().unwrap(),
            Some((_, replies)) => replies[0].clone(),
            None => Reply::Json(404, "{}".to_owned()),
        }
    };
    write_reply(stream, reader, reply)
}

fn read_request(reader: &mut BufReader<TcpStream>) -> std::io::Result<Seen> {
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut line = first.split(' ').take(2).collect::<Vec<_>>().join(" ");
    // How long a question stays open depends on how long the waiting goes on already.
    for seconds in ["1", "5"] {
        line = line.replace(&format!("?wait={seconds}s&"), "?wait=…&");
    }
    let mut seen = Seen { line, authorization: None, content_type: None, body: Value::Null };
    let mut length = 0;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header == "\r\n" {
            break;
        }
        let (name, value) = header.trim().split_once(": ").unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap_or(0),
            "authorization" => seen.authorization = Some(value.to_owned()),
            "content-type" => seen.content_type = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    seen.body = serde_json::from_slice(&body).unwrap_or_default();
    Ok(seen)
}

fn write_reply(mut stream: TcpStream, mut reader: BufReader<TcpStream>, reply: Reply) -> std::io::Result<()> {
    let head = |status: u16, kind: &str, length: Option<usize>| {
        let length = length.map(|n| format!("Content-Length: {n}\r\n")).unwrap_or_default();
        format!("HTTP/1.1 {status} x\r\nContent-Type: {kind}\r\n{length}Connection: close\r\n\r\n")
    };
    match reply {
        Reply::Json(status, body) => {
            let length = (status != 204).then_some(body.len());
            write!(stream, "{}{body}", head(status, "application/json", length))
        }
        // The kind may carry more headers behind it.
        Reply::With(status, kind, body) => write!(stream, "{}{body}", head(status, kind, Some(body.len()))),
        Reply::Raw(bytes) => stream.write_all(&bytes),
        Reply::Endless => {
            write!(stream, "{}[", head(200, "application/json", None))?;
            let chunk = [b' '; 1 << 16];
            loop {
                stream.write_all(&chunk)?;
            }
        }
        Reply::Hang => reader.read_to_end(&mut Vec::new()).map(drop),
    }
}
