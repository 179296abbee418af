//! Discs that somebody may use and nobody does: their addresses are announced again and again, because the
//! one lost advertisement may be that of a hand-over (safety rule 12).

use super::Store;
use spine::{
    id::DiscNumber,
    resource::disc::{DiscReport, DiscState},
};
use std::{collections::BTreeSet, time::Duration};

/// Between two announcements of the address of a disc that waits for its client.
const PERIOD: Duration = Duration::from_secs(30);

impl Store {
    /// Announces until it is dropped.
    pub async fn announce_unused(&self) {
        loop {
            tokio::time::sleep(PERIOD).await;
            let shards = self.shards().status().await;
            let served = shards.iter().flat_map(|shard| &shard.discs);
            let used: BTreeSet<DiscNumber> = served
                .filter(|disc| disc.clients.iter().any(|client| client.attached))
                .map(|disc| disc.number)
                .collect();
            let waiting = |(name, report): &(spine::id::DiscName, DiscReport)| {
                !used.contains(&name.number) && may_be_used(report)
            };
            let addresses = self.reports().into_iter().filter(waiting).map(|(_, report)| report.address);
            self.parts.addresses.announce(addresses.collect()).await;
        }
    }
}

/// True when a client may connect. A disc of a VM that is off has no attachment.
fn may_be_used(report: &DiscReport) -> bool {
    let somebody = report.attachments.as_ref().is_some_and(|attachments| !attachments.is_empty())
        || report.access_control_list.as_ref().is_some_and(|addresses| !addresses.is_empty());
    somebody && report.state == DiscState::Serving
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rule12_only_discs_that_wait_for_a_client_are_announced_again() {
        let report = |changes: serde_json::Value| {
            let mut value = json!({
                "size": 1, "storage_pool": "sata1", "generation": 1, "attachments_version": 1,
                "address": "fd00:b16:0:d::7", "allocated": 0, "state": "serving",
            });
            value.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            serde_json::from_value::<DiscReport>(value).unwrap()
        };
        let attachment = json!([{"head": "fd00::1", "key_hash": spine::secret::Secret::new("k").hash()}]);
        for (changes, wanted) in [
            (json!({"attachments": attachment}), true),
            (json!({"access_control_list": ["fd00::1"]}), true),
            (json!({"attachments": []}), false),
            (json!({"access_control_list": []}), false),
            (json!({"attachments": attachment, "state": "failed"}), false),
            (json!({"attachments": attachment, "state": "importing"}), false),
        ] {
            assert_eq!(may_be_used(&report(changes.clone())), wanted, "{changes}");
        }
    }
}
