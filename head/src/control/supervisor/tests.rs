//! What only the supervisor itself can be made to do: lose the task of a machine.

use super::*;
use crate::{
    adopt::{Files, Record},
    config::{Config, tests::EXAMPLE},
    hypervisor::{
        command_line::Accelerator,
        process::{Qemu, ours},
    },
    network::firewall::Firewall,
};
use spine::{
    message::Welcome,
    session::NodeSaid,
    transport::{BrainLink, accept_node},
};
use std::{net::SocketAddr, path::Path, process, time::Duration};
use tokio::net::TcpListener;

/// A head whose only machine is a process that does nothing, with a path of the head's among its arguments.
#[expect(clippy::zombie_processes, reason = "the head waits for it")]
async fn head(brain: SocketAddr, directory: &Path) -> Supervisor {
    let mut config: Config =
        toml::from_str(&EXAMPLE.replace("# firewall = \"require\"", "firewall = \"warn\"")).unwrap();
    config.brains = vec![brain];
    config.runtime_dir = directory.to_owned();
    let files = Files::new(directory);
    let id: VmId = "17".parse().unwrap();
    let (uid, script) = (rustix::process::geteuid().as_raw(), "while :; do sleep 0.1; done");
    let path = files.monitor(&id);
    process::Command::new("sh").args(["-c", script]).arg(path).spawn().unwrap();
    let mark = loop {
        // The child's arguments are there only after its exec.
        match ours(&(uid..=uid), directory).unwrap().first() {
            Some((mark, _)) => break *mark,
            None => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let resource = serde_json::from_value(json!({"memory": 32, "cores": 1})).unwrap();
    let spec = Spec::check(&resource, &config).unwrap();
    let accelerator = Accelerator::Tcg;
    let record = Record {
        id: id.clone(),
        boot_id: "b".into(),
        uid,
        mark: Some(mark),
        running: true,
        accelerator,
        resource: resource.clone(),
    };
    files.write(&record).unwrap();
    let firewall = Firewall::new(&config).await.unwrap();
    let host = Host { config, accelerator, files, boot_id: "b".into(), firewall, helper: "/nonexistent".into() };
    let qemu = Qemu::adopt(mark, uid).unwrap();
    Supervisor::new(host, vec![Adopted { job: Job { id, uid, resource, spec }, qemu }])
}

async fn said<T>(link: &mut BrainLink, wanted: impl Fn(NodeSaid) -> Option<T>) -> T {
    let hear = async {
        loop {
            if let Some(found) = wanted(link.next().await) {
                return found;
            }
        }
    };
    timeout(Duration::from_secs(30), hear).await.expect("the head says it in time")
}

async fn answer(link: &mut BrainLink) -> Answer {
    said(link, |said| match said {
        NodeSaid::Answered { answer, .. } => Some(answer),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn r186_a_machine_whose_task_failed_is_taken_over_again() {
    let directory = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut supervisor = head(listener.local_addr().unwrap(), directory.path()).await;
    let mut link = accept_node(listener.accept().await.unwrap().0);
    let brain = async {
        said(&mut link, |said| matches!(said, NodeSaid::Hello(_)).then_some(())).await;
        link.welcome(Welcome { spine: 1, cluster: Uuid::nil(), epoch: Epoch(1) });
        said(&mut link, |said| matches!(said, NodeSaid::Ready).then_some(())).await;
    };
    let name = ResourceName::Vm("17".parse().unwrap());
    let changes = || json!({"detected_kernel": "none"}).as_object().unwrap().clone();
    let welcomed = async {
        let event = supervisor.link.next().await;
        supervisor.handle_event(event);
    };
    tokio::join!(brain, welcomed);
    link.command(Command::Update(name.clone(), changes()));
    let event = supervisor.link.next().await;
    supervisor.handle_event(event);
    // Before it has seen the order. A task that panics ends in the same way.
    supervisor.drivers.abort_all();
    let error = supervisor.drivers.join_next().await.unwrap().unwrap_err();
    supervisor.handle_failure(&error);
    let Answer::No(refusal) = answer(&mut link).await else { panic!("it cannot have been done") };
    assert_eq!(refusal.error, "head-error", "whoever waited is told: {refusal:?}");

    link.command(Command::Update(name.clone(), changes()));
    let supervisor = tokio::spawn(supervisor.run(std::future::pending()));
    assert_eq!(answer(&mut link).await, Answer::Ok(Attributes::new()), "orders wait until somebody sees to it again");
    let pid = ours(&(0..=u32::MAX), directory.path()).unwrap()[0].0.pid;
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
    let destroyed = said(&mut link, |said| match said {
        NodeSaid::Destroyed(of, why) if of == name => Some(why),
        _ => None,
    });
    assert_eq!(destroyed.await, json!({"reason": "qemu exited with signal 9 (SIGKILL)"}));
    supervisor.abort();
}

#[tokio::test]
async fn r056_who_hears_that_a_machine_is_gone_may_create_it_again() {
    let directory = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut supervisor = head(listener.local_addr().unwrap(), directory.path()).await;
    let mut link = accept_node(listener.accept().await.unwrap().0);
    let brain = async {
        said(&mut link, |said| matches!(said, NodeSaid::Hello(_)).then_some(())).await;
        link.welcome(Welcome { spine: 1, cluster: Uuid::nil(), epoch: Epoch(1) });
        said(&mut link, |said| matches!(said, NodeSaid::Ready).then_some(())).await;
    };
    let welcomed = async {
        let event = supervisor.link.next().await;
        supervisor.handle_event(event);
    };
    tokio::join!(brain, welcomed);
    ours(&(0..=u32::MAX), directory.path())
        .unwrap()
        .iter()
        .for_each(|(mark, uid)| Qemu::adopt(*mark, *uid).unwrap().kill());
    loop {
        let news = supervisor.news.recv().await.unwrap();
        let gone = matches!(news, News::Gone(..));
        supervisor.handle_news(news);
        if gone {
            break;
        }
    }
    said(&mut link, |said| matches!(said, NodeSaid::Destroyed(..)).then_some(())).await;
    let least = json!({"memory": "much"}).as_object().unwrap().clone();
    link.command(Command::Create(ResourceName::Vm("17".parse().unwrap()), least));
    let event = supervisor.link.next().await;
    supervisor.handle_event(event);
    let Answer::No(refusal) = answer(&mut link).await else { panic!("it makes no sense") };
    assert_eq!(refusal.error, "bad-value", "it does not exist any more: {refusal:?}");
}

#[tokio::test]
async fn r143_a_machine_that_ended_with_its_task_is_cleared_away() {
    let directory = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut supervisor = head(listener.local_addr().unwrap(), directory.path()).await;
    let mut link = accept_node(listener.accept().await.unwrap().0);
    // Without its record nobody could tell what it is.
    let id: VmId = "17".parse().unwrap();
    std::fs::remove_file(supervisor.host.files.record(&id)).unwrap();
    supervisor.drivers.abort_all();
    let supervisor = tokio::spawn(supervisor.run(std::future::pending()));
    said(&mut link, |said| matches!(said, NodeSaid::Hello(_)).then_some(())).await;
    link.welcome(Welcome { spine: 1, cluster: Uuid::nil(), epoch: Epoch(1) });
    let reason = said(&mut link, |said| match said {
        NodeSaid::Destroyed(_, why) => Some(why["reason"].as_str().unwrap().to_owned()),
        _ => None,
    });
    assert_eq!(reason.await, "it ended while its task on the head had failed");
    assert!(ours(&(0..=u32::MAX), directory.path()).unwrap().is_empty(), "what cannot be controlled is ended");
    supervisor.abort();
}
