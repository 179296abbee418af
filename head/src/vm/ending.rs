//! Why a machine ended, in words (R166): pure.

use crate::hypervisor::{monitor::Ending, process::Exit};
use spine::resource::vm::NbdAddress;

/// All that is known of a machine's end.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// The reason given with `remove`.
    pub ordered: Option<&'a str>,
    /// This head sent SIGKILL after the stop's deadline.
    pub killed: bool,
    /// What qemu said.
    pub said: &'a Ending,
    /// How the process ended.
    pub exit: Exit,
    /// The last line of its log.
    pub complaint: Option<&'a str>,
    /// Discs whose tail did not answer when it was killed.
    pub away: &'a [NbdAddress],
}

/// The reason that goes into `destroyed vm.X`.
pub fn reason(evidence: &Evidence<'_>) -> String {
    let base = match (evidence.ordered, &evidence.said.shutdown) {
        (Some(order), _) => order.to_owned(),
        (None, _) if evidence.said.panicked => "guest panicked".to_owned(),
        (None, Some((true, word))) if word != "guest-panic" => "guest shut down".to_owned(),
        (None, Some((_, word))) if word == "guest-panic" => "guest panicked".to_owned(),
        (None, Some((_, word))) if word == "host-signal" => "qemu was told to end by a signal".to_owned(),
        (None, _) => by_exit(evidence),
    };
    match evidence.killed {
        true => format!("{base}; qemu had to be killed because it did not end{}", discs(evidence.away)),
        false => base,
    }
}

fn by_exit(evidence: &Evidence<'_>) -> String {
    match evidence.complaint {
        Some(complaint) => format!("qemu exited with {}: {complaint}", evidence.exit),
        None => format!("qemu exited with {}", evidence.exit),
    }
}

fn discs(away: &[NbdAddress]) -> String {
    let names: Vec<_> = away.iter().map(ToString::to_string).collect();
    match names.as_slice() {
        [] => String::new(),
        [one] => format!(" while disc {one} did not answer"),
        many => format!(" while discs {} did not answer", many.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r166_every_end_has_its_words() {
        let shutdown = |guest, word: &str| Ending { shutdown: Some((guest, word.to_owned())), panicked: false };
        let panic = Ending { shutdown: Some((true, "guest-panic".into())), panicked: true };
        let none = Ending::default();
        let disc: NbdAddress = "nbd:[fd00::8]:10809".parse().unwrap();
        let away = std::slice::from_ref(&disc);
        let killed = "; qemu had to be killed because it did not end while disc nbd:[fd00::8]:10809 did not answer";
        for (ordered, said, exit, complaint, was_killed, wanted) in [
            (None, &shutdown(true, "guest-shutdown"), Exit::Code(0), None, false, "guest shut down".to_owned()),
            (None, &shutdown(true, "guest-shutdown"), Exit::Signal(9), None, true, format!("guest shut down{killed}")),
            (None, &panic, Exit::Code(0), None, false, "guest panicked".to_owned()),
            (None, &none, Exit::Code(1), Some("no disc"), false, "qemu exited with code 1: no disc".to_owned()),
            (None, &none, Exit::Signal(9), None, false, "qemu exited with signal 9 (SIGKILL)".to_owned()),
            (
                None,
                &shutdown(false, "host-signal"),
                Exit::Code(0),
                None,
                false,
                "qemu was told to end by a signal".to_owned(),
            ),
            (
                Some("vm deleted"),
                &shutdown(false, "host-qmp-quit"),
                Exit::Code(0),
                None,
                false,
                "vm deleted".to_owned(),
            ),
            (Some("vm deleted"), &none, Exit::Signal(9), None, true, format!("vm deleted{killed}")),
        ] {
            let evidence = Evidence { ordered, killed: was_killed, said, exit, complaint, away };
            assert_eq!(reason(&evidence), wanted);
        }
    }
}
