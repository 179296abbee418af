//! The store against a real PostgreSQL: what changes mean in memory is what they do to the rows.

mod common;

use brain::{
    model::{
        change::Change,
        migration::MigrationState,
        work::{Force, Forced, RunState, Undo, Work},
    },
    store::{
        Store, cluster, forced,
        migrations::{self, Sources},
        nodes, places, pools, purge, work as rows,
    },
};
use spine::{
    id::{AttachmentsVersion, DiscNumber, Generation, NodeName},
    limits::VERSIONS,
    message::{Hello, Role},
    secret::Secret,
};
use time::OffsetDateTime;

fn hello(name: &str, role: Role) -> Hello {
    let extra = serde_json::json!({"storage_address": "fd00:b16:0:2::11", "memory_total": 4096, "cores": 4});
    Hello {
        node: name.parse().unwrap(),
        role,
        spine: VERSIONS,
        boot: uuid::Uuid::new_v4(),
        cluster: None,
        epoch: Default::default(),
        extra: extra.as_object().unwrap().clone(),
    }
}

/// A VM with two discs, a card with addresses, and two nodes; returns the VM's number.
async fn furnish(store: &Store) -> i64 {
    let mut client = store.client().await.unwrap();
    let tx = client.transaction().await.unwrap();
    nodes::register(&tx, &hello("head1", Role::Head)).await.unwrap();
    nodes::register(&tx, &hello("tail1", Role::Tail)).await.unwrap();
    let reported = serde_json::json!({"sata1": {"grade": "sata", "size": 100u64 << 30, "free": 50u64 << 30,
        "allocated": 0, "promised": 0, "discs": 0, "note": "one drive"}});
    let tail: NodeName = "tail1".parse().unwrap();
    pools::report(&tx, &tail, &serde_json::from_value(reported).unwrap()).await.unwrap();
    let sql = "
        WITH a AS (INSERT INTO accounts (name) VALUES ('acme') RETURNING id),
             g AS (INSERT INTO groups (account_id, name) SELECT id, 'default' FROM a RETURNING id),
             u AS (INSERT INTO users (username, authorized_keys) VALUES ('amy', 'ssh-ed25519 A') RETURNING id),
             p AS (INSERT INTO privileges (user_id, level, group_id) SELECT u.id, 'vm_console', g.id FROM u, g),
             o AS (INSERT INTO users (username) VALUES ('bea'), ('cid') RETURNING id, username),
             q AS (INSERT INTO privileges (user_id, level, group_id, yubikey_required, ip_restrictions)
                   SELECT o.id, 'vm_console', g.id, username = 'bea', CASE username WHEN 'cid' THEN '192.0.2.0/24' END
                   FROM o, g),
             v AS (INSERT INTO virtual_machines (group_id, name, cores, memory_mib, power_on, autoreboot_on, management_ssh_keys,
                       management_address)
                   SELECT id, 'web1', 1, 256, true, false, '{key}', '10.16.3.100' FROM g RETURNING id),
             d AS (INSERT INTO discs (virtual_machine_id, position, label, size_mib, grade, image, shrink_forced)
                   SELECT v.id, n, 'vd' || n, 1024, 'sata', 'tiny', true FROM v, generate_series(0, 1) n),
             c AS (INSERT INTO nics (virtual_machine_id, position, vlan_num, mac)
                   SELECT id, 0, 1, 'fe:ff:00:00:00:01' FROM v RETURNING id),
             i AS (INSERT INTO ip_addresses (address, nic_id, vlan_num)
                   SELECT x::inet, c.id, 1 FROM c, unnest(ARRAY['fd00::5', '10.16.4.100']) x)
        SELECT id FROM v";
    let vm: i64 = tx.query_one(sql, &[]).await.unwrap().get(0);
    tx.commit().await.unwrap();
    vm
}

async fn load(store: &Store, vm: i64) -> Option<Work> {
    let mut client = store.client().await.unwrap();
    let tx = client.transaction().await.unwrap();
    rows::load(&tx, &[vm]).await.unwrap().pop()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_does_to_the_rows_what_it_means() {
    let Some(server) = common::Server::start().await else { return };
    let store = server.store().await;
    let vm = furnish(&store).await;
    let work = load(&store, vm).await.unwrap();
    let users: Vec<&str> = work.users.iter().map(|user| user.username.as_str()).collect();
    assert_eq!(users, ["amy"], "a console checks neither a Yubikey nor where somebody comes from");
    let ips: Vec<String> = work.cards[0].ips.iter().map(ToString::to_string).collect();
    assert_eq!(ips, ["10.16.4.100", "fd00::5"], "IPv4 first");
    let [first, second] = [work.discs[0].number, work.discs[1].number];
    let mut client = store.client().await.unwrap();
    let tx = client.transaction().await.unwrap();
    let pool = places::pools(&tx).await.unwrap()[0].id;
    rows::place_disc(&tx, first, pool).await.unwrap();
    rows::place_disc(&tx, second, pool).await.unwrap();
    let head: NodeName = "head1".parse().unwrap();
    assert!(rows::open_run(&tx, vm, &head, &Secret::new("k"), "head1: because").await.unwrap());
    assert!(!rows::open_run(&tx, vm, &head, &Secret::new("k2"), "again").await.unwrap(), "one open run");
    let promised = places::heads(&tx, vm).await.unwrap();
    assert_eq!((promised[0].memory_promised_mib, promised[0].owner_vms_count), (256, 1));
    assert_eq!(places::pools(&tx).await.unwrap()[0].promised_mib, 2048);
    tx.commit().await.unwrap();

    let run = load(&store, vm).await.unwrap().run.unwrap().id;
    let tiny = "tiny".parse().unwrap();
    let other = "other".parse().unwrap();
    let ended = |stopped, confirmed| Change::RunEnded { reason: "why".to_owned(), stopped, confirmed };
    let changes = [
        Change::DiscUnplaced { disc: second, reason: "full".to_owned() },
        Change::DiscMade { disc: first, image: Some(tiny) },
        Change::DiscMade { disc: second, image: Some(other) },
        Change::ImageOrdered { disc: second, image: "tiny".parse().unwrap() },
        Change::ImageWritten { disc: first, image: "other".parse().unwrap() },
        Change::ImageWritten { disc: first, image: "tiny".parse().unwrap() },
        Change::DiscShrunk { disc: first, size_mib: 1024 },
        Change::DiscShrunk { disc: second, size_mib: 1 },
        Change::AttachmentsRaised { disc: first, version: AttachmentsVersion(9) },
        Change::AttachmentsRaised { disc: first, version: AttachmentsVersion(3) },
        Change::RunMoved(RunState::Starting),
        Change::RunMoved(RunState::Running),
        Change::DiscRemoved(DiscNumber(4711)),
        ended(true, false),
        ended(true, true),
        Change::RunConfirmed(run),
        Change::AddressesFreed,
    ];
    for change in changes {
        let mut expected = load(&store, vm).await.unwrap();
        assert!(change.apply(&mut expected));
        let tx = client.transaction().await.unwrap();
        assert!(rows::lock(&tx, vm).await.unwrap());
        rows::write(&tx, vm, &change).await.unwrap();
        tx.commit().await.unwrap();
        let found = load(&store, vm).await.unwrap();
        assert_eq!(found, expected, "{change:?}");
    }
    assert!(!load(&store, vm).await.unwrap().vm.power_on, "autoreboot_on was false");
    let sql = "SELECT count(*) FROM events WHERE kind = 'vm-stopped' AND message = 'why'";
    assert_eq!(client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 1, "R166: once");
    drop(client);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r130_a_move_does_to_the_rows_what_it_means() {
    let Some(server) = common::Server::start().await else { return };
    let store = server.store().await;
    let vm = furnish(&store).await;
    let disc = load(&store, vm).await.unwrap().discs[0].number;
    let mut client = store.client().await.unwrap();
    let tx = client.transaction().await.unwrap();
    let mut tail2 = hello("tail2", Role::Tail);
    tail2.extra.insert("migration_address".to_owned(), "[fd00:b16:0:2::22]:7771".into());
    nodes::register(&tx, &tail2).await.unwrap();
    let reported = serde_json::json!({"ssd1": {"grade": "ssd", "size": 100u64 << 30, "free": 50u64 << 30,
        "allocated": 0, "promised": 0, "discs": 0}});
    pools::report(&tx, &tail2.node, &serde_json::from_value(reported).unwrap()).await.unwrap();
    let [source, target] = ["tail1-sata1", "tail2-ssd1"];
    let found = places::pools(&tx).await.unwrap();
    let id = |label: &str| found.iter().find(|pool| pool.label == label).unwrap().id;
    rows::place_disc(&tx, disc, id(source)).await.unwrap();
    assert_eq!(migrations::able_tails(&tx).await.unwrap(), ["tail2".to_owned()].into());
    let all = Sources { pool_ids: vec![id(source)], ..Sources::default() };
    let candidate = migrations::candidates(&tx, &all).await.unwrap().remove(0);
    let job = migrations::insert_job(&tx, &serde_json::json!({}), "root", 1).await.unwrap();
    migrations::insert(&tx, job, &candidate, Ok(id(target))).await.unwrap();
    let queue = migrations::queue(&tx, 10).await.unwrap();
    let [queued] = &queue[..] else { panic!("{queue:?}") };
    assert!(!queued.settled, "its image comes first");
    assert!(
        !migrations::begin(&tx, queued.id, id(target), None, "because").await.unwrap(),
        "and it is not begun before"
    );
    tx.execute("UPDATE discs SET made = true, image = NULL", &[]).await.unwrap();
    assert!(migrations::begin(&tx, queued.id, id(target), None, "because").await.unwrap());
    assert!(!migrations::begin(&tx, queued.id, id(target), None, "again").await.unwrap());
    assert_eq!(migrations::loads(&tx).await.unwrap()[&id(target)].moves_count, 1);
    let promised = |label: &str| found.iter().find(|pool| pool.label == label).unwrap().promised_mib;
    assert_eq!(promised(target), 0);
    assert_eq!(
        places::pools(&tx).await.unwrap().iter().map(|pool| pool.promised_mib).sum::<i64>(),
        2048,
        "at both ends"
    );
    let obstacle = migrations::candidates(&tx, &all).await.unwrap()[0].obstacle.clone();
    assert_eq!(obstacle.as_deref(), Some("it is being moved to tail2-ssd1 already"));
    tx.commit().await.unwrap();
    let moving = load(&store, vm).await.unwrap().discs[0].moving.clone().unwrap();
    assert_eq!((moving.generation, moving.target_grade.as_str()), (Generation(2), "ssd"));
    assert_eq!(moving.target_address.unwrap().port(), 7771);

    let undo = |reason: &str| Undo { reason: reason.to_owned(), state: MigrationState::Errored, stops_job: true };
    let apply = async |change: Change| {
        let mut expected = load(&store, vm).await.unwrap();
        assert!(change.apply(&mut expected));
        let mut client = store.client().await.unwrap();
        let tx = client.transaction().await.unwrap();
        assert!(rows::lock(&tx, vm).await.unwrap());
        rows::write(&tx, vm, &change).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(load(&store, vm).await.unwrap(), expected, "{change:?}");
    };
    let removed = |tail: &str, generation| Change::LeftoverRemoved {
        disc,
        tail: tail.parse().unwrap(),
        generation: Generation(generation),
    };
    apply(Change::MoveUndo { disc, undo: undo("it broke") }).await;
    apply(Change::MoveUndo { disc, undo: undo("later") }).await;
    apply(Change::MoveUndone(disc)).await;
    apply(Change::MoveUndone(disc)).await;
    apply(Change::DiscMoved(disc)).await;
    let tx = client.transaction().await.unwrap();
    let [job] = &migrations::jobs(&tx, None, false).await.unwrap()[..] else { panic!("one job") };
    assert!(job.finished_at.is_some() && job.stopped_reason.as_deref().unwrap().contains("it broke"), "{job:?}");
    let known = rows::known(&tx).await.unwrap();
    assert!(known.discs.contains(&(disc.0, "tail2".to_owned())), "R058: a leftover is no stray");
    let candidate = migrations::candidates(&tx, &all).await.unwrap().remove(0);
    assert_eq!(candidate.leftover_tails, ["tail2".to_owned()].into());
    let job = migrations::insert_job(&tx, &serde_json::json!({}), "root", 1).await.unwrap();
    migrations::insert(&tx, job, &candidate, Ok(id(target))).await.unwrap();
    let queued = migrations::queue(&tx, 10).await.unwrap().remove(0);
    assert!(migrations::begin(&tx, queued.id, id(target), None, "because").await.unwrap());
    tx.commit().await.unwrap();
    apply(removed("tail2", 2)).await;
    apply(Change::DiscMoved(disc)).await;
    let work = load(&store, vm).await.unwrap();
    assert_eq!((work.discs[0].generation, work.discs[0].grade.as_str()), (Generation(3), "ssd"), "nbd.md 3.9: g+2");
    apply(removed("tail1", 2)).await;
    assert_eq!(load(&store, vm).await.unwrap().leftovers.len(), 1, "of another generation");
    apply(removed("tail1", 3)).await;
    let tx = client.transaction().await.unwrap();
    let ended = migrations::of_jobs(&tx, &[job]).await.unwrap();
    assert_eq!(ended[0].state, MigrationState::Done);
    drop(tx);

    let all = Sources { disc_ids: vec![candidate.id], ..Sources::default() };
    // Each way of forcing an outcome, from the pool that it lies in now to another.
    for (how, target, lost, generation, state) in [
        (Force::Promote, "tail1-sata1", "tail2", 10, MigrationState::Done),
        (Force::TakeBack, "tail2-ssd1", "tail2", 12, MigrationState::Cancelled),
    ] {
        let tx = client.transaction().await.unwrap();
        let candidate = migrations::candidates(&tx, &all).await.unwrap().remove(0);
        let arguments = serde_json::json!({"options": {"limit_mb_per_s": 70}});
        let job = migrations::insert_job(&tx, &arguments, "root", 1).await.unwrap();
        migrations::insert(&tx, job, &candidate, Ok(id(target))).await.unwrap();
        let queued = migrations::queue(&tx, 10).await.unwrap().remove(0);
        // The least of what is said counts, and 0 says nothing.
        let (pool, limit) = if how == Force::Promote { (0, 70) } else { (60, 60) };
        tx.execute("UPDATE storage_pools SET migration_limit_mb_per_s = $1 WHERE label = 'tail1-sata1'", &[&pool])
            .await
            .unwrap();
        assert!(migrations::begin(&tx, queued.id, id(target), Some(90), "because").await.unwrap());
        let work = rows::load(&tx, &[vm]).await.unwrap().remove(0);
        assert_eq!(work.discs[0].moving.as_ref().unwrap().limit_mb_per_s, Some(limit));
        assert!(rows::lock(&tx, vm).await.unwrap());
        let order = forced::Order { how, by: "root", reason: "it burnt down", seen: Generation(9) };
        assert!(!forced::is_ordered(&tx, candidate.id).await.unwrap());
        forced::order(&tx, vm, disc, &order).await.unwrap();
        assert!(forced::is_ordered(&tx, candidate.id).await.unwrap());
        tx.commit().await.unwrap();
        let moving = load(&store, vm).await.unwrap().discs[0].moving.clone().unwrap();
        let expected = Forced { how, generation: Generation(generation) };
        assert_eq!(moving.forced, Some(expected), "safety rule 8: above all that is reported");
        apply(Change::OutcomeForced(disc)).await;
        apply(Change::OutcomeForced(disc)).await;
        let tx = client.transaction().await.unwrap();
        let ended = migrations::of_jobs(&tx, &[job]).await.unwrap();
        assert_eq!(ended[0].state, state);
        assert!(ended[0].reason.as_deref().unwrap().contains("may be lost: it burnt down"), "{ended:?}");
        let [old] = &forced::old_copies(&tx).await.unwrap()[..] else { panic!("one is left over") };
        assert_eq!((old.tail.as_str(), old.kept, old.disc_id), (lost, true, Some(candidate.id)));
        assert_eq!(forced::release(&tx, disc, "root").await.unwrap(), 1);
        assert_eq!(forced::release(&tx, disc, "root").await.unwrap(), 0);
        tx.commit().await.unwrap();
        apply(removed(lost, generation)).await;
    }
    drop(client);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r051_a_purge_frees_the_name_at_once_and_goes_step_by_step() {
    let Some(server) = common::Server::start().await else { return };
    let store = server.store().await;
    let vm = furnish(&store).await;
    let mut client = store.client().await.unwrap();
    client.execute("UPDATE virtual_machines SET deleted_at = now() - interval '45 days'", &[]).await.unwrap();
    let tx = client.transaction().await.unwrap();
    let day = time::Duration::days(1);
    assert!(purge::due(&tx, OffsetDateTime::now_utc() - 46 * day).await.unwrap().is_empty());
    assert_eq!(purge::due(&tx, OffsetDateTime::now_utc() - 45 * day).await.unwrap(), [vm]);
    assert!(purge::purge(&tx, vm, "long ago").await.unwrap());
    assert!(!purge::purge(&tx, vm, "again").await.unwrap());
    let sql =
        "INSERT INTO virtual_machines (group_id, name, cores, memory_mib, power_on, autoreboot_on, management_ssh_keys)
               SELECT group_id, name, 1, 1, false, false, '{}' FROM virtual_machines";
    tx.execute(sql, &[]).await.unwrap();
    let work = rows::load(&tx, &[vm]).await.unwrap().pop().unwrap();
    assert!(work.vm.purged && work.discs.iter().all(|disc| disc.remove_reason.as_deref() == Some("long ago")));
    for disc in &work.discs {
        rows::write(&tx, vm, &Change::DiscRemoved(disc.number)).await.unwrap();
    }
    rows::write(&tx, vm, &Change::AddressesFreed).await.unwrap();
    rows::write(&tx, vm, &Change::VmRemoved).await.unwrap();
    assert!(rows::load(&tx, &[vm]).await.unwrap().is_empty());
    tx.commit().await.unwrap();
    drop(client);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r029_one_brain_is_active_and_each_has_a_higher_epoch() {
    let Some(server) = common::Server::start().await else { return };
    let store = server.store().await;
    let first = cluster::Active::acquire(store.config(), "brain1").await.unwrap();
    let refused = cluster::Active::acquire(store.config(), "brain2").await.unwrap_err().to_string();
    assert!(refused.contains("brain1 (pid"), "{refused}");
    assert!(cluster::take_over(store.config(), "brain2").await.is_err(), "not while one is active");

    // The end of the lock's connection is noticed, and the next brain may act: the server frees the lock a
    // moment after that end, and until then the next one waits.
    let mut first = first;
    let client = store.client().await.unwrap();
    let config = store.config().clone();
    let second = tokio::spawn(async move { cluster::Active::acquire(&config, "brain2").await });
    let waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    while client.query_opt(waiting, &[]).await.unwrap().is_none() {
        assert!(!second.is_finished(), "it does not wait: {:?}", second.await);
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'brain1 %'";
    client.query(sql, &[]).await.unwrap();
    let reason = tokio::time::timeout(std::time::Duration::from_secs(20), first.lost()).await.unwrap();
    assert!(reason.contains("lock"), "{reason}");
    let second = second.await.unwrap().unwrap();
    assert!(second.epoch > first.epoch, "safety rule 8");
    assert_eq!(second.cluster, first.cluster);
    drop(second);

    let saw = cluster::saw_epoch(&client, spine::id::Epoch(40));
    saw.await.unwrap();
    let (_, after) = cluster::take_over(store.config(), "brain2").await.unwrap();
    assert_eq!(after, spine::id::Epoch(40), "the next start is above all that nodes have obeyed");
    drop(client);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r053_nodes_register_themselves_and_keep_their_role() {
    let Some(server) = common::Server::start().await else { return };
    let store = server.store().await;
    let mut client = store.client().await.unwrap();
    let tx = client.transaction().await.unwrap();
    let mut node = hello("head1", Role::Head);
    assert_eq!(nodes::register(&tx, &node).await.unwrap(), nodes::Known::New);
    assert_eq!(nodes::register(&tx, &node).await.unwrap(), nodes::Known::Same);
    node.extra.insert("storage_address".to_owned(), "fd00:b16:0:2::99".into());
    let from = Some("fd00:b16:0:2::11".parse().unwrap());
    assert_eq!(nodes::register(&tx, &node).await.unwrap(), nodes::Known::Moved { from });
    node.role = Role::Tail;
    assert_eq!(nodes::register(&tx, &node).await.unwrap(), nodes::Known::OtherRole(Role::Head));
    // What a node says of itself may be anything.
    node = hello("head2", Role::Head);
    node.extra.insert("storage_address".to_owned(), "nowhere".into());
    node.extra.insert("memory_total".to_owned(), i64::MAX.into());
    node.extra.insert("cores".to_owned(), "many".into());
    assert_eq!(nodes::register(&tx, &node).await.unwrap(), nodes::Known::New);
    let heads = places::heads(&tx, 1).await.unwrap();
    assert_eq!(heads[1].memory_total_mib, 0, "what is not credible counts as nothing");
    assert!(heads[1].closed.is_some(), "nothing is placed on a head without an address");
    drop(tx);
    drop(client);
    server.stop().await;
}
