//! Waiting for a disc: to be made, or to have its new size.

use super::{Patience, Verdict, not_yet};
use crate::{
    args::WaitArgs,
    client::{Answer, VmPath},
    context::Context,
    error::Error,
};
use spine::api::Disc;
use std::time::Duration;

/// Making and resizing take seconds; a tail that restarts may take minutes.
const DISC_TIME_MAX: Duration = Duration::from_secs(600);
/// For so long a disc that was being served before, and has been since, may be so because nothing
/// has happened yet.
const OLD_NEWS: Duration = Duration::from_secs(3);

/// Waits as the options say, and gives the disc as it is then. `before` is the disc before it was
/// changed; none for a new one.
pub fn settled(
    context: &Context,
    vm: &VmPath,
    changed: Answer<Disc>,
    before: Option<&Disc>,
    args: &WaitArgs,
) -> Result<Answer<Disc>, Error> {
    let mut latest = changed;
    if args.no_wait {
        return Ok(latest);
    }
    let label = latest.value.label.clone();
    let client = context.client()?;
    let patience = Patience {
        name: label.clone(),
        time_max: DISC_TIME_MAX,
        going_on: format!("disc {label} of {vm} is still being made or changed"),
        look: format!("bigv disc list {vm}"),
        advice: None,
    };
    patience.with(args).ask(|_, elapsed| {
        latest = client.disc(vm, &label)?;
        Ok(judge(before, &latest.value, elapsed))
    })?;
    Ok(latest)
}

fn judge(before: Option<&Disc>, disc: &Disc, elapsed: Duration) -> Verdict {
    // A brain that says nothing of its state has it done when it answers.
    let Some(status) = &disc.status else { return Verdict::Reached };
    let old = before.and_then(|disc| disc.status.as_ref());
    let unchanged = old.is_some_and(|old| old.state == status.state && old.since == status.since);
    let is_news = !unchanged || elapsed >= OLD_NEWS;
    match status.state.as_str() {
        "serving" if is_news => Verdict::Reached,
        "failed" if is_news => {
            let reason = status.reason.clone();
            Verdict::Failed(reason.unwrap_or_else(|| "it failed, and the brain does not say why".to_owned()))
        }
        state => not_yet(state, Some(status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disc(state: &str, since: &str) -> Disc {
        serde_json::from_value(serde_json::json!({
            "id": 1, "label": "disc-1", "size": 50, "virtual_machine_id": 1, "storage_pool": null,
            "storage_grade": "sata", "backup_count": 0, "backups_enabled": false,
            "status": {"state": state, "since": since, "reason": "because"},
        }))
        .unwrap()
    }

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn a_new_disc_is_waited_for() {
        assert!(matches!(judge(None, &disc("waiting", "t1"), NOW), Verdict::NotYet { .. }));
        assert_eq!(judge(None, &disc("serving", "t2"), NOW), Verdict::Reached);
        assert_eq!(judge(None, &disc("failed", "t2"), NOW), Verdict::Failed("because".into()));
    }

    #[test]
    fn a_changed_disc_is_not_done_before_it_began() {
        let before = disc("serving", "t1");
        let judge = |disc: &Disc, elapsed| judge(Some(&before), disc, elapsed);
        assert!(matches!(judge(&disc("serving", "t1"), NOW), Verdict::NotYet { .. }));
        assert_eq!(judge(&disc("serving", "t2"), NOW), Verdict::Reached);
        assert_eq!(judge(&disc("serving", "t1"), OLD_NEWS), Verdict::Reached);
    }

    #[test]
    fn a_brain_without_status_is_done_at_once() {
        let mut disc = disc("", "");
        disc.status = None;
        assert_eq!(judge(None, &disc, NOW), Verdict::Reached);
    }
}
