//! What a supervisor finds at its start: machines to take over, and what a crash left (R176, R186).

use crate::{
    adopt::{Record, Verdict, judge},
    config::RestartPolicy,
    console,
    host::Host,
    hypervisor::process::{Qemu, ours},
    limits::KILL_DEADLINE,
    network::apply::remove_strays,
    vm::{
        spec::Spec,
        start::{Job, Parts, clean_up},
    },
};
use spine::id::VmId;
use std::{collections::BTreeSet, fs, io, net::IpAddr, path::Path};
use tokio::time::timeout;

/// A machine that an earlier supervisor started, and that still runs.
#[derive(Debug)]
pub struct Adopted {
    /// The machine.
    pub job: Job,
    /// Its process.
    pub qemu: Qemu,
}

/// Takes over what runs, and removes all else that looks like ours: processes, taps, files.
///
/// # Errors
/// When the runtime directory or /proc cannot be read.
pub async fn survey(host: &Host) -> io::Result<Vec<Adopted>> {
    let (records, unreadable) = host.files.records()?;
    for path in unreadable {
        tracing::warn!(file = %path.display(), "a machine's record cannot be read: the machine is ended");
        fs::remove_file(path)?;
    }
    let mut adopted = Vec::new();
    for record in records {
        match take_over(host, record, host.config.restart_policy == RestartPolicy::Adopt) {
            Ok(machine) => {
                tracing::info!(vm = %machine.job.id, pid = machine.qemu.mark().pid, "a machine is adopted");
                adopted.push(machine);
            }
            Err((record, reason)) => {
                tracing::info!(vm = %record.id, reason, "what is left of a machine is removed");
                let qemu = record.mark.and_then(|mark| Qemu::adopt(mark, record.uid).ok());
                clean_up(host, &record.id, record.uid, &mut Parts { qemu, ..Parts::default() }).await;
            }
        }
    }
    end_strangers(host, &adopted).await?;
    let uids: BTreeSet<u32> = adopted.iter().map(|machine| machine.job.uid).collect();
    if let Err(error) = remove_strays(&host.config.uid_range, &uids).await {
        tracing::warn!(%error, "cannot remove taps that are left over");
    }
    if let Some(interface) = &host.config.management_interface {
        let keep: Vec<IpAddr> = adopted.iter().filter_map(|machine| machine.job.resource.management_address).collect();
        match console::remove_strays(interface, &keep).await {
            Ok(strays) if strays.is_empty() => {}
            Ok(strays) => tracing::info!(?strays, interface, "console addresses that were left over are removed"),
            Err(error) => tracing::warn!(%error, "cannot remove console addresses that are left over"),
        }
    }
    let ids: BTreeSet<&VmId> = adopted.iter().map(|machine| &machine.job.id).collect();
    remove_stray_files(host, &ids)?;
    Ok(adopted)
}

/// The machine that runs as its record says, if it does.
pub fn find(host: &Host, id: &VmId) -> Option<Adopted> {
    let (records, _) = host.files.records().ok()?;
    let record = records.into_iter().find(|record| record.id == *id)?;
    take_over(host, record, true).ok()
}

fn take_over(host: &Host, record: Record, adopt: bool) -> Result<Adopted, (Box<Record>, &'static str)> {
    let mark = match judge(&record, &host.boot_id, adopt) {
        Verdict::Adopt(mark) => mark,
        Verdict::Remove(reason) => return Err((Box::new(record), reason)),
    };
    let Ok(qemu) = Qemu::adopt(mark, record.uid) else { return Err((Box::new(record), "its process is gone")) };
    match Spec::check_running(&record.resource, &host.config) {
        Ok(spec) => {
            let job = Job { id: record.id, uid: record.uid, resource: record.resource, spec };
            Ok(Adopted { job, qemu })
        }
        Err(_) => Err((Box::new(record), "this version of the head does not know what it is")),
    }
}

/// A qemu of ours without a record has no sockets either: it cannot be controlled, and its uid would be
/// given away again.
async fn end_strangers(host: &Host, adopted: &[Adopted]) -> io::Result<()> {
    for (mark, uid) in ours(&host.config.uid_range, host.files.root())? {
        if adopted.iter().any(|machine| machine.qemu.mark() == mark) {
            continue;
        }
        let Ok(mut qemu) = Qemu::adopt(mark, uid) else { continue };
        tracing::warn!(pid = mark.pid, uid, "a qemu that no record names is ended");
        qemu.kill();
        if timeout(KILL_DEADLINE, qemu.wait()).await.is_err() {
            tracing::error!(pid = mark.pid, "it does not die: it hangs in the kernel");
        }
    }
    Ok(())
}

fn remove_stray_files(host: &Host, adopted: &BTreeSet<&VmId>) -> io::Result<()> {
    for entry in fs::read_dir(host.files.root())? {
        let path = entry?.path();
        if let Some(id) = id_of(&path).filter(|id| !adopted.contains(id)) {
            host.files.remove(&id)?;
        }
    }
    Ok(())
}

/// The machine that a file of the runtime directory belongs to.
fn id_of(path: &Path) -> Option<VmId> {
    let name = path.file_name()?.to_str()?.strip_prefix("vm-")?;
    name.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_tell_their_machine() {
        for name in ["vm-17", "vm-17.json", "vm-17.new", "vm-17.qmp"] {
            assert_eq!(id_of(&Path::new("/run/bigv-head").join(name)).unwrap().as_str(), "17");
        }
        for name in ["lock", "vm-", "vm-A", "kvm-proof.img"] {
            assert_eq!(id_of(Path::new(name)), None, "{name}");
        }
    }
}
