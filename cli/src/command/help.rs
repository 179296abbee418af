//! `bigv help …`: about categories, commands and topics.

use crate::{args, error::Error, exit::Exit, output::Output};

const SETTINGS: &str = "\
Where settings come from, the first that says something counts:

  option           environment          profile      built-in
  --location       BIGV_LOCATION        location     http://127.0.0.1:8600
  --username       BIGV_USERNAME        username     (asked for)
  --password       BIGV_PASSWORD        password     (asked for)
  --account        BIGV_ACCOUNT         account      the only one you can use
  --group-name     BIGV_GROUP           group        default
  --output-format  BIGV_OUTPUT_FORMAT   -            human
  --profile        BIGV_PROFILE         -            default
  -                BIGV_HOME            -            ~/.bigv
  --ssh-args       -                    ssh-args     (vm console takes both)

The profile is the file ~/.bigv/NAME/profile.toml, for your eyes only (mode
0600). `bigv profile generate` writes it, `bigv profile password store` adds the
password; comments in it are lost when bigv writes it.

  location = \"https://brain.example\"
  username = \"alice\"
  account = \"acme\"
  ssh-args = '-o ProxyCommand=\"nc %h %p\"'

Questions are asked only on a terminal. Plain http is used only with a brain on
this machine, or with --insecure. A proxy is taken from HTTPS_PROXY and the like,
but never for a brain on this machine.
";

const NAMES: &str = "\
A VM is named vm, vm.group or vm.group.account; its whole DNS name works too.
What is missing comes from --group-name and --account, or the settings (`bigv
help settings`). Numbers work where names do.

A disc is [GRADE:]SIZE, as ssd:10GB. Without a grade it is sata. A size is a
number and M, G or T, which may be followed by B or iB; without one it is G.
1 G is 1,024 M. A list of discs is separated by commas.

Dashes may be spaces: `bigv vm-new web1` is `bigv vm new web1`. `disk` is `disc`.
";

const SCRIPTING: &str = "\
--batch (or -b) is --no-prompt --output-format json: nothing is asked, and what
is missing is an error.

Standard output has only the result. As json it is the object or the list that
the API answers, with all that the brain sends; a command without one gives
{\"message\": ...}. Progress, warnings and errors go to standard error.

Commands that destroy something need --force, or --disc-label-confirmation for
discs. Each exit code has one meaning: `bigv help exit-codes`. A wait that was
interrupted or given up (255, 11) leaves the operation going: `bigv vm show` says
how it stands.
";

/// Shows help about `topic`, word by word.
pub fn run(topic: &[String]) -> Result<Output, Error> {
    let name = topic.join("-");
    let text = match name.as_str() {
        "exit-codes" | "exit-code" => exit_codes(),
        "settings" | "profile-file" | "environment" => SETTINGS.to_owned(),
        "names" => NAMES.to_owned(),
        "scripting" => SCRIPTING.to_owned(),
        _ => of_command(topic)?,
    };
    Ok(Output::raw(text))
}

fn exit_codes() -> String {
    let lines: String = Exit::ALL.iter().map(|(exit, text)| format!("  {:3}  {text}\n", exit.code())).collect();
    format!("What the exit codes mean:\n\n{lines}")
}

fn of_command(topic: &[String]) -> Result<String, Error> {
    let root = args::root();
    let mut typed = vec!["bigv".into()];
    typed.extend(topic.iter().map(Into::into));
    let words = args::words::normalise(typed, &root);
    let path: Vec<&str> = words.iter().skip(1).filter_map(|word| word.to_str()).collect();
    let mut command = &root;
    for word in &path {
        command = command.find_subcommand(word).ok_or_else(|| {
            Error::BadInput(format!(
                "there is no help about {:?}; `bigv help` lists what there is, other topics are exit-codes, settings, \
                 names and scripting",
                topic.join(" ")
            ))
        })?;
    }
    let mut line = vec!["bigv"];
    line.extend(path);
    line.push("--help");
    // clap answers --help with an "error" that carries the text.
    match root.clone().try_get_matches_from(line) {
        Err(help) => Ok(help.to_string()),
        Ok(_) => Err(Error::System("clap gave no help".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_fit_a_terminal() {
        for topic in [SETTINGS, NAMES, SCRIPTING, &exit_codes()] {
            for line in topic.lines() {
                assert!(line.chars().count() <= 81, "{line}");
            }
        }
    }

    #[test]
    fn the_table_of_exit_codes_is_complete_and_in_order() {
        let codes: Vec<u8> = Exit::ALL.iter().map(|(exit, _)| exit.code()).collect();
        assert!(codes.is_sorted_by(|a, b| a < b), "{codes:?}");
        assert_eq!(codes.last(), Some(&255));
    }
}
