//! Waiting for a VM.

use super::{Patience, Verdict, not_yet};
use crate::{args::WaitArgs, client::VmPath, command, context::Context, error::Error, output::Output};
use spine::api::VirtualMachine;
use std::time::Duration;

/// For so long a failure from before the operation is taken for old news.
const OLD_NEWS: Duration = Duration::from_secs(10);

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// It runs.
    Running,
    /// It runs again, after its power was cut.
    RunningAgain,
    /// It is off.
    Off,
}

/// A wait.
pub struct Wait<'a> {
    /// For which VM.
    pub vm: &'a VmPath,
    /// For what.
    pub want: Want,
    /// The VM as it was before the operation, to tell old news from new.
    pub before: Option<&'a VirtualMachine>,
    /// How long at most.
    pub time_max: Duration,
    /// What goes on, for the last words: `web1.default.acme is still being made`.
    pub going_on: String,
    /// What else may be done when the time is up.
    pub advice: Option<String>,
}

impl Wait<'_> {
    /// Waits as long as the options say, and shows the VM.
    pub fn show_after(self, context: &Context, args: &WaitArgs) -> Result<Output, Error> {
        if !args.no_wait {
            self.run(context, args)?;
        }
        command::vm::show(context, self.vm)
    }

    fn run(&self, context: &Context, args: &WaitArgs) -> Result<(), Error> {
        let client = context.client()?;
        let patience = Patience {
            name: self.vm.to_string(),
            time_max: self.time_max,
            going_on: self.going_on.clone(),
            look: format!("bigv vm show {}", self.vm),
            advice: self.advice.clone(),
        };
        let mut seen_otherwise = false;
        patience.with(args).ask(|time, elapsed| {
            let now = client.vm_when(self.vm, self.want.until(), time)?.value;
            let verdict = judge(self.want, self.before, &now, seen_otherwise, elapsed);
            seen_otherwise |= state(&now) != "running";
            Ok(verdict)
        })
    }
}

impl Want {
    /// The states that are news for us: the brain answers at once when it is in one of them.
    fn until(self) -> &'static str {
        match self {
            Self::Running | Self::RunningAgain => "running,failed",
            Self::Off => "off",
        }
    }
}

/// The VM's state: the brain's word, or what follows from the rest for a brain that has none.
pub fn state(vm: &VirtualMachine) -> &str {
    match &vm.status {
        Some(status) => &status.state,
        None if vm.deleted => "deleted",
        None if vm.head.is_some() => "running",
        None if vm.power_on => "starting",
        None => "off",
    }
}

/// `seen_otherwise`: it was seen in another state than running since the operation began.
fn judge(
    want: Want,
    before: Option<&VirtualMachine>,
    vm: &VirtualMachine,
    seen_otherwise: bool,
    elapsed: Duration,
) -> Verdict {
    let since = |vm: &VirtualMachine| vm.status.as_ref().and_then(|status| status.since.clone());
    // The same state since the same time: nothing has happened yet.
    let unchanged =
        before.is_some_and(|old| state(old) == state(vm) && since(old).is_some() && since(old) == since(vm));
    match (want, state(vm)) {
        (_, "deleted") => return Verdict::Failed("it was deleted meanwhile".to_owned()),
        (Want::Running, "running") if vm.power_on => return Verdict::Reached,
        // The brain takes power_on back when the old run has ended.
        (Want::RunningAgain, "running") if vm.power_on && (seen_otherwise || !unchanged) => return Verdict::Reached,
        (Want::Off, "off") => return Verdict::Reached,
        (Want::Running | Want::RunningAgain, "failed") if !unchanged || elapsed > OLD_NEWS => {
            let reason = vm.status.as_ref().and_then(|status| status.reason.clone());
            return Verdict::Failed(reason.unwrap_or_else(|| "it failed, and the brain does not say why".to_owned()));
        }
        _ => {}
    }
    not_yet(state(vm), vm.status.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use spine::api::Status;

    fn vm(state: &str, since: Option<&str>, power_on: bool) -> VirtualMachine {
        let json = serde_json::json!({
            "id": 1, "name": "web1", "group_id": 1, "autoreboot_on": true, "power_on": power_on, "cores": 1,
            "memory": 1024, "deleted": false, "hostname": "web1.default.acme.lab", "hardware_profile_locked": false,
        });
        let mut vm: VirtualMachine = serde_json::from_value(json).unwrap();
        vm.status = Some(Status {
            state: state.into(),
            reason: Some("because".into()),
            since: since.map(str::to_owned),
            progress: None,
        });
        vm
    }

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn a_restart_is_done_only_when_it_runs_anew() {
        let before = vm("running", Some("t1"), true);
        let again = |now: &VirtualMachine| judge(Want::RunningAgain, Some(&before), now, false, NOW);
        assert!(matches!(again(&vm("running", Some("t1"), false)), Verdict::NotYet { .. }));
        assert!(matches!(again(&vm("running", Some("t1"), true)), Verdict::NotYet { .. }));
        assert!(matches!(again(&vm("starting", Some("t2"), true)), Verdict::NotYet { .. }));
        assert_eq!(again(&vm("running", Some("t3"), true)), Verdict::Reached);
        // Within the same second: what it was in between tells.
        let second = vm("running", Some("t1"), true);
        assert_eq!(judge(Want::RunningAgain, Some(&before), &second, true, NOW), Verdict::Reached);
        // A brain that does not say since when: power_on tells.
        assert!(matches!(again(&vm("running", None, false)), Verdict::NotYet { .. }));
        assert_eq!(again(&vm("running", None, true)), Verdict::Reached);
    }

    #[test]
    fn an_old_failure_is_old_news_for_a_while() {
        let before = vm("failed", Some("t1"), false);
        let now = vm("failed", Some("t1"), true);
        assert!(matches!(judge(Want::Running, Some(&before), &now, false, NOW), Verdict::NotYet { .. }));
        let late = judge(Want::Running, Some(&before), &now, false, OLD_NEWS * 2);
        assert_eq!(late, Verdict::Failed("because".into()));
        let fresh = judge(Want::Running, Some(&before), &vm("failed", Some("t2"), true), false, NOW);
        assert_eq!(fresh, Verdict::Failed("because".into()));
    }

    #[test]
    fn what_it_waits_for_is_shown() {
        let mut now = vm("imaging", None, true);
        now.status.as_mut().unwrap().progress = Some(400);
        let verdict = judge(Want::Running, None, &now, false, NOW);
        assert_eq!(verdict, Verdict::NotYet { text: "imaging: because".into(), percent: Some(100) });
    }

    #[test]
    fn a_brain_without_status_is_understood() {
        let mut now = vm("", None, true);
        now.status = None;
        assert_eq!(state(&now), "starting");
        now.head = Some("head1".into());
        assert_eq!(judge(Want::Running, None, &now, false, NOW), Verdict::Reached);
        now.head = None;
        now.power_on = false;
        assert_eq!(judge(Want::Off, None, &now, false, NOW), Verdict::Reached);
    }
}
