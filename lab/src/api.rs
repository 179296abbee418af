//! The little of the brain's API that the lab itself needs: whether the nodes are known to it.

use crate::{
    error::LabError,
    plan::{Node, Plan},
    state::Login,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;
use std::{
    io::{self, Read, Write},
    net::TcpStream,
    time::Duration,
};

/// How long the brain may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than any list of nodes of a lab.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// The nodes that the brain has no connection with.
pub fn nodes_missing(plan: &Plan, port: u16, login: &Login) -> Result<Vec<Node>, LabError> {
    let mut online = Vec::new();
    for path in ["/admin/heads", "/admin/tails"] {
        let (status, body) = get(port, path, login).map_err(LabError::io("ask the brain for", path))?;
        let listed: Option<Vec<Value>> = serde_json::from_str(&body).ok().filter(|_| status == 200);
        let Some(listed) = listed else {
            return Err(LabError::Refused(format!("the brain answered {path} with {status}: {}", shortened(&body))));
        };
        let up = listed.iter().filter(|node| node["online"] == true);
        online.extend(up.filter_map(|node| node["label"].as_str().map(str::to_owned)));
    }
    let nodes = plan.daemons().into_iter().filter(|node| *node != Node::Brain);
    Ok(nodes.filter(|node| !online.contains(&node.to_string())).collect())
}

/// One request as HTTP/1.0, so that the answer ends with the connection.
fn get(port: u16, path: &str, login: &Login) -> io::Result<(u16, String)> {
    let mut connection = TcpStream::connect(("127.0.0.1", port))?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    let credentials = BASE64_STANDARD.encode(format!("{}:{}", login.user, login.password));
    let request = format!(
        "GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nAccept: application/json\r\nAuthorization: Basic {credentials}\r\n\r\n"
    );
    connection.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    connection.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    parse(&answer).ok_or_else(|| io::Error::other(format!("no HTTP answer: {}", shortened(&answer))))
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut words = head.split(' ');
    let status = words.next().filter(|version| version.starts_with("HTTP/1.")).and(words.next())?;
    Some((status.parse().ok()?, body.to_owned()))
}

fn shortened(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{BufRead, BufReader},
        net::TcpListener,
        thread,
    };

    fn answers(answers: Vec<&'static str>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for answer in answers {
                let (mut connection, _) = listener.accept().unwrap();
                let lines = BufReader::new(connection.try_clone().unwrap()).lines().map_while(Result::ok);
                assert!(lines.take_while(|line| !line.is_empty()).any(|line| line == "Authorization: Basic dTpw"));
                connection.write_all(answer.as_bytes()).unwrap();
            }
        });
        port
    }

    fn asked(list: Vec<&'static str>) -> Result<Vec<Node>, LabError> {
        let plan = Plan { name: "lab".parse().unwrap(), heads: 2, tails: 1, slot: 0 };
        let login = Login { user: "u".into(), password: "p".into(), account: "a".into(), made: true };
        nodes_missing(&plan, answers(list), &login)
    }

    #[test]
    fn a_node_counts_when_it_is_online() {
        let heads = "HTTP/1.1 200 OK\r\nX: y\r\n\r\n[{\"label\":\"head1\",\"online\":true},{\"label\":\"head2\",\"online\":false}]";
        let tails = "HTTP/1.0 200 OK\r\n\r\n[]";
        assert_eq!(asked(vec![heads, tails]).unwrap(), [Node::Tail(1), Node::Head(2)]);
    }

    #[test]
    fn an_odd_answer_is_told() {
        let error = asked(vec!["HTTP/1.1 403 Forbidden\r\n\r\n{}"]).unwrap_err().to_string();
        assert!(error.contains("/admin/heads with 403"), "{error}");
        let error = asked(vec!["HTTP/1.1 200 OK\r\n\r\n<html>"]).unwrap_err().to_string();
        assert!(error.contains("<html>"), "{error}");
        assert!(asked(vec!["SSH-2.0-x\r\n\r\n"]).is_err());
    }
}
