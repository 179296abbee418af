//! What was typed, together with what is known: the settings, the profile, and a client that has
//! logged in when the first command needs it.

use crate::{
    args::Globals,
    client::{Client, ClientError, Credentials, GroupPath, Location, VmPath},
    error::Error,
    names, output,
    profile::{Profile, Store},
    prompt,
    settings::{Environment, Settings},
};
use std::cell::OnceCell;

/// How often a password may be typed wrong.
const PASSWORD_TRIES_MAX: u32 = 3;

/// Everything a command needs to know.
pub struct Context {
    /// What is in force.
    pub settings: Settings,
    globals: Globals,
    profile: Profile,
    store: Option<Store>,
    client: OnceCell<Client>,
    account: OnceCell<String>,
}

impl Context {
    /// Reads the environment and the profile. Nothing is sent.
    pub fn new(globals: &Globals) -> Result<Self, Error> {
        let environment = Environment::read(|name| std::env::var_os(name))?;
        let name = environment.profile_name(globals);
        let store = environment.home.as_deref().map(|home| Store::new(home, &name)).transpose()?;
        let profile = store.as_ref().map(Store::load).transpose()?.flatten().unwrap_or_default();
        let settings = Settings::resolve(globals, &environment, &profile)?;
        if globals.password.is_some() {
            output::warning("everyone on this machine can see --password: prefer BIGV_PASSWORD or the profile");
        }
        Ok(Self {
            settings,
            globals: globals.clone(),
            profile,
            store,
            client: OnceCell::new(),
            account: OnceCell::new(),
        })
    }

    /// The profile as it is in its file.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Options of every command, as typed.
    pub fn globals(&self) -> &Globals {
        &self.globals
    }

    /// Where the profile is kept.
    pub fn store(&self) -> Result<&Store, Error> {
        self.store.as_ref().ok_or_else(|| {
            Error::BadInput("there is no place for a profile: neither BIGV_HOME nor HOME is set".to_owned())
        })
    }

    /// A client for the calls that need no login.
    pub fn anonymous(&self) -> Result<Client, Error> {
        Ok(Client::new(self.location()?, None))
    }

    /// The client. Asks for what is missing to log in.
    pub fn client(&self) -> Result<&Client, Error> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let location = self.location()?;
        let username = self.username()?;
        let client = match &self.settings.password {
            Some(password) => {
                Client::new(location, Some(Credentials { username, password: password.reveal().to_owned() }))
            }
            None => self.client_by_question(&location, &username)?,
        };
        Ok(self.client.get_or_init(|| client))
    }

    /// Whom to log in as.
    pub fn username(&self) -> Result<String, Error> {
        self.need(self.settings.username.clone(), "your user name", "--username, BIGV_USERNAME or the profile")
    }

    /// `value`, or the answer to a question, or an error that names the option.
    pub fn need(&self, value: Option<String>, what: &'static str, option: &'static str) -> Result<String, Error> {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            return Ok(value);
        }
        if self.can_ask() {
            let answer = prompt::line(&capital(what)).map_err(cannot_ask)?;
            if let Some(answer) = answer.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()) {
                return Ok(answer);
            }
        }
        Err(Error::Missing { what, option })
    }

    /// Asks for a secret without showing it.
    pub fn need_secret(&self, what: &'static str, option: &'static str) -> Result<String, Error> {
        let answer = if self.can_ask() { prompt::password(&capital(what)).map_err(cannot_ask)? } else { None };
        answer.filter(|text| !text.is_empty()).ok_or(Error::Missing { what, option })
    }

    /// Goes on only if the answer is `name`, which is `what`. `option` says it without a question.
    pub fn confirm_by_name(&self, question: &str, what: &str, name: &str, option: &str) -> Result<(), Error> {
        if !self.can_ask() {
            return Err(Error::BadInput(format!("{question} There is nobody to ask: say {option} {name} to do it")));
        }
        let answer = prompt::line(&format!("{question} To go on, type {what}")).map_err(cannot_ask)?;
        if answer.is_some_and(|answer| answer.trim() == name) {
            return Ok(());
        }
        Err(Error::Declined("nothing was changed".to_owned()))
    }

    /// Goes on only if `force` or the answer is yes. `option` says it without a question.
    pub fn confirm(&self, question: &str, force: bool, option: &str) -> Result<(), Error> {
        if force {
            return Ok(());
        }
        if !self.can_ask() {
            return Err(Error::BadInput(format!("{question} There is nobody to ask: say {option} to do it")));
        }
        if prompt::yes(question).map_err(cannot_ask)? {
            return Ok(());
        }
        Err(Error::Declined("nothing was changed".to_owned()))
    }

    /// The account for names that do not say one: the settings', or the only one there is.
    pub fn account(&self) -> Result<String, Error> {
        if let Some(account) = &self.settings.account {
            return Ok(account.clone());
        }
        if let Some(account) = self.account.get() {
            return Ok(account.clone());
        }
        let accounts = self.client()?.accounts()?.value;
        let account = match accounts.as_slice() {
            [one] => one.name.clone(),
            [] => return Err(Error::NoAccount("there is no account that you can use".to_owned())),
            several => {
                let names: Vec<&str> = several.iter().take(10).map(|account| account.name.as_str()).collect();
                return Err(Error::NoAccount(format!(
                    "you can use several accounts ({}): say --account, or `bigv account select` one",
                    names.join(", ")
                )));
            }
        };
        Ok(self.account.get_or_init(|| account).clone())
    }

    /// The VM that was typed, or asked for.
    pub fn vm_path(&self, typed: Option<&str>) -> Result<VmPath, Error> {
        let typed = self.need(typed.map(str::to_owned), "the VM's name", "VM or --vm-name")?;
        let vm = names::vm(&typed, &self.globals, &self.settings)?;
        let account = vm.account.clone().map_or_else(|| self.account(), Ok)?;
        Ok(vm.in_account(account))
    }

    /// The group that was typed.
    pub fn group_path(&self, typed: &str) -> Result<GroupPath, Error> {
        let (group, account) = names::group(typed, &self.globals, &self.settings)?;
        let account = account.map_or_else(|| self.account(), Ok)?;
        Ok(names::group_path(group, account))
    }

    /// Shows what the brain ignored.
    pub fn show_warnings(&self) {
        let ignored = self.client.get().map(Client::take_ignored).unwrap_or_default();
        if !ignored.is_empty() {
            output::warning(&format!("the brain does not know and ignored: {}", ignored.join(", ")));
        }
    }

    fn can_ask(&self) -> bool {
        self.settings.may_prompt && prompt::is_possible()
    }

    fn location(&self) -> Result<Location, Error> {
        let location: Location = self.settings.location.parse()?;
        if !self.settings.insecure {
            location.require_private()?;
        }
        Ok(location)
    }

    fn client_by_question(&self, location: &Location, username: &str) -> Result<Client, Error> {
        let option = "BIGV_PASSWORD, `bigv profile password store` or --password";
        for attempt in 1.. {
            let password = self.need_secret("your password", option)?;
            let credentials = Credentials { username: username.to_owned(), password };
            let client = Client::new(location.clone(), Some(credentials));
            match client.login() {
                Ok(()) => return Ok(client),
                Err(error @ ClientError::LoginRefused { .. }) if attempt < PASSWORD_TRIES_MAX => {
                    output::warning(&error.to_string());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(ClientError::LoginNeeded.into())
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

fn cannot_ask(error: std::io::Error) -> Error {
    Error::System(format!("cannot read the terminal: {error}"))
}
