//! From what was typed to paths of the API: `web1`, `web1.shop`, `web1.shop.acme`.

use crate::{
    args::Globals,
    client::{GroupPath, VmPath},
    error::Error,
    settings::Settings,
};
use spine::spec::VmSpec;

/// A VM as far as it was said: the account may still be unknown.
#[derive(Debug, PartialEq, Eq)]
pub struct PartialVm {
    /// The VM.
    pub vm: String,
    /// Its group.
    pub group: String,
    /// Its account, if anything says it.
    pub account: Option<String>,
}

impl PartialVm {
    /// With its account.
    pub fn in_account(self, account: String) -> VmPath {
        VmPath { account, group: self.group, vm: self.vm }
    }
}

/// Reads `vm[.group[.account]]`; what it does not say comes from the settings. A name and an option
/// that contradict each other are an error, the settings give way to both.
pub fn vm(typed: &str, globals: &Globals, settings: &Settings) -> Result<PartialVm, Error> {
    let spec: VmSpec = typed.parse().map_err(|e: spine::spec::VmSpecError| Error::BadInput(e.to_string()))?;
    agree(typed, "--group-name", spec.group.as_deref(), globals.group_name.as_deref())?;
    agree(typed, "--account", spec.account.as_deref(), globals.account_name.as_deref())?;
    Ok(PartialVm {
        vm: spec.vm,
        group: spec.group.unwrap_or_else(|| settings.group.clone()),
        account: spec.account.or_else(|| settings.account.clone()),
    })
}

/// Reads `group[.account]`.
pub fn group(typed: &str, globals: &Globals, settings: &Settings) -> Result<(String, Option<String>), Error> {
    let spec: VmSpec = typed.parse().map_err(|_| {
        Error::BadInput(format!(
            "{:?} does not name a group: write it as group or group.account",
            typed.chars().take(80).collect::<String>()
        ))
    })?;
    agree(typed, "--account", spec.group.as_deref(), globals.account_name.as_deref())?;
    Ok((spec.vm, spec.group.or_else(|| settings.account.clone())))
}

/// `group.account`, both known.
pub fn group_path(group: String, account: String) -> GroupPath {
    GroupPath { account, group }
}

fn agree(typed: &str, option: &str, in_name: Option<&str>, in_option: Option<&str>) -> Result<(), Error> {
    match (in_name, in_option) {
        (Some(name), Some(said)) if name != said => {
            Err(Error::BadInput(format!("{typed:?} and {option} {said:?} contradict each other")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{profile::Profile, settings::Environment};

    fn settings(globals: &Globals) -> Settings {
        let profile = Profile { account: Some("kept".into()), ..Profile::default() };
        Settings::resolve(globals, &Environment::default(), &profile).unwrap()
    }

    #[test]
    fn r155_missing_parts_come_from_the_settings() {
        let none = Globals::default();
        let read = |typed: &str| {
            let vm = vm(typed, &none, &settings(&none)).unwrap();
            format!("{} {} {}", vm.vm, vm.group, vm.account.unwrap())
        };
        assert_eq!(read("web1"), "web1 default kept");
        assert_eq!(read("web1.shop"), "web1 shop kept");
        assert_eq!(read("web1.shop.acme"), "web1 shop acme");
        assert_eq!(read("web1.shop.acme.lab.bigv.example"), "web1 shop acme");
    }

    #[test]
    fn a_contradiction_is_named() {
        let globals = Globals { group_name: Some("shop".into()), ..Globals::default() };
        assert_eq!(vm("web1", &globals, &settings(&globals)).unwrap().group, "shop");
        assert_eq!(vm("web1.shop", &globals, &settings(&globals)).unwrap().group, "shop");
        let error = vm("web1.other", &globals, &settings(&globals)).unwrap_err().to_string();
        assert!(error.contains("web1.other") && error.contains("shop"), "{error}");
    }
}
