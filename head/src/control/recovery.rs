//! A machine whose task failed, by a fault of this program: its qemu still runs, and is taken over again as
//! by a new supervisor. A guest never ends because of it.

use super::adoption::{Adopted, find};
use crate::{
    host::Host,
    hypervisor::process::{Qemu, ours},
    vm::{
        driver::{Driver, News, Order, refuse},
        start::{Parts, clean_up},
    },
};
use spine::{id::VmId, resource::Attributes};
use std::{sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::sleep};

/// A machine that nobody sees to.
#[derive(Debug)]
pub struct Lost {
    /// Which.
    pub id: VmId,
    /// Its uid.
    pub uid: u32,
    /// What was last said of it; none while it was being started.
    pub said: Option<Attributes>,
    /// How often its task has failed, this time included.
    pub failures: u32,
    /// Orders that come from now on.
    pub orders: mpsc::Receiver<Order>,
    /// To the supervisor.
    pub news: mpsc::Sender<News>,
}

/// Takes the machine over again after a pause, or removes what is left of it. Orders wait meanwhile.
pub async fn recover(host: Arc<Host>, lost: Lost) {
    sleep(pause(lost.failures)).await;
    match find(&host, &lost.id) {
        Some(Adopted { job, qemu }) => {
            tracing::info!(vm = %lost.id, pid = qemu.mark().pid, "the machine of the failed task is taken over again");
            Driver::new(host, job, lost.orders, lost.news).resume(qemu, lost.said).await;
        }
        None => remove(&host, lost).await,
    }
}

/// A task that fails at once, and again, must not keep a processor busy.
fn pause(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.saturating_sub(1).min(4))
}

async fn remove(host: &Host, mut lost: Lost) {
    tracing::warn!(vm = %lost.id, "the machine of the failed task does not run: what is left of it is removed");
    let of_uid = ours(&(lost.uid..=lost.uid), host.files.root()).unwrap_or_default();
    let qemu = of_uid.into_iter().find_map(|(mark, uid)| Qemu::adopt(mark, uid).ok());
    clean_up(host, &lost.id, lost.uid, &mut Parts { qemu, ..Parts::default() }).await;
    let reason = lost.said.is_some().then(|| "it ended while its task on the head had failed".to_owned());
    lost.orders.close();
    // The supervisor ends only after its machines' tasks, or with the process.
    let _ = lost.news.send(News::Gone(lost.id.clone(), reason)).await;
    while let Some(order) = lost.orders.recv().await {
        refuse(order, &lost.id, &lost.news).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end_before_the_supervisor_gives_up_waiting() {
        assert_eq!([1, 2, 3].map(pause), [1, 2, 4].map(Duration::from_secs));
        assert!(pause(u32::MAX) < crate::limits::STOP_DEADLINE + crate::limits::KILL_DEADLINE);
    }
}
