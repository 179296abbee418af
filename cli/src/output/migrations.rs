//! Pages about discs that move between tails.

use super::{Page, pages::size};
use crate::wait::job::move_text;
use spine::api::{Disc, DiscMove, MigrationJob, MigrationPlan, MigrationPlanDisc, OldCopy};

/// What a job would do, disc by disc.
pub fn plan(plan: &MigrationPlan) -> Page {
    moves(None, &plan.discs, "There are no discs to be moved.")
}

/// What the brain proposes when a pool is short.
pub fn proposed(discs: &[MigrationPlanDisc]) -> Page {
    let none = "None: no other pool takes them, or what is on its way out is enough.";
    moves(Some("moves that would help"), discs, none)
}

fn moves(title: Option<&'static str>, discs: &[MigrationPlanDisc], none: &str) -> Page {
    let rows = discs
        .iter()
        .map(|disc| {
            let to = disc.to.clone().unwrap_or_else(|| "stays".to_owned());
            let from = disc.from.clone().unwrap_or_default();
            let label = format!("{} {}", disc.virtual_machine, disc.label);
            vec![disc.id.to_string(), label, size(disc.size), from, to, disc.reason.clone()]
        })
        .collect();
    let headers = vec!["disc", "of VM", "size", "from", "to", "why"];
    Page::List { title, headers, rows, none: none.to_owned() }
}

/// Jobs.
pub fn jobs(jobs: &[MigrationJob]) -> Page {
    let rows = jobs
        .iter()
        .map(|job| {
            let ended = &job.status.discs;
            let bad = ended.errored.len() + ended.cancelled.len() + ended.skipped.len();
            let numbers = [job.queue.discs.len(), job.active.discs.len(), ended.done.len(), bad];
            let mut row = vec![job.id.to_string(), state(job).to_owned()];
            row.extend(numbers.map(|number| number.to_string()));
            row.extend([job.priority.to_string(), job.created_by.clone()]);
            row
        })
        .collect();
    let headers = vec!["job", "state", "queued", "moving", "done", "not done", "priority", "by"];
    Page::List { title: None, headers, rows, none: "There are no migrations.".to_owned() }
}

/// One job with its discs.
pub fn job(job: &MigrationJob) -> Page {
    let mut facts = vec![
        ("job", job.id.to_string()),
        ("state", state(job).to_owned()),
        ("priority", job.priority.to_string()),
        ("ordered", format!("{} by {}", job.created_at.as_deref().unwrap_or("-"), job.created_by)),
    ];
    let optional = [("stopped", &job.stopped_reason), ("started", &job.started_at), ("finished", &job.finished_at)];
    facts.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
    let rows = job
        .discs
        .iter()
        .map(|disc| {
            let to = disc.to.clone().unwrap_or_else(|| "-".to_owned());
            let reason = disc.reason.clone().unwrap_or_default();
            vec![disc.id.to_string(), disc.state.clone(), disc.from.clone(), to, reason]
        })
        .collect();
    let none = "It has no discs: nothing was there to be moved.".to_owned();
    let discs = Page::List { title: Some("discs"), headers: vec!["disc", "state", "from", "to", "reason"], rows, none };
    Page::Several(vec![Page::Facts(facts), discs])
}

fn state(job: &MigrationJob) -> &'static str {
    match (&job.finished_at, &job.stopped_reason, &job.started_at) {
        (Some(_), _, _) => "finished",
        (None, Some(_), _) => "stopping",
        (None, None, Some(_)) => "moving",
        (None, None, None) => "queued",
    }
}

/// The discs that are moving.
pub fn migrating(discs: &[Disc]) -> Page {
    let rows = discs
        .iter()
        .filter_map(|disc| {
            let moving = disc.moving.as_ref()?;
            let pause = moving.migration_expected_pause_ms.map(|ms| format!("{ms} ms")).unwrap_or_default();
            Some(vec![
                disc.id.to_string(),
                size(disc.size),
                disc.storage_pool.clone().unwrap_or_default(),
                format!("{}%", moving.migration_progress),
                now(disc, moving),
                pause,
                moving.migration_job_id.to_string(),
            ])
        })
        .collect();
    let headers = vec!["disc", "size", "from", "", "now", "pause", "job"];
    Page::List { title: None, headers, rows, none: "No disc is moving.".to_owned() }
}

/// How far the move is, or what the disc waits for: without its tail nothing is known of the move.
fn now(disc: &Disc, moving: &DiscMove) -> String {
    let status = disc.status.as_ref().filter(|status| matches!(status.state.as_str(), "waiting" | "failed"));
    match status.and_then(|status| Some((&status.state, status.reason.as_ref()?))) {
        Some((state, reason)) => format!("{state}: {reason}"),
        None => move_text(moving),
    }
}

/// What tails have of discs that are other tails' now.
pub fn old_copies(copies: &[OldCopy]) -> Page {
    let rows = copies
        .iter()
        .map(|copy| {
            let what = match (&copy.superseded_by, copy.kept) {
                (Some(by), true) => format!("kept: {by} was given the disc"),
                (_, false) | (None, _) => "goes by itself".to_owned(),
            };
            let disc = copy.disc_id.map_or_else(|| "gone".to_owned(), |id| id.to_string());
            vec![disc, copy.number.to_string(), copy.tail.clone(), copy.since.clone().unwrap_or_default(), what]
        })
        .collect();
    let none = "There are no old copies.".to_owned();
    Page::List { title: None, headers: vec!["disc", "number", "on", "since", ""], rows, none }
}
