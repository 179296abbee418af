//! Whether a machine may start here, with a reason for each refusal: pure.

use super::spec::Spec;
use crate::{config::Config, control::refusal, limits::OVERHEAD_PER_VM_MIB};
use spine::message::Refusal;

/// What a machine that is here takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Its uid.
    pub uid: u32,
    /// Its guest's memory.
    pub memory_mib: u32,
}

/// MiB that the largest machine could have that still fits (R071): what qemu needs for itself is
/// subtracted already.
pub fn free_memory_mib(config: &Config, here: impl Iterator<Item = Share>) -> u64 {
    let used: u64 = here.map(|share| u64::from(share.memory_mib) + OVERHEAD_PER_VM_MIB).sum();
    config.memory_mib.saturating_sub(used).saturating_sub(OVERHEAD_PER_VM_MIB)
}

/// Gives a machine its uid (R135), if there is room for it.
///
/// # Errors
/// `no-memory` or `no-uid`.
pub fn admit(config: &Config, spec: &Spec, here: &[Share]) -> Result<u32, Refusal> {
    let free = free_memory_mib(config, here.iter().copied());
    if u64::from(spec.memory_mib) > free {
        let message = format!("memory: {} MiB do not fit, {free} MiB are free on this head", spec.memory_mib);
        return Err(refusal("no-memory", message));
    }
    let taken = |uid: &u32| here.iter().any(|share| share.uid == *uid);
    config.uid_range.clone().find(|uid| !taken(uid)).ok_or_else(|| {
        let count = config.uid_range.end() - config.uid_range.start() + 1;
        refusal("no-uid", format!("all {count} uids of this head's uid_range are in use"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::EXAMPLE;

    fn config(uids: &str) -> Config {
        toml::from_str(&EXAMPLE.replace("[70000, 70999]", uids)).unwrap()
    }

    fn spec(memory: u32) -> Spec {
        let vm = serde_json::from_value(serde_json::json!({"memory": memory, "cores": 1})).unwrap();
        Spec::check(&vm, &config("[70000, 70001]")).unwrap()
    }

    #[test]
    fn r071_what_is_said_to_be_free_can_be_used() {
        let config = config("[70000, 70001]");
        let free = free_memory_mib(&config, std::iter::empty());
        assert_eq!(free, 4096 - OVERHEAD_PER_VM_MIB);
        assert!(admit(&config, &spec(u32::try_from(free).unwrap()), &[]).is_ok());
        let refusal = admit(&config, &spec(u32::try_from(free).unwrap() + 1), &[]).unwrap_err();
        assert_eq!(refusal.error, "no-memory");
        assert!(refusal.message.contains("4032 MiB are free"), "{}", refusal.message);
    }

    #[test]
    fn r135_each_machine_has_a_uid_of_its_own() {
        let config = config("[70000, 70001]");
        let share = |uid| Share { uid, memory_mib: 64 };
        assert_eq!(admit(&config, &spec(64), &[]).unwrap(), 70_000);
        assert_eq!(admit(&config, &spec(64), &[share(70_000)]).unwrap(), 70_001);
        assert_eq!(admit(&config, &spec(64), &[share(70_001)]).unwrap(), 70_000, "freed ones are used again");
        assert_eq!(admit(&config, &spec(64), &[share(70_000), share(70_001)]).unwrap_err().error, "no-uid");
    }
}
