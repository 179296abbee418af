//! Checks what is asked for against what there is: heads, pools, grades, images.

use crate::{
    config::{Config, ImageConfig},
    model::{
        disc::{NewDisc, SIZE_MIB_MAX, SIZE_MIB_MIN},
        invalid::Invalid,
        name::{check_label, check_vm},
        vm::{CORES_MAX, MEMORY_MIB_MAX, MEMORY_MIB_MIN, NewVm, VmChange, check_cdrom_url},
    },
    store::capacity::Capacity,
};
use spine::{
    hardware::{HARDWARE_PROFILES, KEYMAPS},
    limits::DISCS_PER_VM_MAX,
};
use std::collections::BTreeSet;

/// The API's word for "no image".
pub const NO_DISTRIBUTION: &str = "none";

/// What values may be.
#[derive(Clone, Debug)]
pub struct Bounds<'a> {
    config: &'a Config,
    capacity: Capacity,
}

impl<'a> Bounds<'a> {
    /// Of this cluster, as it stands.
    pub fn new(config: &'a Config, capacity: Capacity) -> Self {
        Self { config, capacity }
    }

    /// Checks a machine that is to be made.
    pub fn check_new_vm(&self, vm: &NewVm) -> Invalid {
        let mut invalid = self.check_values(vm);
        if let Err(sentence) = check_vm(vm.name.as_deref().unwrap_or_default()) {
            invalid.add("name", sentence);
        }
        invalid
    }

    /// Checks what is to change in a machine.
    pub fn check_vm_change(&self, change: &VmChange) -> Invalid {
        let mut invalid = self.check_values(&NewVm {
            cores: change.cores,
            memory_mib: change.memory_mib,
            cdrom_url: change.cdrom_url.clone().flatten(),
            keymap: change.keymap.clone().flatten(),
            hardware_profile: change.hardware_profile.clone().flatten(),
            ..NewVm::default()
        });
        if let Some(Err(sentence)) = change.name.as_deref().map(check_vm) {
            invalid.add("name", sentence);
        }
        invalid
    }

    /// Checks all that is there but the name.
    fn check_values(&self, vm: &NewVm) -> Invalid {
        let mut invalid = Invalid::default();
        let mut check = |attribute: &str, outcome: Option<Result<(), String>>| {
            if let Some(Err(sentence)) = outcome {
                invalid.add(attribute, sentence);
            }
        };
        check("cores", vm.cores.map(|cores| self.check_cores(cores)));
        check("memory", vm.memory_mib.map(|memory| self.check_memory(memory)));
        check("cdrom_url", vm.cdrom_url.as_deref().map(check_cdrom_url));
        check("keymap", vm.keymap.as_deref().map(|keymap| in_list(keymap, KEYMAPS)));
        check("hardware_profile", vm.hardware_profile.as_deref().map(|profile| in_list(profile, HARDWARE_PROFILES)));
        check("zone_name", vm.zone_name.as_deref().map(|zone| in_list(zone, &[])));
        invalid
    }

    /// Checks a machine's new discs; `present` are the labels it has already. One entry a disc.
    pub fn check_new_discs(&self, discs: &[NewDisc], present: &[&str]) -> Vec<Invalid> {
        let mut labels: BTreeSet<&str> = present.iter().copied().collect();
        let mut checked = Vec::with_capacity(discs.len());
        for (position, disc) in discs.iter().enumerate() {
            let mut invalid = self.check_new_disc(disc);
            if let Some(label) = disc.label.as_deref()
                && !labels.insert(label)
            {
                invalid.add("label", "has already been taken");
            }
            if present.len() + position >= DISCS_PER_VM_MAX {
                invalid.add("base", format!("is one too many: a VM has at most {DISCS_PER_VM_MAX} discs"));
            }
            checked.push(invalid);
        }
        checked
    }

    fn check_new_disc(&self, disc: &NewDisc) -> Invalid {
        let mut invalid = Invalid::default();
        if let Some(Err(sentence)) = disc.label.as_deref().map(check_label) {
            invalid.add("label", sentence);
        }
        let grade = disc.grade.as_deref().unwrap_or(spine::spec::GRADE_DEFAULT);
        if !self.grades().contains(grade) {
            invalid.add("storage_grade", "is not included in the list");
        }
        match disc.size_mib.map(|size| self.check_size(size, grade)) {
            None => invalid.add("size", "can't be blank"),
            Some(Err(sentence)) => invalid.add("size", sentence),
            Some(Ok(())) => {}
        }
        invalid
    }

    /// Checks a disc's size (R027).
    ///
    /// # Errors
    /// The API's sentence.
    pub fn check_size(&self, size_mib: i64, grade: &str) -> Result<(), String> {
        let pool = self.capacity.pool_mib_max.get(grade).copied();
        match pool {
            Some(pool) if size_mib > pool => {
                Err(format!("must be less than or equal to {pool}, the size of the largest {grade} storage pool"))
            }
            _ => between(size_mib, SIZE_MIB_MIN, SIZE_MIB_MAX),
        }
    }

    /// The image with this name.
    ///
    /// # Errors
    /// The API's sentence.
    pub fn image(&self, distribution: &str) -> Result<&'a ImageConfig, String> {
        let found = self.config.images.iter().find(|image| image.name.as_str() == distribution);
        found.ok_or_else(|| "is not included in the list".to_owned())
    }

    /// The names of all grades: those configured, and those that pools say they are of.
    pub fn grades(&self) -> BTreeSet<&str> {
        let configured = self.config.grades.iter().map(|grade| grade.name.as_str());
        configured.chain(self.capacity.pool_mib_max.keys().map(String::as_str)).collect()
    }

    fn check_cores(&self, cores: i64) -> Result<(), String> {
        match self.capacity.cores_max {
            Some(largest) if cores > largest => {
                Err(format!("must be less than or equal to {largest}, the cores of the largest head"))
            }
            _ => between(cores, 1, CORES_MAX),
        }
    }

    /// R025.
    fn check_memory(&self, memory_mib: i64) -> Result<(), String> {
        match self.capacity.memory_mib_max {
            Some(largest) if memory_mib > largest => {
                Err(format!("must be less than or equal to {largest}, the memory of the largest head"))
            }
            _ => between(memory_mib, MEMORY_MIB_MIN, MEMORY_MIB_MAX),
        }
    }
}

/// Checks that a disc can hold an image.
///
/// # Errors
/// The API's sentence.
pub fn check_image_fits(image: &ImageConfig, size_mib: i64) -> Result<(), String> {
    match u64::try_from(size_mib).is_ok_and(|size| size >= image.size_min_mib) {
        true => Ok(()),
        false => Err(format!("must be greater than or equal to {} for {}", image.size_min_mib, image.name)),
    }
}

fn between(value: i64, least: i64, most: i64) -> Result<(), String> {
    if value < least {
        Err(format!("must be greater than or equal to {least}"))
    } else if value > most {
        Err(format!("must be less than or equal to {most}"))
    } else {
        Ok(())
    }
}

fn in_list(word: &str, list: &[&str]) -> Result<(), String> {
    match list.contains(&word) {
        true => Ok(()),
        false => Err("is not included in the list".to_owned()),
    }
}
