//! The calls, one function each.

use super::{Answer, Client, ClientError, GroupPath, Path, VmPath, typed};
use serde_json::{Value, json};
use spine::api::{
    Account, Definition, Disc, Group, MigrationJob, MigrationPlan, NewDisc, OldCopy, Reimage, User, VirtualMachine,
    VmCreate, VmCreated,
};
use std::time::Duration;
use ureq::http::Method;

/// Accounts, groups, users and what the cluster offers.
impl Client {
    /// `GET /definitions`: what there is to choose from. Needs no login.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn definitions(&self) -> Result<Answer<Vec<Definition>>, ClientError> {
        let what = "the list of definitions";
        typed(self.exchange(&Method::GET, &Path::new("definitions"), what, None, None)?, what)
    }

    /// The accounts you can see.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn accounts(&self) -> Result<Answer<Vec<Account>>, ClientError> {
        self.get(&Path::new("accounts"), "the list of accounts")
    }

    /// One account with its groups, their VMs, discs and network cards.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn account(&self, account: &str, include_deleted: bool) -> Result<Answer<Account>, ClientError> {
        let path = Path::new("accounts").segment(account).query("view", "overview");
        self.get(&with_deleted(path, include_deleted), &format!("account {account}"))
    }

    /// The groups of an account.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn groups(&self, account: &str) -> Result<Answer<Vec<Group>>, ClientError> {
        let path = Path::new("accounts").segment(account).segment("groups");
        self.get(&path, &format!("account {account}"))
    }

    /// One group with its VMs.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn group(&self, group: &GroupPath, include_deleted: bool) -> Result<Answer<Group>, ClientError> {
        let path = group.path().query("view", "overview");
        self.get(&with_deleted(path, include_deleted), &format!("group {group}"))
    }

    /// Makes a group.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn create_group(&self, group: &GroupPath) -> Result<Answer<Group>, ClientError> {
        let path = Path::new("accounts").segment(&group.account).segment("groups");
        let what = format!("group {group}");
        typed(self.call(&Method::POST, &path, &what, Some(&json!({"name": group.group})))?, &what)
    }

    /// Removes a group, which must be empty.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn delete_group(&self, group: &GroupPath) -> Result<(), ClientError> {
        self.call(&Method::DELETE, &group.path(), &format!("group {group}"), None).map(drop)
    }

    /// A login.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn user(&self, username: &str) -> Result<Answer<User>, ClientError> {
        self.get(&Path::new("users").segment(username), &format!("user {username}"))
    }

    /// Replaces a login's SSH keys, one a line.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn set_keys(&self, username: &str, keys: &str) -> Result<Answer<User>, ClientError> {
        let what = format!("user {username}");
        let body = json!({"authorized_keys": keys});
        typed(self.call(&Method::PUT, &Path::new("users").segment(username), &what, Some(&body))?, &what)
    }
}

/// VMs.
impl Client {
    /// One VM with its discs and network cards, deleted or not.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn vm(&self, vm: &VmPath) -> Result<Answer<VirtualMachine>, ClientError> {
        let path = with_deleted(vm.path().query("view", "overview"), true);
        self.get(&path, &format!("VM {vm}"))
    }

    /// One VM, answered when its state is one of `until` (`running,failed`) or `wait` is over,
    /// whichever is first. A brain that does not know this answers at once.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn vm_when(&self, vm: &VmPath, until: &str, wait: Duration) -> Result<Answer<VirtualMachine>, ClientError> {
        let path = vm.path().query("wait", &format!("{}s", wait.as_secs())).query("until", until);
        self.get(&path, &format!("VM {vm}"))
    }

    /// Makes a VM with its discs.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn create_vm(&self, group: &GroupPath, order: &VmCreate) -> Result<Answer<VmCreated>, ClientError> {
        let what = format!("VM {}.{group}", order.virtual_machine.name);
        let body = to_json(order, &what)?;
        typed(self.call(&Method::POST, &group.path().segment("vm_create"), &what, Some(&body))?, &what)
    }

    /// Changes attributes of a VM: only those in `changes`.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn update_vm(&self, vm: &VmPath, changes: &Value) -> Result<Answer<VirtualMachine>, ClientError> {
        let what = format!("VM {vm}");
        typed(self.call(&Method::PUT, &vm.path(), &what, Some(changes))?, &what)
    }

    /// Deletes a VM; it can be had back for a while unless it is purged.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn delete_vm(&self, vm: &VmPath, purge: bool) -> Result<(), ClientError> {
        let path = if purge { vm.path().query("purge", "true") } else { vm.path() };
        self.call(&Method::DELETE, &path, &format!("VM {vm}"), None).map(drop)
    }

    /// Sends `reset` or `powerdown` to a running VM.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn signal_vm(&self, vm: &VmPath, signal: &str) -> Result<(), ClientError> {
        let path = vm.path().segment("signal");
        self.call(&Method::POST, &path, &format!("VM {vm}"), Some(&json!({"signal": signal}))).map(drop)
    }

    /// Writes an image onto the first disc of a VM that is off, and starts it.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn reimage_vm(&self, vm: &VmPath, reimage: &Reimage) -> Result<(), ClientError> {
        let what = format!("VM {vm}");
        let body = to_json(reimage, &what)?;
        self.call(&Method::POST, &vm.path().segment("reimage"), &what, Some(&body)).map(drop)
    }
}

/// Discs.
impl Client {
    /// The discs of a VM, in the guest's order.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn discs(&self, vm: &VmPath) -> Result<Answer<Vec<Disc>>, ClientError> {
        self.get(&vm.path().segment("discs"), &format!("VM {vm}"))
    }

    /// One disc, by label or number.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn disc(&self, vm: &VmPath, disc: &str) -> Result<Answer<Disc>, ClientError> {
        self.get(&vm.disc(disc), &disc_of(vm, disc))
    }

    /// Adds a disc to a VM.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn create_disc(&self, vm: &VmPath, disc: &NewDisc) -> Result<Answer<Disc>, ClientError> {
        let what = format!("the disc for VM {vm}");
        let body = to_json(disc, &what)?;
        typed(self.call(&Method::POST, &vm.path().segment("discs"), &what, Some(&body))?, &what)
    }

    /// Changes attributes of a disc: only those in `changes`.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn update_disc(&self, vm: &VmPath, disc: &str, changes: &Value) -> Result<Answer<Disc>, ClientError> {
        let what = disc_of(vm, disc);
        typed(self.call(&Method::PUT, &vm.disc(disc), &what, Some(changes))?, &what)
    }

    /// Destroys a disc and what is on it.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn purge_disc(&self, vm: &VmPath, disc: &str) -> Result<(), ClientError> {
        self.call(&Method::DELETE, &vm.disc(disc).query("purge", "true"), &disc_of(vm, disc), None).map(drop)
    }
}

/// The cluster itself: for operators.
impl Client {
    /// All of `heads`, `tails` or `storage_pools`.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn admin_list(&self, collection: &'static str) -> Result<Answer<Vec<Value>>, ClientError> {
        let what = format!("the list of {}", collection.replace('_', " "));
        self.get(&Path::new("admin").segment(collection), &what)
    }

    /// One of them, by label or number. `noun` names it in errors.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn admin_one(&self, collection: &'static str, name: &str, noun: &str) -> Result<Value, ClientError> {
        let path = Path::new("admin").segment(collection).segment(name);
        self.call(&Method::GET, &path, &format!("{noun} {name}"), None)
    }
}

/// Discs that move between tails: for operators.
impl Client {
    /// Changes one of `heads`, `tails` or `storage_pools`: only what is in `changes`.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn admin_update(
        &self,
        collection: &'static str,
        name: &str,
        noun: &str,
        changes: &Value,
    ) -> Result<Value, ClientError> {
        let path = Path::new("admin").segment(collection).segment(name);
        self.call(&Method::PUT, &path, &format!("{noun} {name}"), Some(changes))
    }

    /// The discs on a tail or in a storage pool.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn admin_discs(
        &self,
        collection: &'static str,
        name: &str,
        noun: &str,
    ) -> Result<Answer<Vec<Disc>>, ClientError> {
        let path = Path::new("admin").segment(collection).segment(name).segment("discs");
        self.get(&path, &format!("{noun} {name}"))
    }

    /// Orders that one disc moves: `action` is `migrate` or `regrade`. Gives the job.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn order_disc(&self, disc: u64, action: &str, body: &Value) -> Result<Answer<MigrationJob>, ClientError> {
        let what = format!("disc {disc}");
        let path = Path::new("admin").segment("discs").segment(&disc.to_string()).segment(action);
        let ordered = self.call(&Method::POST, &path, &what, Some(body))?;
        let id = ordered.get("migration_job_id").and_then(Value::as_u64);
        let reason = "it does not say which job moves it".to_owned();
        self.job(id.ok_or(ClientError::BadAnswer { what, reason })?)
    }

    /// Calls off the move of a disc.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn cancel_disc(&self, disc: u64) -> Result<Value, ClientError> {
        let path = Path::new("admin").segment("discs").segment(&disc.to_string()).segment("cancel_migration");
        self.call(&Method::POST, &path, &format!("disc {disc}"), Some(&json!({})))
    }

    /// Says what becomes of a disc of which one tail is lost: `action` is `promote`, `take_back` or `remove_old_copies`.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn force_disc(&self, disc: u64, action: &str, order: &Value) -> Result<Value, ClientError> {
        let path = Path::new("admin").segment("discs").segment(&disc.to_string()).segment(action);
        self.call(&Method::POST, &path, &format!("disc {disc}"), Some(order))
    }

    /// What tails have of discs that are other tails' now.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn old_copies(&self) -> Result<Answer<Vec<OldCopy>>, ClientError> {
        self.get(&Path::new("admin").segment("old_copies"), "the list of old copies")
    }

    /// Orders that discs move.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn create_job(&self, order: &Value) -> Result<Answer<MigrationJob>, ClientError> {
        let what = "the migration";
        typed(self.call(&Method::POST, &jobs_path(), what, Some(order))?, what)
    }

    /// Says what that would do, and does nothing.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn plan_job(&self, order: &Value) -> Result<Answer<MigrationPlan>, ClientError> {
        let what = "the migration's plan";
        typed(self.call(&Method::POST, &jobs_path().query("plan", "true"), what, Some(order))?, what)
    }

    /// Closes one of `tails` or `storage_pools` and orders that its discs move away, as `order` says.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn empty(
        &self,
        collection: &'static str,
        name: &str,
        noun: &str,
        order: &Value,
    ) -> Result<Answer<MigrationJob>, ClientError> {
        let what = format!("{noun} {name}");
        typed(self.call(&Method::POST, &empty_path(collection, name), &what, Some(order))?, &what)
    }

    /// Says what that would do, and does nothing.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn plan_emptying(
        &self,
        collection: &'static str,
        name: &str,
        noun: &str,
    ) -> Result<Answer<MigrationPlan>, ClientError> {
        let what = format!("{noun} {name}");
        let path = empty_path(collection, name).query("plan", "true");
        typed(self.call(&Method::POST, &path, &what, Some(&json!({})))?, &what)
    }

    /// The jobs that move discs; all, or those that are not finished.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn jobs(&self, unfinished: bool) -> Result<Answer<Vec<MigrationJob>>, ClientError> {
        let path = if unfinished { jobs_path().query("unfinished", "1") } else { jobs_path() };
        self.get(&path, "the list of migrations")
    }

    /// One job.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn job(&self, id: u64) -> Result<Answer<MigrationJob>, ClientError> {
        self.get(&jobs_path().segment(&id.to_string()), &format!("migration {id}"))
    }

    /// Changes a job: calls all or part of it off, or gives it another priority.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn update_job(&self, id: u64, changes: &Value) -> Result<Answer<MigrationJob>, ClientError> {
        let what = format!("migration {id}");
        typed(self.call(&Method::PUT, &jobs_path().segment(&id.to_string()), &what, Some(changes))?, &what)
    }

    /// The discs that are moving, with how far they are.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub fn migrating_discs(&self) -> Result<Answer<Vec<Disc>>, ClientError> {
        self.get(&Path::new("admin").segment("migrating_discs"), "the list of moving discs")
    }
}

fn jobs_path() -> Path {
    Path::new("admin").segment("migration_jobs")
}

fn empty_path(collection: &'static str, name: &str) -> Path {
    Path::new("admin").segment(collection).segment(name).segment("empty")
}

fn disc_of(vm: &VmPath, disc: &str) -> String {
    format!("disc {disc:?} of VM {vm}")
}

fn with_deleted(path: Path, include_deleted: bool) -> Path {
    if include_deleted { path.query("include_deleted", "true") } else { path }
}

fn to_json<T: serde::Serialize>(value: &T, what: &str) -> Result<Value, ClientError> {
    serde_json::to_value(value)
        .map_err(|e| ClientError::BadAnswer { what: what.to_owned(), reason: format!("cannot write the request: {e}") })
}
