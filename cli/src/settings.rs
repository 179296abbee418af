//! What is in force: option > environment > profile > built-in.

use crate::{
    args::{Format, Globals},
    error::Error,
    profile::{NAME_DEFAULT, Profile},
};
use clap::ValueEnum;
use spine::secret::Secret;
use std::{ffi::OsString, path::PathBuf};

/// A brain on this machine, as one is at first.
pub const LOCATION_DEFAULT: &str = "http://127.0.0.1:8600";
/// The group that every account has.
pub const GROUP_DEFAULT: &str = "default";

/// What the environment says. An empty variable says nothing.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `BIGV_HOME`, or `HOME` and `.bigv`.
    pub home: Option<PathBuf>,
    /// `BIGV_PROFILE`.
    pub profile: Option<String>,
    /// `BIGV_LOCATION`.
    pub location: Option<String>,
    /// `BIGV_USERNAME`.
    pub username: Option<String>,
    /// `BIGV_PASSWORD`.
    pub password: Option<Secret>,
    /// `BIGV_ACCOUNT`.
    pub account: Option<String>,
    /// `BIGV_GROUP`.
    pub group: Option<String>,
    /// `BIGV_OUTPUT_FORMAT`.
    pub format: Option<String>,
}

impl Environment {
    /// Reads the variables through `get`.
    pub fn read(get: impl Fn(&str) -> Option<OsString>) -> Result<Self, Error> {
        let path = |name: &str| get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let text = |name: &str| match get(name).filter(|value| !value.is_empty()) {
            None => Ok(None),
            Some(value) => {
                value.into_string().map(Some).map_err(|_| Error::BadInput(format!("{name} is not valid UTF-8")))
            }
        };
        Ok(Self {
            home: path("BIGV_HOME").or_else(|| path("HOME").map(|home| home.join(".bigv"))),
            profile: text("BIGV_PROFILE")?,
            location: text("BIGV_LOCATION")?,
            username: text("BIGV_USERNAME")?,
            password: text("BIGV_PASSWORD")?.map(Secret::new),
            account: text("BIGV_ACCOUNT")?,
            group: text("BIGV_GROUP")?,
            format: text("BIGV_OUTPUT_FORMAT")?,
        })
    }

    /// Which profile to use.
    pub fn profile_name(&self, globals: &Globals) -> String {
        globals.profile_name.clone().or_else(|| self.profile.clone()).unwrap_or_else(|| NAME_DEFAULT.to_owned())
    }
}

/// What is in force.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The brain's base URL.
    pub location: String,
    /// Whom to log in as.
    pub username: Option<String>,
    /// Their password.
    pub password: Option<Secret>,
    /// The password if it was given with this command: not the profile's.
    pub password_given: Option<Secret>,
    /// The account for names that do not say one.
    pub account: Option<String>,
    /// The group for names that do not say one.
    pub group: String,
    /// Arguments for ssh.
    pub ssh_args: Option<String>,
    /// How results are shown.
    pub format: Format,
    /// Whether a missing argument may be asked for, if there is a terminal.
    pub may_prompt: bool,
    /// Whether plain http to another machine is allowed.
    pub insecure: bool,
}

impl Settings {
    /// Puts the sources together.
    pub fn resolve(globals: &Globals, environment: &Environment, profile: &Profile) -> Result<Self, Error> {
        let first = |option: &Option<String>, variable: &Option<String>, kept: &Option<String>| {
            option.as_ref().or(variable.as_ref()).or(kept.as_ref()).cloned()
        };
        let username = first(&globals.username, &environment.username, &profile.username);
        // ssh would take the name of such a user for an option.
        if let Some(name) = username.as_deref().filter(|name| name.is_empty() || name.starts_with('-')) {
            return Err(Error::BadInput(format!("{name:?} is not a user name")));
        }
        let format = match (globals.output_format, &environment.format) {
            (Some(format), _) => format,
            (None, _) if globals.batch || globals.json => Format::Json,
            (None, Some(text)) => Format::from_str(text, true).map_err(|_| {
                Error::BadInput(format!("BIGV_OUTPUT_FORMAT is {text:?}: it may be human, json or table"))
            })?,
            (None, None) => Format::Human,
        };
        let password_given = globals.password.clone().map(Secret::new).or_else(|| environment.password.clone());
        Ok(Self {
            location: first(&globals.location, &environment.location, &profile.location)
                .unwrap_or_else(|| LOCATION_DEFAULT.to_owned()),
            username,
            password: password_given.clone().or_else(|| profile.password.clone()),
            password_given,
            account: first(&globals.account_name, &environment.account, &profile.account),
            group: first(&globals.group_name, &environment.group, &profile.group)
                .unwrap_or_else(|| GROUP_DEFAULT.to_owned()),
            ssh_args: profile.ssh_args.clone(),
            format,
            may_prompt: !globals.no_prompt && !globals.batch,
            insecure: globals.insecure,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> Option<String> {
        Some(value.to_owned())
    }

    #[test]
    fn option_beats_environment_beats_profile_beats_built_in() {
        let mut globals = Globals::default();
        let mut environment = Environment::default();
        let mut profile = Profile::default();
        let location =
            |g: &Globals, e: &Environment, p: &Profile| Settings::resolve(g, e, p).map(|settings| settings.location);
        assert_eq!(location(&globals, &environment, &profile).unwrap(), LOCATION_DEFAULT);
        profile.location = text("https://profile");
        assert_eq!(location(&globals, &environment, &profile).unwrap(), "https://profile");
        environment.location = text("https://environment");
        assert_eq!(location(&globals, &environment, &profile).unwrap(), "https://environment");
        globals.location = text("https://option");
        assert_eq!(location(&globals, &environment, &profile).unwrap(), "https://option");
    }

    #[test]
    fn batch_is_json_without_questions() {
        let globals = Globals { batch: true, ..Globals::default() };
        let environment = Environment { format: text("table"), ..Environment::default() };
        let settings = Settings::resolve(&globals, &environment, &Profile::default()).unwrap();
        assert_eq!((settings.format, settings.may_prompt), (Format::Json, false));
        let environment = Environment { format: text("yaml"), ..Environment::default() };
        let error = Settings::resolve(&Globals::default(), &environment, &Profile::default()).unwrap_err().to_string();
        assert!(error.contains("BIGV_OUTPUT_FORMAT"), "{error}");
    }

    #[test]
    fn an_empty_variable_says_nothing() {
        let environment = Environment::read(|name| match name {
            "HOME" => Some("/home/alice".into()),
            "BIGV_HOME" | "BIGV_ACCOUNT" => Some("".into()),
            _ => None,
        })
        .unwrap();
        assert_eq!(environment.account, None);
        assert_eq!(environment.home, Some("/home/alice/.bigv".into()));
    }

    #[test]
    fn a_user_name_cannot_be_an_option_of_ssh() {
        let globals = Globals { username: text("-oProxyCommand=x"), ..Globals::default() };
        assert!(Settings::resolve(&globals, &Environment::default(), &Profile::default()).is_err());
    }
}
