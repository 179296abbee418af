//! Waiting for a migration job: until each of its discs has come to an end.

use super::{Patience, Verdict};
use crate::{
    args::WaitArgs,
    client::{Answer, ClientError},
    context::Context,
    error::Error,
};
use spine::api::{Disc, DiscMove, MigrationJob};
use std::time::Duration;

/// Whole tails are emptied: a day, unless an option says otherwise.
const JOB_TIME_MAX: Duration = Duration::from_secs(86_400);

/// Waits as the options say, and gives the job as it is then.
///
/// # Errors
/// When a disc was not moved, with the reason and what to do.
pub fn finished(
    context: &Context,
    ordered: Answer<MigrationJob>,
    args: &WaitArgs,
) -> Result<Answer<MigrationJob>, Error> {
    if args.no_wait {
        return Ok(ordered);
    }
    let mut latest = ordered;
    let id = latest.value.id;
    let client = context.client()?;
    let number = u64::try_from(id).unwrap_or(0);
    let patience = Patience {
        name: name(&latest.value),
        time_max: JOB_TIME_MAX,
        going_on: format!("migration {id} goes on"),
        look: format!("bigv show migration {id} --admin"),
        advice: Some(format!("call it off with `bigv update migration --id {id} --cancel-all --admin`")),
    };
    patience.with(args).ask(|_, _| {
        latest = client.job(number)?;
        let moving = if latest.value.active.discs.is_empty() { Vec::new() } else { client.migrating_discs()?.value };
        Ok::<_, ClientError>(judge(&latest.value, &moving))
    })?;
    match complaint(&latest.value) {
        None => Ok(latest),
        Some(text) => Err(Error::Failed(text)),
    }
}

fn name(job: &MigrationJob) -> String {
    match job.discs.as_slice() {
        [only] => format!("disc {}", only.id),
        several => format!("{} discs", several.len()),
    }
}

fn judge(job: &MigrationJob, moving: &[Disc]) -> Verdict {
    if job.finished_at.is_some() {
        return Verdict::Reached;
    }
    let own = |id: &i64| moving.iter().find(|disc| disc.id == *id)?.moving.as_ref();
    let moves: Vec<&DiscMove> = job.active.discs.iter().filter_map(own).collect();
    let ended = job.discs.len().saturating_sub(job.active.discs.len() + job.queue.discs.len());
    let percents =
        ended * 100 + moves.iter().map(|one| usize::try_from(one.migration_progress).unwrap_or(0)).sum::<usize>();
    let text = match (job.discs.as_slice(), moves.as_slice()) {
        ([only], []) => match &only.reason {
            Some(reason) => format!("{}: {reason}", only.state),
            None => only.state.clone(),
        },
        ([_], [only]) => move_text(only),
        _ => format!("{ended} ended, {} moving, {} queued", job.active.discs.len(), job.queue.discs.len()),
    };
    let percent = percents.checked_div(job.discs.len()).and_then(|percent| u64::try_from(percent).ok());
    Verdict::NotYet { text, percent: percent.map(|percent| percent.min(100)) }
}

/// `copying, 12 s left, 110 of at most 120 MB/s, to tail2-sata1`: what matters most comes first, for a progress bar may cut the rest off.
pub fn move_text(one: &DiscMove) -> String {
    let eta = one.migration_eta.map(|seconds| format!(", {seconds} s left")).unwrap_or_default();
    let limit = one.migration_limit_mb_per_s.map(|limit| format!(" of at most {limit}")).unwrap_or_default();
    let speed = one.migration_speed.map(|speed| format!(", {speed}{limit} MB/s")).unwrap_or_default();
    let why = one.migration_reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("{}{eta}{speed}, to {}{why}", one.migration_phase, one.new_storage_pool)
}

/// What went wrong, and what to do; none when every disc was moved.
fn complaint(job: &MigrationJob) -> Option<String> {
    let bad: Vec<_> = job.discs.iter().filter(|disc| disc.state != "done").collect();
    let first = bad.first()?;
    let reason = first.reason.as_deref().unwrap_or("the brain does not say why");
    let more = match bad.len() {
        1 => String::new(),
        count => format!("; {} more are in `bigv show migration {} --admin`", count - 1, job.id),
    };
    Some(format!(
        "disc {} was not moved and is where it was ({}: {reason}){more}. When that is out of the way, order it again",
        first.id, first.state
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn job(discs: &[(i64, &str)], finished: bool) -> MigrationJob {
        let ids =
            |state: &str| -> Vec<i64> { discs.iter().filter(|(_, own)| *own == state).map(|(id, _)| *id).collect() };
        let list: Vec<_> = discs
            .iter()
            .map(|(id, state)| json!({"id": id, "from": "a", "to": "b", "state": state, "reason": "because"}))
            .collect();
        serde_json::from_value(json!({
            "id": 5, "args": {}, "queue": {"discs": ids("queued")}, "active": {"discs": ids("moving")},
            "destinations": {}, "status": {"discs": {"done": ids("done"), "errored": [], "cancelled": [], "skipped": []}},
            "discs": list, "priority": 0, "started_at": null, "finished_at": finished.then_some("now"),
            "created_at": null, "updated_at": null,
        }))
        .unwrap()
    }

    fn moving(id: i64, percent: i64) -> Disc {
        serde_json::from_value(json!({
            "id": id, "label": "vda", "size": 50, "virtual_machine_id": 1, "storage_pool": "a", "storage_grade": "sata",
            "backup_count": 0, "backups_enabled": false, "new_storage_pool": "b", "new_storage_grade": "sata",
            "migration_job_id": 5, "migration_phase": "copying", "migration_progress": percent, "migration_speed": 110,
            "migration_eta": 12,
        }))
        .unwrap()
    }

    #[test]
    fn the_news_of_one_disc_and_of_many() {
        let not_yet = |text: &str, percent| Verdict::NotYet { text: text.to_owned(), percent: Some(percent) };
        assert_eq!(judge(&job(&[(1, "queued")], false), &[]), not_yet("queued: because", 0));
        let one = judge(&job(&[(1, "moving")], false), &[moving(1, 40), moving(9, 1)]);
        assert_eq!(one, not_yet("copying, 12 s left, 110 MB/s, to b", 40));
        let all = job(&[(1, "done"), (2, "moving"), (3, "queued"), (4, "queued")], false);
        let mut limited = moving(2, 60).moving.unwrap();
        limited.migration_limit_mb_per_s = Some(120);
        assert_eq!(move_text(&limited), "copying, 12 s left, 110 of at most 120 MB/s, to b");
        assert_eq!(judge(&all, &[moving(2, 60)]), not_yet("1 ended, 1 moving, 2 queued", 40));
        assert_eq!(judge(&job(&[(1, "errored")], true), &[]), Verdict::Reached);
    }

    #[test]
    fn what_was_not_moved_is_said_with_its_reason() {
        assert_eq!(complaint(&job(&[(1, "done")], true)), None);
        let text = complaint(&job(&[(1, "done"), (2, "errored"), (3, "skipped")], true)).unwrap();
        assert!(text.contains("disc 2") && text.contains("errored: because") && text.contains("1 more"), "{text}");
    }
}
