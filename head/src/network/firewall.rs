//! Keeps the kernel's fence as machines come and go, with the `nft` program.
//!
//! What is wanted is kept here and compared with what the kernel has at every change, and now and then:
//! another program may flush every table there is.

use super::{
    fence::{Fence, Observed, Permit},
    range::Range,
};
use crate::{
    config::{Config, FirewallPolicy},
    vm::spec::Disc,
};
use serde_json::Value;
use std::{collections::BTreeSet, io, path::PathBuf, process::Stdio, time::Duration};
use thiserror::Error;
use tokio::{io::AsyncWriteExt, process::Command, sync::Mutex, time::timeout};

/// Why the fence is not as wanted.
#[derive(Debug, Error)]
pub enum FirewallError {
    /// The kernel does not tell the head's own networks.
    #[error("cannot learn which networks this head is in")]
    Networks(#[source] io::Error),
    /// `nft` cannot be run.
    #[error("cannot run {0} (of the package nftables), which keeps each machine off the discs of others")]
    Run(PathBuf, #[source] io::Error),
    /// It did not come back.
    #[error("nft {0} did not end within {seconds} s", seconds = NFT_DEADLINE.as_secs())]
    Late(&'static str),
    /// It refused.
    #[error("nft {action} failed: {complaint}")]
    Refused {
        /// What was asked.
        action: &'static str,
        /// What it said.
        complaint: String,
    },
    /// Its answer is not what it should be.
    #[error("nft gave a list of {0} that cannot be read")]
    Answer(&'static str),
}

/// `nft` works on the kernel's tables only; it waits for nothing but the lock on them.
const NFT_DEADLINE: Duration = Duration::from_secs(20);

/// The family of the table when it kept machines off discs only.
const FORMER_FAMILY: &str = "ip6";

/// Of what nft complains of.
const COMPLAINT_CHARS_MAX: usize = 300;

/// The fence of this head's machines.
#[derive(Debug)]
pub struct Firewall {
    fence: Fence,
    nft: PathBuf,
    /// False when the operator does without a fence where there can be none.
    works: bool,
    required: bool,
    /// None until it is known which machines are here: nobody is cut off before that.
    wanted: Mutex<Option<BTreeSet<Permit>>>,
}

impl Firewall {
    /// Looks whether there can be a fence, and changes nothing yet.
    ///
    /// # Errors
    /// When there can be none, and the configuration requires it.
    pub async fn new(config: &Config) -> Result<Self, FirewallError> {
        Self::with_program(config, "nft".into()).await
    }

    async fn with_program(config: &Config, nft: PathBuf) -> Result<Self, FirewallError> {
        let own = Range::of_this_machine().map_err(FirewallError::Networks)?;
        let fence = Fence::new(config, own);
        let required = config.firewall == FirewallPolicy::Require;
        let mut firewall = Self { fence, nft, works: true, required, wanted: Mutex::default() };
        if let Err(error) = firewall.observe().await {
            if required {
                return Err(error);
            }
            let cause = error.to_string();
            tracing::warn!(cause, "firewall = \"warn\": nothing keeps machines off the discs of others but the keys");
            firewall.works = false;
        }
        Ok(firewall)
    }

    /// Takes these machines' permits, and no others, as wanted.
    ///
    /// # Errors
    /// When the kernel's fence cannot be made so, and the configuration requires it.
    pub async fn keep<'a>(&self, machines: impl Iterator<Item = (u32, &'a [Disc])>) -> Result<(), FirewallError> {
        let permits = machines.flat_map(|(uid, discs)| self.fence.permits(uid, discs)).collect();
        let mut wanted = self.wanted.lock().await;
        *wanted = Some(permits);
        self.apply(wanted.as_ref()).await?;
        if self.works
            && let Err(error) = self.forget_former().await
        {
            let cause = error.to_string();
            tracing::warn!(cause, "cannot delete the table that an earlier version of this program has left");
        }
        Ok(())
    }

    /// Deletes the table that earlier versions had: it lets machines of their time through, and no others. The one
    /// that takes its place is up.
    async fn forget_former(&self) -> Result<(), FirewallError> {
        if self.has_table(FORMER_FAMILY).await? {
            let table = self.fence.table();
            self.nft("delete", &["delete", "table", FORMER_FAMILY, &table], String::new()).await?;
            tracing::info!(table, "deleted the table that an earlier version had left");
        }
        Ok(())
    }

    /// Lets a machine reach its own discs.
    ///
    /// # Errors
    /// As [`Self::keep`].
    pub async fn admit(&self, uid: u32, discs: &[Disc]) -> Result<(), FirewallError> {
        let mut wanted = self.wanted.lock().await;
        wanted.get_or_insert_default().extend(self.fence.permits(uid, discs));
        self.apply(wanted.as_ref()).await
    }

    /// Lets the next machine with this uid reach nothing. Before [`Self::keep`] there is nothing to do.
    ///
    /// # Errors
    /// As [`Self::keep`].
    pub async fn withdraw(&self, uid: u32) -> Result<(), FirewallError> {
        let mut wanted = self.wanted.lock().await;
        if let Some(permits) = wanted.as_mut() {
            permits.retain(|permit| permit.uid != uid);
        }
        self.apply(wanted.as_ref()).await
    }

    /// Puts up again what somebody else took down.
    pub async fn mend(&self) {
        let wanted = self.wanted.lock().await;
        if let Err(error) = self.apply(wanted.as_ref()).await {
            let cause = error.to_string();
            tracing::error!(cause, "cannot look after the fence that keeps machines off the discs of others");
        }
    }

    async fn apply(&self, wanted: Option<&BTreeSet<Permit>>) -> Result<(), FirewallError> {
        let Some(wanted) = wanted.filter(|_| self.works) else { return Ok(()) };
        match self.try_apply(wanted).await {
            Err(error) if !self.required => {
                let cause = error.to_string();
                tracing::warn!(cause, "the fence that keeps machines off the discs of others is not as it should be");
                Ok(())
            }
            result => result,
        }
    }

    async fn try_apply(&self, wanted: &BTreeSet<Permit>) -> Result<(), FirewallError> {
        match self.fence.plan(wanted, self.observe().await?.as_ref()) {
            Some(script) => self.nft("-f -", &["-f", "-"], script).await.map(drop),
            None => Ok(()),
        }
    }

    async fn observe(&self) -> Result<Option<Observed>, FirewallError> {
        if !self.has_table("inet").await? {
            return Ok(None);
        }
        let name = self.fence.table();
        let table = self.list("the table", &["-nj", "list", "table", "inet", &name]).await?;
        Observed::read(&table).map(Some).ok_or(FirewallError::Answer("the table"))
    }

    /// True when there is a table of this head's name in a family.
    async fn has_table(&self, family: &str) -> Result<bool, FirewallError> {
        let name = self.fence.table();
        let tables = self.list("tables", &["-nj", "list", "tables", family]).await?;
        let rows = tables["nftables"].as_array().ok_or(FirewallError::Answer("tables"))?;
        Ok(rows.iter().any(|row| row["table"]["name"] == name.as_str()))
    }

    async fn list(&self, what: &'static str, arguments: &[&str]) -> Result<Value, FirewallError> {
        let said = self.nft("list", arguments, String::new()).await?;
        serde_json::from_slice(&said).map_err(|_| FirewallError::Answer(what))
    }

    async fn nft(&self, action: &'static str, arguments: &[&str], input: String) -> Result<Vec<u8>, FirewallError> {
        let failed = |source| FirewallError::Run(self.nft.clone(), source);
        let mut command = Command::new(&self.nft);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(failed)?;
        let mut stdin = child.stdin.take().expect("it is piped");
        let talk = async {
            // nft that ends early says why.
            let _ = stdin.write_all(input.as_bytes()).await;
            drop(stdin);
            child.wait_with_output().await
        };
        let output = timeout(NFT_DEADLINE, talk).await.map_err(|_| FirewallError::Late(action))?.map_err(failed)?;
        match output.status.success() {
            true => Ok(output.stdout),
            false => {
                let said = String::from_utf8_lossy(&output.stderr);
                let complaint = said.split_whitespace().collect::<Vec<_>>().join(" ");
                let complaint = complaint.chars().take(COMPLAINT_CHARS_MAX).collect();
                Err(FirewallError::Refused { action, complaint })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::EXAMPLE;

    #[tokio::test]
    async fn rule_6_without_nft_the_operator_decides() {
        let nft = || PathBuf::from("/nonexistent/nft");
        let required: Config = toml::from_str(EXAMPLE).unwrap();
        let error = Firewall::with_program(&required, nft()).await.unwrap_err().to_string();
        assert!(error.starts_with("cannot run /nonexistent/nft (of the package nftables)"), "{error}");
        let warned: Config =
            toml::from_str(&EXAMPLE.replace("# firewall = \"require\"", "firewall = \"warn\"")).unwrap();
        let firewall = Firewall::with_program(&warned, nft()).await.unwrap();
        firewall.admit(70_000, &[]).await.expect("machines run nevertheless");
    }

    #[tokio::test]
    async fn what_nft_complains_of_is_passed_on() {
        let required: Config = toml::from_str(EXAMPLE).unwrap();
        let error = Firewall::with_program(&required, "false".into()).await.unwrap_err();
        assert!(matches!(error, FirewallError::Refused { action: "list", .. }), "{error}");
        let error = Firewall::with_program(&required, "true".into()).await.unwrap_err();
        assert!(matches!(error, FirewallError::Answer("tables")), "{error}");
    }
}
