//! The freedom in how a command line may be written.

use crate::error::Error;
use clap::{Arg, Command};
use std::ffi::OsString;

/// "Dashes may be spaces": rewrites `vm-new` to `vm new`, for each category and command that is
/// known. Words behind the command are left alone.
pub fn normalise(args: Vec<OsString>, root: &Command) -> Vec<OsString> {
    let mut out = Vec::with_capacity(args.len() + 2);
    let mut rest = args.into_iter();
    out.extend(rest.next());
    let mut command = root;
    while command.has_subcommands() {
        let Some(arg) = rest.next() else { break };
        let Some(text) = arg.to_str().map(str::to_owned) else {
            out.push(arg);
            break;
        };
        if text == "--" {
            out.push(arg);
            break;
        }
        out.push(arg);
        if text.starts_with('-') {
            if takes_next_word(&text, root) {
                out.extend(rest.next());
            }
            continue;
        }
        let words = split(&text, command);
        if words.is_empty() {
            break;
        }
        out.pop();
        for word in words {
            // `split` found each of these below the one before.
            command = command.find_subcommand(&word).unwrap_or(command);
            out.push(word.into());
        }
    }
    out.extend(rest);
    out
}

/// The words of `text` as a chain of commands below `command`; empty when it is none.
fn split(text: &str, command: &Command) -> Vec<String> {
    if command.find_subcommand(text).is_some() {
        return vec![text.to_owned()];
    }
    for (at, _) in text.match_indices('-') {
        let (head, tail) = (&text[..at], &text[at + 1..]);
        if let Some(below) = command.find_subcommand(head) {
            let mut words = split(tail, below);
            if !words.is_empty() {
                words.insert(0, head.to_owned());
                return words;
            }
        }
    }
    Vec::new()
}

fn takes_next_word(option: &str, root: &Command) -> bool {
    let Some(long) = option.strip_prefix("--").filter(|long| !long.contains('=')) else { return false };
    let is_it =
        |arg: &&Arg| arg.get_long() == Some(long) || arg.get_all_aliases().is_some_and(|all| all.contains(&long));
    root.get_arguments().find(is_it).is_some_and(|arg| arg.get_action().takes_values())
}

/// Gives positional arguments, in order, to those slots that no option has filled.
pub fn fill<const N: usize>(
    options: [&Option<String>; N],
    positional: [&Option<String>; N],
) -> Result<[Option<String>; N], Error> {
    let mut slots = options.map(Clone::clone);
    let mut words = positional.into_iter().flatten();
    for slot in slots.iter_mut().filter(|slot| slot.is_none()) {
        *slot = words.next().cloned();
    }
    match words.next() {
        None => Ok(slots),
        Some(word) => Err(Error::BadInput(format!("{word:?} is one argument too many: an option already says it"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(text: &str) -> String {
        let args = text.split(' ').map(OsString::from).collect();
        let words = normalise(args, &crate::args::root());
        words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn dashes_may_be_spaces() {
        for (typed, meant) in [
            ("bigv vm-new web1", "bigv vm new web1"),
            ("bigv --account a-b vm-new web-1", "bigv --account a-b vm new web-1"),
            ("bigv --account=vm-new vm-list", "bigv --account=vm-new vm list"),
            ("bigv --group vm-new vm-list", "bigv --group vm-new vm list"),
            ("bigv -b disk-new x", "bigv -b disk new x"),
            ("bigv profile-password-store", "bigv profile password store"),
            ("bigv profile password-store", "bigv profile password store"),
            ("bigv vm show vm-new", "bigv vm show vm-new"),
            ("bigv definitions vm-new", "bigv definitions vm-new"),
            ("bigv no-such vm-new", "bigv no-such vm-new"),
            ("bigv -- vm-new", "bigv -- vm-new"),
            ("bigv vm-", "bigv vm-"),
        ] {
            assert_eq!(normal(typed), meant);
        }
    }

    #[test]
    fn words_fill_what_options_leave() {
        let some = |text: &str| Some(text.to_owned());
        let (a, b, none) = (some("a"), some("b"), None);
        assert_eq!(fill([&none, &none], [&a, &b]).unwrap(), [some("a"), some("b")]);
        assert_eq!(fill([&a, &none], [&b, &none]).unwrap(), [some("a"), some("b")]);
        assert_eq!(fill([&none, &b], [&a, &none]).unwrap(), [some("a"), some("b")]);
        let error = fill([&a, &none], [&b, &some("c")]).unwrap_err().to_string();
        assert!(error.contains("\"c\""), "{error}");
    }
}
