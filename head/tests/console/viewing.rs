//! What viewers see and type.

use crate::rig::{Rig, within};
use head::console::{ConsoleUsers, limits};
use tokio::{io::AsyncWriteExt, net::UnixListener};

#[tokio::test]
async fn r140_several_viewers_all_see_and_all_may_type() {
    let mut rig = Rig::start().await;
    let (mut one, mut two) = (rig.viewer().await, rig.viewer().await);
    rig.print("login: ").await;
    one.shown_until("login: ").await;
    two.shown_until("login: ").await;
    one.type_in("ro").await;
    rig.expect_typed("ro").await;
    two.type_in("ot\r").await;
    rig.expect_typed("ot\r").await;
    rig.console.stop().await;
}

#[tokio::test]
async fn r137_history_and_live_output_join_without_gap_or_repeat() {
    let mut rig = Rig::start().await;
    const LINES: usize = 4000;
    let line = |number: usize| format!("line {number:06} \x1b[31mred\x1b[0m\r\n");
    let mut guest = std::mem::replace(&mut rig.guest, tokio::net::UnixStream::pair().unwrap().0);
    // In step with the viewers, so that none falls behind the ring.
    let (go, mut gone) = tokio::sync::mpsc::channel::<()>(1);
    let printing = tokio::spawn(async move {
        for number in 0..LINES {
            guest.write_all(line(number).as_bytes()).await.unwrap();
            if number % 500 == 499 {
                gone.recv().await.unwrap();
            }
        }
        guest
    });
    let mut viewers = Vec::new();
    for turn in 0..LINES / 500 {
        if turn < 4 {
            // Each comes in the middle of the output.
            viewers.push((rig.ssh("amy", "amy", &["-tt"], &[]), String::new()));
        }
        let last = line(turn * 500 + 499);
        for (ssh, seen) in &mut viewers {
            seen.push_str(&ssh.shown_until(&last).await);
        }
        go.send(()).await.unwrap();
    }
    let _guest = within(printing).await.unwrap();
    for (at, (_, seen)) in viewers.iter().enumerate() {
        let from = seen.find("line ").unwrap();
        let first: usize = seen[from + 5..from + 11].parse().unwrap();
        let expected: String = (first..LINES).map(line).collect();
        assert!(seen[from..] == expected, "viewer {at} saw a gap or a repeat after line {first}");
    }
    rig.console.stop().await;
}

#[tokio::test]
async fn r137_the_last_64_kib_are_shown_on_connect() {
    let mut rig = Rig::start().await;
    let mut first = rig.viewer().await;
    rig.print("too old ").await;
    rig.print(&"x".repeat(limits::REPLAY_MAX - 3)).await;
    rig.print("end").await;
    first.shown_until("xend").await;
    let mut second = rig.viewer().await;
    let shown = second.shown_until("xend").await;
    assert_eq!(shown.len(), limits::REPLAY_MAX);
    assert!(!shown.contains("old"));
    rig.console.stop().await;
}

#[tokio::test]
async fn a_viewer_that_does_not_read_holds_up_nobody_and_is_told_what_it_missed() {
    let mut rig = Rig::start().await;
    let mut slow = rig.viewer().await;
    let mut quick = rig.viewer().await;
    // More than the window, the pipes and the ring take together.
    for turn in 0..150 {
        rig.print(&"x".repeat(64 * 1024)).await;
        rig.print(&format!("<{turn}>")).await;
        quick.shown_until(&format!("<{turn}>")).await;
    }
    let mut buffer = vec![0; 64 * 1024];
    let shown = async {
        let mut shown = String::new();
        while !shown.contains("<149>") {
            let count = tokio::io::AsyncReadExt::read(&mut slow.stdout, &mut buffer).await.unwrap();
            shown.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        shown.len()
    };
    let shown = within(shown).await;
    assert!(shown < 150 * 64 * 1024, "it has missed something");
    let errors = slow.errors_until("were missed").await;
    assert!(errors.contains("bytes of output"), "{errors}");
    rig.console.stop().await;
}

#[tokio::test]
async fn a_paste_that_the_guest_does_not_read_holds_up_nobody() {
    let mut rig = Rig::start().await;
    let mut pasting = rig.viewer().await;
    let mut watching = rig.viewer().await;
    // Ends when the whole way from the client to the guest is full, or all of it has been taken.
    let paste = vec![b'x'; 8 * 1024 * 1024];
    let _ = tokio::time::timeout(std::time::Duration::from_secs(1), pasting.stdin.write_all(&paste)).await;
    rig.print("still here").await;
    watching.shown_until("still here").await;
    within(rig.console.stop()).await;
    let (_, errors) = watching.end().await;
    assert!(errors.contains("has stopped"), "{errors}");
}

#[tokio::test]
async fn r137_viewers_stay_over_a_restart_of_the_serial_line() {
    let mut rig = Rig::start().await;
    let mut viewer = rig.viewer().await;
    rig.print("before ").await;
    viewer.shown_until("before ").await;

    let path = rig.path("serial");
    std::fs::remove_file(&path).unwrap();
    rig.qemu = UnixListener::bind(&path).unwrap();
    rig.guest.shutdown().await.unwrap();
    rig.guest = within(rig.qemu.accept()).await.unwrap().0;
    rig.print("after").await;
    assert_eq!(viewer.shown_until("after").await, "after");
    viewer.type_in("\r").await;
    rig.expect_typed("\r").await;
    rig.console.stop().await;
}

#[tokio::test]
async fn commands_file_transfer_and_forwarding_are_refused() {
    let rig = Rig::start().await;
    let (status, errors) = rig.ssh("amy", "amy", &[], &["id"]).end().await;
    assert_eq!(status.code(), Some(1), "{errors}");
    assert!(errors.contains("runs no commands"), "{errors}");

    let (status, errors) = rig.ssh("amy", "amy", &["-s"], &["sftp"]).end().await;
    assert_eq!(status.code(), Some(255), "{errors}");
    assert!(errors.contains("subsystem request failed"), "{errors}");

    let (status, errors) = rig.ssh("amy", "amy", &["-W", "127.0.0.1:1"], &[]).end().await;
    assert!(!status.success() && errors.contains("administratively prohibited"), "{errors}");
    rig.console.stop().await;
}

#[tokio::test]
async fn r111_a_right_that_is_withdrawn_ends_its_connections_alone() {
    let mut rig = Rig::start().await;
    let mut viewer = rig.viewer().await;
    let before = crate::rig::config(rig.directory.path(), rig.console.listens_on()).users;

    // Another user goes: the viewer stays.
    rig.console.set_users(ConsoleUsers { names: vec!["amy".into()], ..before.clone() });
    rig.print("still here").await;
    viewer.shown_until("still here").await;

    // Her key goes: so does she, although her name is listed still.
    let mut without_key = before;
    without_key.authentication.get_mut("amy").unwrap().authorized_keys = None;
    rig.console.set_users(without_key);
    let (status, errors) = viewer.end().await;
    assert_eq!(status.code(), Some(255));
    assert!(errors.contains("withdrawn"), "{errors}");
    rig.console.stop().await;
}

#[tokio::test]
async fn stopping_tells_the_viewers_and_frees_the_port() {
    let rig = Rig::start().await;
    let viewer = rig.viewer().await;
    let listen = rig.console.listens_on();
    within(rig.console.stop()).await;
    let (status, errors) = viewer.end().await;
    assert_eq!(status.code(), Some(255));
    assert!(errors.contains("has stopped"), "{errors}");
    assert!(tokio::net::TcpStream::connect(listen).await.is_err());
}
