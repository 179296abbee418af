//! `bigv user …`: logins and their SSH keys.

use crate::{
    args::{KeyChange, KeyCommand, UserCommand},
    context::Context,
    error::Error,
    output::{Output, pages},
};
use serde_json::json;
use std::{fs::File, io::Read, path::Path};

/// The largest file of keys that is read.
pub const KEY_FILE_BYTES_MAX: u64 = 64 << 10;

/// Carries out one of them.
pub fn run(context: &Context, command: &UserCommand) -> Result<Output, Error> {
    match command {
        UserCommand::Show(target) => {
            let answer = context.client()?.user(&whose(context, target.user.as_ref())?)?;
            Ok(Output { page: pages::user(&answer.value), json: answer.json })
        }
        UserCommand::Key(KeyCommand::List(target)) => {
            let answer = context.client()?.user(&whose(context, target.user.as_ref())?)?;
            let text = answer.value.authorized_keys.unwrap_or_default();
            let keys: Vec<&str> = lines(&text).collect();
            Ok(Output { page: pages::keys(&keys), json: json!(keys) })
        }
        UserCommand::Key(KeyCommand::Add(change)) => add(context, change),
        UserCommand::Key(KeyCommand::Delete(change)) => delete(context, change),
    }
}

fn whose(context: &Context, named: Option<&String>) -> Result<String, Error> {
    named.map_or_else(|| context.username(), |name| Ok(name.clone()))
}

fn add(context: &Context, change: &KeyChange) -> Result<Output, Error> {
    let text = if looks_like_key(&change.key) { change.key.clone() } else { read_keys(Path::new(&change.key))? };
    let new: Vec<&str> = lines(&text).collect();
    if let Some(bad) = new.iter().find(|line| !looks_like_key(line)) {
        let shown: String = bad.chars().take(30).collect();
        return Err(Error::BadInput(format!("{shown:?} is not an SSH public key")));
    }
    let user = whose(context, change.user.as_ref())?;
    let old = context.client()?.user(&user)?.value.authorized_keys.unwrap_or_default();
    let mut keys: Vec<&str> = lines(&old).collect();
    let missing: Vec<&str> = new.into_iter().filter(|key| !keys.contains(key)).collect();
    let count = missing.len();
    if count == 0 {
        return Ok(Output::message(format!("{user} has that key already.")));
    }
    keys.extend(missing);
    let answer = context.client()?.set_keys(&user, &keys.join("\n"))?;
    Ok(Output { json: answer.json, ..Output::message(format!("{user} has {count} more SSH key(s).")) })
}

fn delete(context: &Context, change: &KeyChange) -> Result<Output, Error> {
    let user = whose(context, change.user.as_ref())?;
    let old = context.client()?.user(&user)?.value.authorized_keys.unwrap_or_default();
    let wanted = change.key.trim();
    let is_meant = |key: &&str| *key == wanted || key.splitn(3, ' ').nth(2) == Some(wanted);
    let (gone, kept): (Vec<&str>, Vec<&str>) = lines(&old).partition(is_meant);
    match gone.len() {
        1 => {}
        0 => return Err(Error::BadInput(format!("{user} has no key {wanted:?}: see `bigv user key list`"))),
        several => {
            return Err(Error::BadInput(format!("{several} keys have the comment {wanted:?}: say the whole key")));
        }
    }
    let answer = context.client()?.set_keys(&user, &kept.join("\n"))?;
    Ok(Output { json: answer.json, ..Output::message(format!("The key was removed from {user}.")) })
}

/// Reads a file of SSH public keys; private ones are refused, so that none is sent by mistake.
pub fn read_keys(path: &Path) -> Result<String, Error> {
    let error = |reason: &str| Error::BadInput(format!("{}: {reason}", path.display()));
    let file = File::open(path).map_err(|e| error(&format!("cannot read SSH keys: {e}")))?;
    let mut text = String::new();
    file.take(KEY_FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|e| error(&format!("cannot read SSH keys: {e}")))?;
    if text.len() as u64 > KEY_FILE_BYTES_MAX {
        return Err(error("it is longer than 64 KiB: that is no file of SSH keys"));
    }
    if text.contains("PRIVATE KEY") {
        return Err(error("this is a private key, which nobody else should have: give the .pub file"));
    }
    if lines(&text).next().is_none() {
        return Err(error("there is no key in it"));
    }
    Ok(text.trim().to_owned())
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn looks_like_key(text: &str) -> bool {
    let mut words = text.split(' ');
    let kind = words.next().unwrap_or_default();
    let kinds = ["ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-"];
    kinds.iter().any(|start| kind.starts_with(start)) && words.next().is_some_and(|body| body.starts_with("AAAA"))
}
