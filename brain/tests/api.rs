//! The API's endpoints, in their exact shapes, in front of a real PostgreSQL.
//!
//! Each test starts a server of its own, which takes a second: so each walks through one theme.

mod common;

use brain::model::privilege::Level;
use common::api::{CONFIG, Client, PASSWORD, steady};
use insta::assert_json_snapshot;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The usual people: alice has acme, bob has other, root runs the cluster.
async fn people(server: &common::Server) -> (Client, Client, Client) {
    let client = Client::new(server.store().await);
    client.add_user("alice", Some("acme"), None).await;
    client.add_user("bob", Some("other"), None).await;
    client.add_user("root", None, Some(Level::ClusterSu)).await;
    (client.as_user("alice").await, client.as_user("bob").await, client.as_user("root").await)
}

fn order(name: &str) -> Value {
    json!({
        "virtual_machine": {"name": name, "cores": 1, "memory": 1024},
        "discs": [{"label": "vda", "storage_grade": "sata", "size": 1024}, {"storage_grade": "ssd", "size": "2048"}],
        "reimage": {"distribution": "tiny", "root_password": "secret"},
    })
}

const GROUP: &str = "/accounts/acme/groups/default";

#[tokio::test(flavor = "multi_thread")]
async fn machines_live_and_go_in_the_shapes_of_the_api() {
    let Some(server) = common::Server::start().await else { return };
    let (alice, bob, root) = people(&server).await;

    let made = alice.post(&format!("{GROUP}/vm_create"), order("web1")).await;
    assert_json_snapshot!("vm_create", steady(made.with(202)));
    assert_eq!(made.headers["X-Ignored-Attributes"], "reimage.root_password");
    let id = made.json()["virtual_machine"]["id"].as_i64().unwrap();

    // Ids and names in every place; nested and flat are the same.
    let nested = alice.get(&format!("{GROUP}/virtual_machines/web1")).await.with(200);
    assert_json_snapshot!("vm", steady(nested.clone()));
    for path in
        ["/virtual_machines/web1", &format!("/virtual_machines/{id}"), "/accounts/1/groups/1/virtual_machines/1"]
    {
        assert_eq!(alice.get(path).await.with(200), nested, "{path}");
    }
    assert_eq!(alice.get("/virtual_machines?group_name=default&vm_name=web1").await.with(200), json!([nested]));
    assert_eq!(alice.get(&format!("{GROUP}/virtual_machines")).await.with(200), json!([nested]));
    assert_json_snapshot!("overview", steady(alice.get("/accounts?view=overview").await.with(200)));
    assert_json_snapshot!("group_overview", steady(alice.get(&format!("{GROUP}?view=overview")).await.with(200)));
    assert_json_snapshot!("accounts", alice.get("/accounts").await.with(200));
    assert_json_snapshot!("groups", alice.get("/groups").await.with(200));

    // What others see.
    for (method, path) in [("GET", ""), ("DELETE", ""), ("POST", "/signal"), ("GET", "/discs"), ("GET", "/nics")] {
        let answer = bob.send(method, &format!("/virtual_machines/{id}{path}"), None, vec![]).await;
        assert_eq!(answer.status.as_u16(), 404, "R022: {method} {path}");
    }
    assert_eq!(root.get(&format!("/virtual_machines/{id}")).await.with(200), nested);

    // Discs and cards.
    assert_json_snapshot!("discs", steady(alice.get(&format!("/virtual_machines/{id}/discs")).await.with(200)));
    assert_json_snapshot!("nics", alice.get(&format!("/virtual_machines/{id}/nics")).await.with(200));
    assert_eq!(
        alice.get(&format!("/virtual_machines/{id}/nics/1")).await.with(200),
        alice.get("/nics/1").await.with(200)
    );

    // PUT is PATCH.
    let vm = format!("/virtual_machines/{id}");
    assert_eq!(alice.put(&vm, json!({})).await.with(200), nested, "an empty change is none");
    let changed = alice
        .put(&vm, json!({"cores": "2", "cdrom_url": "http://example.org/x.iso", "keymap": null, "colour": 1}))
        .await;
    assert_eq!(changed.headers["X-Ignored-Attributes"], "colour");
    let changed = changed.with(200);
    assert_eq!((&changed["cores"], &changed["cdrom_url"]), (&json!(2), &json!("http://example.org/x.iso")));
    assert_eq!(alice.put(&vm, json!({"cdrom_url": null})).await.with(200)["cdrom_url"], Value::Null);
    let whole = alice.get(&format!("{vm}?view=overview")).await.with(200);
    assert_eq!(alice.put(&vm, whole.clone()).await.headers.get("X-Ignored-Attributes"), None, "objects go round");

    // Power: both flags are wishes, the head is what is.
    assert_eq!(alice.put(&vm, json!({"autoreboot_on": true, "power_on": true})).await.with(200)["head"], Value::Null);
    let refused = alice.post(&format!("{vm}/signal"), json!({"signal": "reset"})).await;
    assert_json_snapshot!("signal_while_off", refused.with(400));
    alice.run(id).await;
    assert_eq!(alice.get(&vm).await.with(200)["head"], "head1");
    let unreachable = alice.post(&format!("{vm}/signal"), json!({"signal": "sendkey", "data": "ctrl-alt-del"})).await;
    unreachable.with(503);
    alice.post(&format!("{vm}/signal"), json!({"signal": "explode"})).await.with(400);
    let running = alice.post(&format!("{vm}/reimage"), json!({"distribution": "tiny"})).await;
    assert_json_snapshot!("reimage_while_on", running.with(400));
    alice.put(&vm, json!({"autoreboot_on": false, "power_on": false})).await.with(200);
    alice.post(&format!("{vm}/reimage"), json!({"distribution": "tiny"})).await.with(400);
    alice.end_run(id).await;
    let body = json!({"distribution": "tiny", "ssh_public_key": null});
    assert_eq!(alice.post(&format!("{vm}/reimage"), body.clone()).await.with(200), body, "the body is echoed");
    let after = alice.get(&vm).await.with(200);
    assert_eq!((&after["power_on"], &after["autoreboot_on"]), (&json!(true), &json!(false)));

    // A restart of what does not run is a start.
    alice.put(&vm, json!({"autoreboot_on": false, "power_on": false})).await.with(200);
    let restarted = alice.put(&vm, json!({"autoreboot_on": true, "power_on": false})).await.with(200);
    assert_eq!(restarted["power_on"], true);
    alice.run(id).await;
    let restarted = alice.put(&vm, json!({"autoreboot_on": true, "power_on": false})).await.with(200);
    assert_eq!(restarted["power_on"], false, "it is on again once it has stopped");
    alice.end_run(id).await;
    assert_eq!(alice.get(&vm).await.with(200)["power_on"], true);

    // Deleted, brought back, purged.
    alice.delete(&format!("{vm}?purge=False")).await.with(204);
    alice.get(&vm).await.with(404);
    let deleted = alice.get(&format!("{vm}?include_deleted=True")).await.with(200);
    assert_eq!((&deleted["deleted"], &deleted["power_on"]), (&json!(true), &json!(false)));
    alice.put(&vm, json!({"cores": 1})).await.with(400);
    assert_eq!(alice.put(&vm, json!({"deleted": false})).await.with(200)["deleted"], false);
    alice.delete(&format!("{vm}?purge=True")).await.with(204);
    alice.get(&format!("{vm}?include_deleted=true")).await.with(404);
    let again = alice.post(&format!("{GROUP}/vm_create"), order("web1")).await.with(202);
    assert_ne!(again["virtual_machine"]["id"], id, "the name is free at once");
    let kinds = root.number("SELECT count(DISTINCT kind) FROM events WHERE virtual_machine_id = 1 AND actor = 'alice'");
    assert_eq!(kinds.await, 6, "R166: created, changed, reimaged, deleted, undeleted, purged");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_values_are_named_and_nothing_is_made() {
    let Some(server) = common::Server::start().await else { return };
    let (alice, _, root) = people(&server).await;
    let create = format!("{GROUP}/vm_create");
    let refused = alice
        .post(
            &create,
            json!({
                "virtual_machine": {"name": "Web 1", "cores": 0, "memory": "lots", "cdrom_url": "file:///etc/passwd"},
                "discs": [
                    {"storage_grade": "sata", "size": 100},
                    {"storage_grade": "gold", "size": 10, "label": "17"},
                    {"storage_grade": "ssd", "size": [], "label": "a b"},
                    {},
                ],
                "reimage": {"distribution": "windows"},
            }),
        )
        .await;
    assert_json_snapshot!("wrong_order", refused.with(400));
    let refused = alice
        .post(
            &create,
            json!({"virtual_machine": {"name": "x", "cores": 0, "memory": 1, "keymap": "klingon",
            "hardware_profile": "abacus", "zone_name": "york"}, "discs": [{"size": 50}],
            "reimage": {"distribution": "tiny"}}),
        )
        .await;
    assert_json_snapshot!("wrong_values", refused.with(400));
    let nine = json!({"virtual_machine": {"name": "nine"}, "discs": vec![json!({"size": 100}); 9]});
    assert_json_snapshot!("r026_nine_discs", alice.post(&create, nine).await.with(400));
    alice.post(&create, json!({})).await.with(400);
    alice.post(&format!("{GROUP}/virtual_machines"), json!({"name": "17"})).await.with(400);
    assert_eq!(
        alice.post(&format!("{GROUP}/virtual_machines"), json!({})).await.with(400),
        json!({"name": ["can't be blank"]})
    );
    assert_eq!(root.number("SELECT count(*) FROM virtual_machines").await, 0, "nothing is half-made");

    // Bounds by what there is (R025, R027).
    root.sql(
        "INSERT INTO nodes (name, role, memory_total_mib, cores) VALUES ('head1', 'head', 4096, 8), ('tail1', 'tail', NULL, NULL);
         INSERT INTO storage_pools (tail_id, name, label, grade, size_mib, free_mib)
           SELECT id, 'sata1', 'tail1-sata1', 'sata', 9000, 9000 FROM nodes WHERE name = 'tail1'",
    )
    .await;
    let big = json!({"virtual_machine": {"name": "big", "memory": 4097, "cores": 9}, "discs": [{"size": 9001}]});
    assert_json_snapshot!("r025_r027_too_big", alice.post(&create, big).await.with(400));

    alice.post(&create, order("web1")).await.with(202);
    assert_json_snapshot!("taken", alice.post(&create, order("web1")).await.with(400));

    // A placed disc grows within what its pool may still promise.
    root.sql(
        "UPDATE storage_pools SET overcommit_ratio = 100;
         UPDATE discs SET storage_pool_id = (SELECT id FROM storage_pools), size_mib = 4000",
    )
    .await;
    let grow = |size: i64| alice.put("/virtual_machines/web1/discs/vda", json!({"size": size}));
    assert_eq!(
        grow(9000).await.with(400),
        json!({"size": ["must be less than or equal to 5000: storage pool tail1-sata1 promises no more than that"]}),
        "R124"
    );
    assert_eq!(grow(5000).await.with(200)["size"], 5000);

    // Hostile bodies: always an answer, never a 500.
    let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    let long = format!("{{\"name\":\"{}\"}}", "x".repeat(2 << 20));
    let bodies = [
        "",
        "x",
        "[]",
        "null",
        "1",
        "\"x\"",
        "{",
        "{\"virtual_machine\":1}",
        "{\"virtual_machine\":{\"name\":\"a\\u0000\"}}",
        "{\"virtual_machine\":{\"name\":{}},\"discs\":{}}",
        "{\"discs\":[1,2]}",
        "{\"virtual_machine\":{\"memory\":1e999}}",
        "{\"virtual_machine\":{\"name\":\"b\",\"memory\":9223372036854775807,\"cores\":-9223372036854775808}}",
        "\u{feff}{}",
        &deep,
        &long,
    ];
    for body in bodies {
        let answer = alice.send("POST", &create, Some("application/json"), body.as_bytes().to_vec()).await;
        assert_eq!(answer.status.as_u16(), 400, "{}: {}", &body[..body.len().min(60)], answer.text);
        answer.json();
    }
    let answer = alice.send("POST", &create, Some("application/json"), vec![0xff, 0xfe, b'{']).await;
    assert_eq!(answer.status.as_u16(), 400);
    let answer = alice.send("POST", &create, Some("text/plain"), order("plain").to_string().into_bytes()).await;
    assert_eq!(answer.with(400), json!({"content_type": ["must be application/json"]}));
    for path in [
        "/virtual_machines/%00",
        "/virtual_machines/%ff",
        "/virtual_machines/99999999999999999999",
        "/discs/x",
        "/nics/0",
        "/users/%00",
        "/privileges/x",
        "/nonsense",
        "/virtual_machines/a%2Fb",
    ] {
        assert_eq!(alice.get(path).await.status.as_u16(), 404, "{path}");
    }
    alice.send("PATCH", "/accounts", None, vec![]).await.with(405);
    alice.get("/accounts?account_name=%00&account_id=").await.with(404);
    assert_eq!(root.number("SELECT count(*) FROM virtual_machines").await, 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_creates_at_once_get_twenty_sets_of_addresses() {
    let Some(server) = common::Server::start().await else { return };
    let (alice, _, root) = people(&server).await;
    let create = |n: usize| {
        let alice = alice.clone();
        tokio::spawn(async move { alice.post(&format!("{GROUP}/vm_create"), order(&format!("web{n}"))).await })
    };
    let started: Vec<_> = (0..20).map(create).collect();
    for task in started {
        task.await.unwrap().with(202);
    }
    for count in [
        "SELECT count(*) FROM virtual_machines",
        "SELECT count(DISTINCT management_address) FROM virtual_machines",
        "SELECT count(DISTINCT management_ssh_keys) FROM virtual_machines",
        "SELECT count(DISTINCT mac) FROM nics",
        "SELECT count(DISTINCT address) FROM ip_addresses WHERE family(address) = 4",
        "SELECT count(DISTINCT address) FROM ip_addresses WHERE family(address) = 6",
    ] {
        assert_eq!(root.number(count).await, 20, "{count}");
    }
    assert_eq!(root.number("SELECT count(DISTINCT number) FROM discs").await, 40);

    // The network is full now: a clear answer, and nothing half-made.
    let full = alice.post(&format!("{GROUP}/vm_create"), order("late")).await;
    assert_json_snapshot!("r199_addresses_exhausted", full.with(400));
    assert_eq!(root.number("SELECT count(*) FROM virtual_machines WHERE name = 'late'").await, 0);

    // The same name twenty times: one is made.
    alice.sql("DELETE FROM ip_addresses; DELETE FROM nics").await;
    let same = || {
        let alice = alice.clone();
        tokio::spawn(async move { alice.post(&format!("{GROUP}/vm_create"), order("same")).await.status.as_u16() })
    };
    let started: Vec<_> = (0..20).map(|_| same()).collect();
    let mut codes = Vec::new();
    for task in started {
        codes.push(task.await.unwrap());
    }
    codes.sort_unstable();
    assert_eq!((codes[0], &codes[1..]), (202, &[400; 19][..]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_one_is_and_what_one_may() {
    let Some(server) = common::Server::start().await else { return };
    let (alice, _, root) = people(&server).await;
    let nobody = alice.as_nobody();

    // Without credentials.
    assert_json_snapshot!("definitions", nobody.get("/definitions").await.with(200));
    assert_json_snapshot!("health", nobody.get("/health").await.with(200));
    assert_json_snapshot!("unauthorised", nobody.get("/accounts").await.with(401));
    for bad in ["Bearer x", "Bearer ", "Basic !!", "Digest x"] {
        nobody.with_authorization(bad).get("/accounts").await.with(401);
    }

    // Sessions.
    let form = format!("username=alice&password={}&validity=99999", PASSWORD.replace(' ', "+"));
    let token = nobody.send("POST", "/session", Some("application/x-www-form-urlencoded"), form.into_bytes()).await;
    assert_eq!((token.status.as_u16(), token.text.len()), (200, 64), "no newline behind it");
    assert_eq!(token.headers["content-type"], "text/plain");
    let session = nobody.get(&format!("/session/{}", token.text)).await.with(200);
    assert_eq!(session, json!({"username": "alice", "factors": ["password"], "group_memberships": []}));
    nobody.get("/session/x").await.with(404);
    assert_eq!(root.number("SELECT max(validity_s)::bigint FROM sessions").await, 3600, "cut silently");
    assert_eq!(root.number(&format!("SELECT count(*) FROM sessions WHERE token_hash = '{}'", token.text)).await, 0);
    let wrong = nobody.post("/session", json!({"username": "alice", "password": "wrong"})).await;
    assert_eq!((wrong.status.as_u16(), wrong.text.as_str()), (403, "Bad login credentials"));
    let unknown = nobody.post("/session", json!({"username": "mallory", "password": "wrong"})).await;
    assert_eq!((unknown.status.as_u16(), unknown.text.as_str()), (403, "Bad login credentials"));
    let bad = nobody.post("/session", json!({"username": "alice"})).await;
    assert_eq!(bad.status.as_u16(), 400);
    assert!(bad.text.contains("Badly-formed parameters"));
    let bearer = nobody.with_authorization(format!("Bearer {}", token.text));
    bearer.get("/accounts").await.with(200);
    root.sql("UPDATE sessions SET expires_at = now() - interval '1 s'").await;
    bearer.get("/accounts").await.with(401);

    // Basic, and guessing.
    let (alice, bob, root) = (nobody.as_user("alice").await, nobody.as_user("bob").await, nobody.as_user("root").await);
    nobody.with_basic("alice", PASSWORD).get("/accounts").await.with(200);
    for _ in 0..6 {
        nobody.at_address("192.0.2.66").with_basic("alice", "guess").get("/accounts").await.with(401);
    }
    let slowed = nobody.at_address("192.0.2.66").with_basic("alice", PASSWORD).get("/accounts").await;
    assert!(slowed.with(401)["error"].as_str().unwrap().contains("too many failed logins"));
    nobody.with_basic("alice", PASSWORD).get("/accounts").await.with(200);
    let sprayer = nobody.at_address("192.0.2.67");
    for n in 0..30 {
        sprayer.with_basic(&format!("user{n}"), "12345678").get("/accounts").await.with(401);
    }
    let slowed = sprayer.with_basic("bob", PASSWORD).get("/accounts").await;
    assert!(slowed.with(401)["error"].as_str().unwrap().contains("too many failed logins"), "whatever the name");
    let flooder = nobody.at_address("192.0.2.68");
    let flood = (0..200).map(|n| flooder.with_basic(&format!("user{n}"), "12345678"));
    let flood: tokio::task::JoinSet<_> = flood.map(|one| async move { one.get("/accounts").await.status }).collect();
    assert!(flood.join_all().await.iter().any(|status| *status == 503), "a flood is turned away, not queued");

    // Users.
    assert_json_snapshot!("users_own", alice.get("/users").await.with(200));
    assert_eq!(root.get("/users").await.with(200).as_array().unwrap().len(), 3);
    alice.get("/users/bob").await.with(404);
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti me@here";
    let kept = alice.put("/users/alice", json!({"authorized_keys": key, "username": "x", "email": "ignored"})).await;
    assert_eq!(kept.with(200)["authorized_keys"], key);
    alice.put("/users/alice", json!({"authorized_keys": "nonsense"})).await.with(400);
    alice.put("/users/bob", json!({"password": "another one"})).await.with(404);
    nobody.post("/users", json!({"username": "carol", "password": PASSWORD})).await.with(403);
    let made = alice.post("/users", json!({"username": "carol", "email": "c@example.org", "password": PASSWORD})).await;
    assert_json_snapshot!("user_created", made.with(200));
    alice.post("/users", json!({"username": "carol", "password": PASSWORD})).await.with(400);
    let carol = nobody.as_user("carol").await;
    assert_eq!(carol.get("/accounts").await.with(200), json!([]));
    carol.post("/accounts", json!({"name": "carols"})).await.with(403);

    // Privileges.
    alice.post(&format!("{GROUP}/vm_create"), order("web1")).await.with(202);
    let grant = |level: &str| json!({"level": level, "virtual_machine_id": 1});
    assert_json_snapshot!(
        "privilege_created",
        alice.post("/users/carol/privileges", grant("vm_console")).await.with(200)
    );
    alice.post("/users/carol/privileges", json!({"level": "account_admin", "account_id": 1})).await.with(403);
    alice.post("/users/carol/privileges", grant("group_admin")).await.with(400);
    alice.post("/users/carol/privileges", json!({"level": "cluster_su"})).await.with(403);
    let limited = json!({"level": "vm_console", "virtual_machine_id": 1, "ip_restrictions": "everywhere"});
    assert!(alice.post("/users/carol/privileges", limited).await.with(400)["ip_restrictions"].is_array());
    bob.post("/users/carol/privileges", grant("vm_console")).await.with(404);
    carol.get("/virtual_machines/web1").await.with(200);
    assert_eq!(carol.get("/accounts?view=overview").await.with(200)[0]["groups"][0]["virtual_machines"][0]["id"], 1);
    carol.put("/virtual_machines/web1", json!({"power_on": false})).await.with(403);
    carol.post(&format!("{GROUP}/vm_create"), order("web2")).await.with(403);
    carol.delete("/virtual_machines/web1").await.with(403);
    alice.delete("/privileges/4").await.with(200);
    carol.get("/virtual_machines/web1").await.with(404);
    assert_json_snapshot!("privileges_own", alice.get("/privileges").await.with(200));
    alice.get("/users/bob/privileges").await.with(404);

    // Admin.
    alice.get("/admin/heads").await.with(404);
    root.sql(
        "INSERT INTO nodes (name, role, memory_total_mib, cores) VALUES ('head1', 'head', 4096, 8), ('tail1', 'tail', NULL, NULL);
         INSERT INTO storage_pools (tail_id, name, label, grade, size_mib, free_mib, note)
           SELECT id, 'sata1', 'tail1-sata1', 'sata', 9000, 8000, 'RAID10' FROM nodes WHERE name = 'tail1'",
    )
    .await;
    assert_json_snapshot!("admin_heads", steady(root.get("/admin/heads").await.with(200)));
    assert_json_snapshot!("admin_tail", steady(root.get("/admin/tails/tail1").await.with(200)));
    assert_json_snapshot!("admin_pool", root.get("/admin/storage_pools/tail1-sata1").await.with(200));

    // A new password ends the sessions begun with the old one.
    alice.put("/users/alice", json!({"password": "a new password"})).await.with(200);
    alice.get("/accounts").await.with(401);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_discs_and_waiting() {
    let Some(server) = common::Server::start().await else { return };
    let (alice, bob, root) = people(&server).await;

    // Groups.
    assert_json_snapshot!(
        "group_created",
        alice.post("/accounts/acme/groups", json!({"name": "shop"})).await.with(200)
    );
    alice.post("/accounts/acme/groups", json!({"name": "shop"})).await.with(400);
    assert_eq!(
        alice.post("/accounts/acme/groups", json!({"name": "ab"})).await.with(400),
        json!({"name": ["is too short (minimum is 3 characters)"]})
    );
    bob.post("/accounts/acme/groups", json!({"name": "evil"})).await.with(404);
    assert_eq!(alice.put("/accounts/acme/groups/shop", json!({"name": "store"})).await.with(200)["name"], "store");
    alice.get("/accounts/acme/groups/shop").await.with(404);
    alice.post("/accounts/acme/groups/store/vm_create", order("db1")).await.with(202);
    assert_json_snapshot!("group_in_use", alice.delete("/accounts/acme/groups/store").await.with(400));
    let hostname = |vm: Value| vm["hostname"].clone();
    assert_eq!(hostname(alice.get("/virtual_machines/db1").await.with(200)), "db1.store.acme.lab.bigv.example", "R155");
    alice.put("/virtual_machines/db1", json!({"group_id": 1, "name": "db2"})).await.with(200);
    assert_eq!(hostname(alice.get("/virtual_machines/1").await.with(200)), "db2.default.acme.lab.bigv.example");
    alice.put("/virtual_machines/1", json!({"group_id": 2})).await.with(400);
    alice.delete("/accounts/acme/groups/store").await.with(204);
    alice.delete("/accounts/acme/groups/default").await.with(400);

    // Discs.
    let discs = "/virtual_machines/1/discs";
    assert_json_snapshot!(
        "disc_created",
        steady(alice.post(discs, json!({"size": 100, "storage_grade": "ssd"})).await.with(200))
    );
    alice.post(discs, json!({"size": 100, "label": "vda"})).await.with(400);
    assert_eq!(alice.put(&format!("{discs}/vda"), json!({"size": "2048"})).await.with(200)["size"], 2048);
    alice.put("/discs/1", json!({"size": 1024})).await.with(400);
    alice.put("/discs/1", json!({"size": 1024, "force": true})).await.with(400);
    alice.put("/virtual_machines/1", json!({"power_on": false})).await.with(200);
    assert_json_snapshot!("shrink", alice.put("/discs/1", json!({"size": 1024})).await.with(400));
    assert_eq!(alice.put("/discs/1", json!({"size": 1024, "force": true})).await.with(200)["size"], 1024);
    assert_eq!(root.number("SELECT count(*) FROM discs WHERE shrink_forced").await, 1);
    assert_eq!(alice.put("/discs/1", json!({"label": "root"})).await.with(200)["label"], "root");
    alice.put("/discs/1", json!({"virtual_machine_id": 9})).await.with(400);
    alice.put("/discs/1", json!({"virtual_machine_id": 1})).await.with(200);
    bob.put("/discs/1", json!({"size": 4096})).await.with(404);
    assert_json_snapshot!("disc_delete_without_purge", alice.delete("/discs/1").await.with(400));
    alice.delete("/discs/1?purge=true").await.with(204);
    alice.get("/discs/1").await.with(404);
    for _ in 0..6 {
        alice.post(discs, json!({"size": 50})).await.with(200);
    }
    assert_eq!(
        alice.post(discs, json!({"size": 50})).await.with(400),
        json!({"base": ["is one too many: a VM has at most 8 discs"]}),
        "R026"
    );

    // Waiting: until it is so, or the time is up.
    let began = Instant::now();
    let waited = alice.get("/virtual_machines/1?wait=1s&until=running").await.with(200);
    assert_ne!(waited["status"]["state"], "running");
    assert!(began.elapsed() >= Duration::from_secs(1));
    let waiting = {
        let alice = alice.clone();
        tokio::spawn(async move { alice.get("/virtual_machines/1?wait=60s&until=failed|running").await })
    };
    alice.run(1).await;
    let waited = tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap().unwrap().with(200);
    assert_eq!(waited["status"]["state"], "running");
    alice.get("/virtual_machines/1?wait=soon&until=off").await.with(400);
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..17 {
        let alice = alice.clone();
        waiting.spawn(async move { alice.get("/virtual_machines/1?wait=60s&until=failed").await });
    }
    let answered = tokio::time::timeout(Duration::from_secs(40), waiting.join_next()).await;
    answered.expect("one more than a user may have is answered at once").unwrap().unwrap().with(200);
    drop(waiting);

    // A suspended account may not start anything.
    alice.end_run(1).await;
    root.sql("UPDATE accounts SET suspended = true WHERE name = 'acme'").await;
    alice.put("/virtual_machines/1", json!({"power_on": false})).await.with(200);
    alice.put("/virtual_machines/1", json!({"power_on": true})).await.with(403);
    alice.post(&format!("{GROUP}/vm_create"), order("more")).await.with(403);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r022_nobody_takes_over_a_user_who_may_do_as_much() {
    let Some(server) = common::Server::start().await else { return };
    let nobody = Client::new(server.store().await);
    for (username, account, level) in [
        ("super", None, Some(Level::ClusterSu)),
        ("admin", None, Some(Level::ClusterAdmin)),
        ("peer", None, Some(Level::ClusterAdmin)),
        ("alice", Some("acme"), None),
    ] {
        nobody.add_user(username, account, level).await;
    }
    let (admin, super_user) = (nobody.as_user("admin").await, nobody.as_user("super").await);
    let password = json!({"password": "quite another one"});
    for username in ["super", "peer"] {
        admin.put(&format!("/users/{username}"), password.clone()).await.with(403);
        admin.put(&format!("/users/{username}"), json!({"authorized_keys": null})).await.with(403);
        nobody.as_user(username).await;
    }
    admin.put("/users/alice", password.clone()).await.with(200);
    super_user.put("/users/peer", password.clone()).await.with(200);
    admin.put("/users/admin", password).await.with(200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_up_where_it_is_allowed() {
    let Some(server) = common::Server::start().await else { return };
    let config = CONFIG.replace("cluster_domain", "signup = true\ncluster_domain");
    let nobody = Client::with_config(server.store().await, &config);
    let body = json!({"username": "dave", "password": PASSWORD, "account_name": "daves", "email": "d@example.org"});
    nobody.post("/users", body.clone()).await.with(200);
    assert_eq!(nobody.post("/users", body).await.with(400), json!({"username": ["has already been taken"]}));
    let second = json!({"username": "erin", "password": PASSWORD, "account_name": "daves"});
    assert_eq!(nobody.post("/users", second).await.with(400), json!({"account_name": ["has already been taken"]}));
    assert_eq!(nobody.number("SELECT count(*) FROM users").await, 1, "nothing is half-made");
    let dave = nobody.as_user("dave").await;
    let created = dave.post("/accounts/daves/groups/default/vm_create", order("web1")).await;
    created.with(202);
    assert_eq!(dave.post("/accounts", json!({"name": "second"})).await.with(200)["name"], "second", "R001");
    for bad in ["$6$abc$defghijkl", "short", ""] {
        let body = json!({"username": "frank", "password": bad});
        assert!(nobody.post("/users", body).await.with(400)["password"].is_array(), "{bad}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_is_a_503_with_a_number() {
    let mut config = tokio_postgres::Config::new();
    config.host_path("/nonexistent").user("nobody").dbname("nothing");
    let client = Client::new(brain::store::Store::new(config).unwrap());
    assert_eq!(client.get("/health").await.with(503)["database"], "unreachable");
    let answer = client.with_authorization("Bearer x").get("/accounts").await;
    assert_eq!(answer.headers["X-Request-Id"], answer.json()["request_id"].as_str().unwrap());
    assert!(!answer.text.contains("nonexistent"), "the cause is for the log");
    answer.with(503);
    client.get("/definitions").await.with(200);
}
