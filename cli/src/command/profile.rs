//! `bigv profile …`.

use crate::{
    args::{PasswordCommand, ProfileCommand, ProfileGenerate},
    context::Context,
    error::Error,
    output::{Output, Page},
    profile::Profile,
};
use serde_json::json;
use spine::secret::Secret;

/// Carries out one of them.
pub fn run(context: &Context, command: &ProfileCommand) -> Result<Output, Error> {
    match command {
        ProfileCommand::Generate(args) => generate(context, args),
        ProfileCommand::Show => show(context),
        ProfileCommand::Password(PasswordCommand::Store) => {
            let password = match &context.settings.password_given {
                Some(password) => password.clone(),
                None => Secret::new(context.need_secret("the password", "BIGV_PASSWORD or --password")?),
            };
            save(
                context,
                Profile { password: Some(password), ..context.profile().clone() },
                "The password was stored in",
            )
        }
        ProfileCommand::Password(PasswordCommand::Forget) => {
            save(context, Profile { password: None, ..context.profile().clone() }, "The password was removed from")
        }
    }
}

fn generate(context: &Context, args: &ProfileGenerate) -> Result<Output, Error> {
    let store = context.store()?;
    let old = context.profile();
    if *old != Profile::default() {
        let question = format!("There is a profile in {}. Replace it?", store.path().display());
        context.confirm(&question, args.force.force, "--force")?;
    }
    if let Some(text) = &args.ssh_args {
        super::vm::split_ssh_args(text)?;
    }
    let settings = &context.settings;
    let location: crate::client::Location = settings.location.parse()?;
    let fresh = Profile {
        location: Some(location.to_string()),
        username: Some(context.username()?),
        password: None,
        account: settings.account.clone(),
        group: context.globals().group_name.clone().or_else(|| old.group.clone()),
        ssh_args: args.ssh_args.clone().or_else(|| old.ssh_args.clone()),
    };
    save(context, fresh, "The profile was written to")
}

fn save(context: &Context, profile: Profile, what: &str) -> Result<Output, Error> {
    let store = context.store()?;
    store.save(&profile)?;
    Ok(Output::message(format!("{what} {}.", store.path().display())))
}

fn show(context: &Context) -> Result<Output, Error> {
    let profile = context.profile();
    let path = context.store()?.path();
    let has_password = profile.password.is_some();
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    let facts = vec![
        ("file", path.display().to_string()),
        ("location", text(&profile.location)),
        ("username", text(&profile.username)),
        ("password", if has_password { "stored" } else { "not stored" }.to_owned()),
        ("account", text(&profile.account)),
        ("group", text(&profile.group)),
        ("ssh-args", text(&profile.ssh_args)),
    ];
    let json = json!({
        "file": path.display().to_string(),
        "location": profile.location,
        "username": profile.username,
        "password_stored": has_password,
        "account": profile.account,
        "group": profile.group,
        "ssh_args": profile.ssh_args,
    });
    Ok(Output { json, page: Page::Facts(facts) })
}
