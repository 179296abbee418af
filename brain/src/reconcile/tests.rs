//! What `plan` does in one situation each, as a table.

use super::{
    memory::Memory,
    observed::{Machine, Node, Observed, SeenDisc},
    plan::{Action, Plan, Purpose, Situation},
    resource::{RUN, Surroundings},
};
use crate::model::{
    change::Change,
    work::{CardRow, DiscRow, PoolRow, RunRow, RunState, Status, UserRow, VmRow, Work},
};
use serde_json::json;
use spine::{
    id::{AttachmentsVersion, DiscNumber, Generation},
    message::Command,
    resource::{
        Attributes,
        disc::{AttachmentReport, DiscReport, DiscState},
        migration::Ownership,
        vm::VmResource,
    },
    secret::Secret,
};
use std::time::Duration;
use time::OffsetDateTime;

pub(super) fn now() -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
}

pub(super) fn surroundings() -> Surroundings {
    Surroundings {
        cluster_domain: "lab.bigv.example".to_owned(),
        storage_prefix: "fd00:b16:0:d::/64".parse().unwrap(),
        networks: vec![],
    }
}

pub(super) fn disc(number: u64, tail: Option<&str>) -> DiscRow {
    DiscRow {
        number: DiscNumber(number),
        label: format!("vd{number}"),
        size_mib: 1024,
        grade: "sata".parse().unwrap(),
        pool: tail.map(|tail| PoolRow { id: 1, name: "sata1".parse().unwrap(), tail: tail.parse().unwrap() }),
        generation: Generation(1),
        attachments_version: AttachmentsVersion(0),
        made: false,
        image: None,
        image_ordered: false,
        shrink_forced: false,
        remove_reason: None,
        moving: None,
        status: Status::plain("waiting"),
    }
}

pub(super) fn vm(discs: Vec<DiscRow>) -> Work {
    Work {
        vm: VmRow {
            id: 17,
            name: "web1".to_owned(),
            group: "default".to_owned(),
            account: "acme".to_owned(),
            cores: 1,
            memory_mib: 256,
            power_on: true,
            power_ordered: false,
            autoreboot_on: true,
            cdrom_url: None,
            keymap: None,
            hardware_profile: None,
            management_address: None,
            management_ssh_keys: vec![],
            deleted: false,
            purged: false,
            status: Status::plain("off"),
        },
        discs,
        run: None,
        unconfirmed: vec![],
        leftovers: vec![],
        cards: vec![],
        users: vec![],
    }
}

pub(super) fn report(disc: &DiscRow) -> DiscReport {
    DiscReport {
        size: disc.size_bytes(),
        storage_pool: "sata1".parse().unwrap(),
        generation: disc.generation,
        attachments_version: disc.attachments_version,
        attachments: Some(vec![]),
        access_control_list: None,
        address: surroundings().storage_prefix.address_of(disc.number),
        allocated: 0,
        state: DiscState::Serving,
        owner: Ownership::Owner,
        migration: None,
        migration_progress: None,
        migration_eta: None,
        migration_speed: None,
        reason: None,
        progress: None,
        extra: Attributes::new(),
    }
}

/// A VM with one disc on tail1, made and served, and the tail's view of it.
pub(super) fn served() -> (Work, Observed) {
    let disc = DiscRow { made: true, ..disc(1, Some("tail1")) };
    let mut observed = Observed::default();
    observed.nodes.insert("tail1".parse().unwrap(), Node::Ready);
    observed.discs.insert(disc.number, SeenDisc::Report(report(&disc)));
    (vm(vec![disc]), observed)
}

/// The same with a run in some state on head1, its disc granted to it.
fn running(state: RunState) -> (Work, Observed) {
    let (mut work, mut observed) = served();
    let key = Secret::new("key5");
    let head = "fd00:b16:0:2::11".parse().unwrap();
    work.run = Some(RunRow {
        id: 5,
        head: "head1".parse().unwrap(),
        head_address: Some(head),
        key: key.clone(),
        state,
        started_at: now(),
    });
    let mut report = report(&work.discs[0]);
    report.attachments = Some(vec![AttachmentReport { head, key_hash: key.hash() }]);
    observed.discs.insert(DiscNumber(1), SeenDisc::Report(report));
    observed.nodes.insert("head1".parse().unwrap(), Node::Ready);
    (work, observed)
}

fn instance(work: &Work, head: &str, run: i64) -> Machine {
    let mut resource: VmResource = surroundings().resource(work, run, &Secret::new("key5"));
    for disc in &mut resource.discs {
        let key = disc.key.take().unwrap();
        disc.extra.insert("key_hash".to_owned(), json!(key.hash()));
    }
    resource.extra.insert(RUN.to_owned(), json!(run));
    Machine { head: head.parse().unwrap(), resource: Some(resource) }
}

pub(super) fn plan(work: &Work, observed: &Observed, memory: &Memory) -> Plan {
    Situation { work, observed, memory, surroundings: &surroundings(), now: now() }.plan()
}

/// What a plan's actions are for, in short.
pub(super) fn short(plan: &Plan) -> Vec<String> {
    let one = |action: &Action| match action {
        Action::Ask(ask) => format!("{}: {:?}", ask.node, ask.purpose),
        other => format!("{other:?}"),
    };
    plan.actions.iter().map(one).collect()
}

#[test]
fn a_disc_is_placed_made_and_then_the_vm_is_started() {
    let mut work = vm(vec![disc(1, None)]);
    let mut observed = Observed::default();
    let memory = Memory::default();
    assert_eq!(short(&plan(&work, &observed, &memory)), ["PlaceDisc(DiscNumber(1))"]);
    work.discs = vec![disc(1, Some("tail1"))];
    observed.nodes.insert("tail1".parse().unwrap(), Node::Away(now()));
    let waits = plan(&work, &observed, &memory);
    assert!(waits.actions.is_empty(), "nothing is decided without the tail");
    assert!(waits.status.reason.unwrap().contains("tail1 is not connected"));
    observed.nodes.insert("tail1".parse().unwrap(), Node::Ready);
    assert_eq!(short(&plan(&work, &observed, &memory)), ["tail1: MakeDisc(DiscNumber(1), None)"]);
    let (work, observed) = served();
    assert_eq!(short(&plan(&work, &observed, &memory)), ["OpenRun"]);
}

#[test]
fn a_disc_that_was_made_and_is_missing_is_never_made_again() {
    let (work, mut observed) = served();
    observed.discs.clear();
    let plan = plan(&work, &observed, &Memory::default());
    assert!(plan.actions.is_empty(), "{plan:?}");
    assert_eq!(plan.status.state, "failed");
    assert!(plan.disc_statuses[&DiscNumber(1)].reason.as_deref().unwrap().contains("missing on tail"));
}

#[test]
fn a_disc_whose_making_was_never_answered_is_taken_over_in_whatever_size() {
    let mut row = disc(1, Some("tail1"));
    let made = SeenDisc::Report(report(&row));
    row.size_mib = 2048;
    let mut observed = Observed::default();
    observed.nodes.insert("tail1".parse().unwrap(), Node::Ready);
    observed.discs.insert(row.number, made.clone());
    let mut work = vm(vec![row]);
    let memory = Memory::default();
    let adopted = Change::DiscMade { disc: DiscNumber(1), image: None };
    assert_eq!(plan(&work, &observed, &memory).actions, [Action::Record(adopted)]);
    work.discs[0].made = true;
    assert!(short(&plan(&work, &observed, &memory)).contains(&"tail1: Resize(DiscNumber(1), 2048)".to_owned()));

    work.discs[0].made = false;
    let SeenDisc::Report(made) = made else { unreachable!() };
    for stranger in [
        DiscReport { generation: Generation(7), ..made.clone() },
        DiscReport { storage_pool: "sata2".parse().unwrap(), ..made.clone() },
        DiscReport { attachments_version: AttachmentsVersion(1), ..made.clone() },
    ] {
        observed.discs.insert(DiscNumber(1), SeenDisc::Report(stranger));
        assert_eq!(short(&plan(&work, &observed, &memory)), ["tail1: MakeDisc(DiscNumber(1), None)"]);
    }
}

#[test]
fn console_users_fit_into_a_line_of_the_spine() {
    let mut work = vm(vec![]);
    let user = |n: usize| UserRow {
        username: format!("user{n:03}"),
        authorized_keys: Some("#\u{1}".repeat(4 << 10)),
        password_hash: Some(Secret::new("hash")),
    };
    work.users = (0..200).map(user).collect();
    work.users.push(UserRow { authorized_keys: None, ..user(200) });
    let resource = surroundings().resource(&work, 1, &Secret::new("k"));
    assert!(json!(resource).to_string().len() < spine::limits::OUTGOING_BYTES_MAX / 500);
    assert_eq!(resource.console_users.len(), resource.user_authentication.len());
    let kept: Vec<&str> = resource.console_users.iter().map(String::as_str).collect();
    assert_eq!(kept[..2], ["user000", "user001"], "by name");
    assert_eq!(kept.last(), Some(&"user200"), "who fits is not left out");
    assert!(surroundings().differences(&work, &resource).is_empty(), "what was left out is no difference");
}

#[test]
fn safety_rule_7_no_start_before_every_tail_has_said_ok_to_this_brain() {
    let (work, observed) = running(RunState::Attaching);
    let mut memory = Memory::default();
    // The tail seems to agree already; its ok is asked for all the same.
    let attach = "tail1: Attach(DiscNumber(1), AttachmentsVersion(0))";
    assert_eq!(short(&plan(&work, &observed, &memory)), [attach]);
    memory.granted.insert(DiscNumber(1), AttachmentsVersion(0));
    let next = plan(&work, &observed, &memory);
    assert_eq!(next.actions, [Action::Record(Change::RunMoved(RunState::Starting))]);
}

#[test]
fn safety_rule_8_a_tail_that_knows_a_higher_version_raises_ours_first() {
    let (work, mut observed) = running(RunState::Running);
    observed.machines = vec![instance(&work, "head1", 5)];
    let mut report = report(&work.discs[0]);
    report.attachments_version = AttachmentsVersion(9);
    observed.discs.insert(DiscNumber(1), SeenDisc::Report(report.clone()));
    let raised = Change::AttachmentsRaised { disc: DiscNumber(1), version: AttachmentsVersion(10) };
    assert_eq!(plan(&work, &observed, &Memory::default()).actions, [Action::Record(raised)]);
    report.generation = Generation(2);
    observed.discs.insert(DiscNumber(1), SeenDisc::Report(report));
    let newer = plan(&work, &observed, &Memory::default());
    assert!(newer.actions.is_empty(), "a disc newer than the database is left alone");
    assert_eq!(newer.disc_statuses[&DiscNumber(1)].state, "failed");
}

#[test]
fn r056_r166_a_vm_that_is_gone_ends_its_run_with_the_heads_reason() {
    let (work, mut observed) = running(RunState::Running);
    observed.gone = Some("guest shut down".to_owned());
    let ended = Change::RunEnded { reason: "guest shut down".to_owned(), stopped: true, confirmed: true };
    assert_eq!(plan(&work, &observed, &Memory::default()).actions, [Action::Record(ended)]);
}

#[test]
fn r057_r058_rogues_are_stopped_and_the_own_instance_is_kept() {
    let (mut work, mut observed) = running(RunState::Running);
    observed.machines = vec![instance(&work, "head1", 5)];
    let memory = Memory::default();
    assert!(plan(&work, &observed, &memory).actions.is_empty(), "adopted");
    observed.machines = vec![instance(&work, "head1", 4)];
    assert_eq!(short(&plan(&work, &observed, &memory)), ["head1: RemoveRogue"], "of an older run");
    observed.machines = vec![instance(&work, "head1", 5), instance(&work, "head2", 5)];
    assert_eq!(short(&plan(&work, &observed, &memory)), ["head2: RemoveRogue"], "started elsewhere");
    (work, observed) = served();
    work.vm.power_on = false;
    observed.machines = vec![instance(&work, "head1", 5)];
    assert_eq!(short(&plan(&work, &observed, &memory)), ["head1: RemoveRogue"], "off in the database");
}

#[test]
fn what_cannot_be_read_is_not_stopped() {
    let (work, mut observed) = running(RunState::Running);
    observed.machines = vec![Machine { head: "head1".parse().unwrap(), resource: None }];
    let plan = plan(&work, &observed, &Memory::default());
    assert!(plan.actions.is_empty() && plan.status.state == "running", "{plan:?}");
}

#[test]
fn r036_r175_lost_nodes_stop_nothing_and_are_named() {
    let (work, mut observed) = running(RunState::Running);
    observed.machines = vec![instance(&work, "head1", 5)];
    observed.nodes.insert("tail1".parse().unwrap(), Node::Away(now()));
    observed.discs.clear();
    let lost_tail = plan(&work, &observed, &Memory::default());
    assert!(lost_tail.actions.is_empty() && lost_tail.status.state == "running", "{lost_tail:?}");
    assert!(lost_tail.status.reason.unwrap().contains("tail1"));

    let (mut work, mut observed) = running(RunState::Running);
    observed.nodes.insert("head1".parse().unwrap(), Node::Away(now() - Duration::from_secs(3600)));
    let lost_head = plan(&work, &observed, &Memory::default());
    assert!(lost_head.actions.is_empty() && lost_head.status.state == "waiting", "{lost_head:?}");
    work.vm.power_on = false;
    let given_up = plan(&work, &observed, &Memory::default());
    assert!(matches!(given_up.actions[..], [Action::Record(Change::RunEnded { stopped: true, .. })]), "{given_up:?}");
    observed.nodes.insert("head1".parse().unwrap(), Node::Away(now()));
    let patient = plan(&work, &observed, &Memory::default());
    assert!(patient.actions.is_empty(), "it may be back in a moment");
    assert!(patient.status.reason.unwrap().contains("counts as off"), "its owner is told what it waits for");
}

#[test]
fn r087_changes_reach_a_running_guest_once_the_tail_has_them() {
    let (mut work, mut observed) = running(RunState::Running);
    observed.machines = vec![instance(&work, "head1", 5)];
    work.vm.cdrom_url = Some("http://example.org/cd.iso".to_owned());
    work.discs[0].size_mib = 2048;
    let memory = Memory::default();
    let first = plan(&work, &observed, &memory);
    assert_eq!(short(&first), ["tail1: Resize(DiscNumber(1), 2048)", "head1: Refresh"]);
    let Action::Ask(refresh) = &first.actions[1] else { panic!("{first:?}") };
    let Command::Update(_, changes) = &refresh.command else { panic!("{refresh:?}") };
    assert_eq!(changes.keys().collect::<Vec<_>>(), ["cdrom_url"], "the tail has the new size first");
    let mut grown = report(&work.discs[0]);
    let Some(SeenDisc::Report(old)) = observed.discs.get(&DiscNumber(1)) else { panic!() };
    grown.attachments = old.attachments.clone();
    observed.discs.insert(DiscNumber(1), SeenDisc::Report(grown));
    let second = plan(&work, &observed, &memory);
    let Action::Ask(refresh) = &second.actions[0] else { panic!("{second:?}") };
    let Command::Update(_, changes) = &refresh.command else { panic!("{refresh:?}") };
    assert_eq!(changes["discs"][0]["size"], 2048u64 << 20);
    assert!(!json!(changes).to_string().contains("key5"), "no key is sent again");
}

#[test]
fn a_disc_is_removed_only_when_no_machine_has_it() {
    let (mut work, mut observed) = running(RunState::Running);
    observed.machines = vec![instance(&work, "head1", 5)];
    work.discs[0].remove_reason = Some("its owner deleted it".to_owned());
    let in_use = plan(&work, &observed, &Memory::default());
    assert!(in_use.actions.is_empty(), "{in_use:?}");
    work.run = None;
    work.vm.power_on = false;
    observed.machines.clear();
    let plan = plan(&work, &observed, &Memory::default());
    assert_eq!(short(&plan), ["tail1: RemoveDisc(DiscNumber(1))"]);
    let Action::Ask(ask) = &plan.actions[0] else { panic!("{plan:?}") };
    assert_eq!(ask.purpose, Purpose::RemoveDisc(DiscNumber(1)));
    assert!(matches!(&ask.command, Command::Remove(_, why) if why["generation"] == 1), "safety rule 8");
}

#[test]
fn a_reimage_waits_for_the_withdrawal_and_the_start_for_the_image() {
    let (mut work, mut observed) = running(RunState::Running);
    work.run = None;
    work.discs[0].image = Some("tiny".parse().unwrap());
    work.discs[0].attachments_version = AttachmentsVersion(1);
    let memory = Memory::default();
    let attach = "tail1: Attach(DiscNumber(1), AttachmentsVersion(1))";
    assert_eq!(short(&plan(&work, &observed, &memory)), [attach], "the old attachment goes first");
    let mut free = report(&work.discs[0]);
    observed.discs.insert(DiscNumber(1), SeenDisc::Report(free.clone()));
    let order = r#"tail1: OrderImage(DiscNumber(1), ImageName("tiny"))"#;
    assert_eq!(short(&plan(&work, &observed, &memory)), [order]);
    work.discs[0].image_ordered = true;
    (free.state, free.progress) = (DiscState::Importing, Some(40));
    observed.discs.insert(DiscNumber(1), SeenDisc::Report(free));
    let importing = plan(&work, &observed, &memory);
    assert!(importing.actions.is_empty());
    assert_eq!((importing.status.state.as_str(), importing.status.progress), ("imaging", Some(40)));
}

#[test]
fn b07_the_hardware_profile_decides_what_discs_and_cards_are() {
    let mut work = vm(vec![disc(1, Some("tail1"))]);
    work.vm.hardware_profile = Some("compatibility2013".to_owned());
    work.cards = vec![CardRow { mac: "fe:ff:00:00:00:01".to_owned(), vlan: 1, ips: vec![] }];
    let resource = surroundings().resource(&work, 1, &Secret::new("k"));
    assert_eq!(resource.hardware_profile.as_deref(), Some("compatibility2013"));
    assert_eq!((&*resource.discs[0].model, &*resource.network_interfaces[0].model), ("", ""), "the profile's own");
}

#[test]
fn serials_are_short_and_tell_discs_apart() {
    let mut row = disc(7, None);
    let mut serial = |label: &str| {
        row.label = label.to_owned();
        let work = vm(vec![row.clone()]);
        surroundings().resource(&work, 1, &Secret::new("k")).discs[0].serial.clone().unwrap()
    };
    assert_eq!(serial("vda"), "vda");
    assert_eq!(serial("backups of last year"), "backups_of_last_ye-7");
    assert_eq!(serial("ä,if=none"), "__if_none-7");
}
