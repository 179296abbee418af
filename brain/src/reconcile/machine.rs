//! The next step for the machine itself.

use super::{
    memory::Hold,
    observed::Machine,
    plan::{Action, Ask, Purpose, Situation, StandingDisc, moment},
    resource::RUN,
};
use crate::{
    limits::{NODE_LOST_AFTER, VM_START_DEADLINE, VM_STOP_DEADLINE, VM_UPDATE_DEADLINE},
    model::{
        change::Change,
        work::{RunRow, RunState, Status},
    },
};
use serde_json::json;
use spine::{
    id::{NodeName, ResourceName},
    message::Command,
    resource::{Attributes, to_attributes, vm::VmResource},
};

/// The next step, if there is one now, and how the machine stands.
type Next = (Option<Action>, Status);

impl<'a> Situation<'a> {
    /// The next step for the machine.
    pub fn machine(self, discs: &[StandingDisc<'_>]) -> Next {
        if let Some(rogue) = self.rogue() {
            let reason = format!("an instance on {} that should not be there is being stopped", rogue.head);
            let why = "this machine is not to run here (any more)";
            let stop = self.ask_head(&rogue.head, Purpose::RemoveRogue, |name| Command::Remove(name, because(why)));
            return self.unless_held(stop, Status::because("waiting", reason));
        }
        if let Some(action) = self.confirm() {
            return self.unless_held(action, Status::because("waiting", "a head that was away is being asked for it"));
        }
        match &self.work.run {
            None if self.work.vm.purged => self.purged(),
            None if self.work.wanted_on() => self.start(discs),
            None if self.work.vm.deleted => (None, Status::plain("deleted")),
            None => (None, Status::plain("off")),
            Some(run) => self.go_on(run, discs),
        }
    }

    /// A run that was ended while its head was away: once that is back it has to say that it does
    /// not have it. The order counts, not the view: an order to start it may still be on its way.
    fn confirm(self) -> Option<Action> {
        let ended = self.work.unconfirmed.iter().find(|ended| self.away(&ended.head).is_none())?;
        match &self.work.run {
            Some(run) if run.head == ended.head => {
                let runs = run.state == RunState::Running && self.own_machine(run).is_some();
                runs.then_some(Action::Record(Change::RunConfirmed(ended.id)))
            }
            _ => Some(self.ask_head(&ended.head, Purpose::Confirm(ended.id), |name| {
                Command::Remove(name, because("it was ended while its head was away"))
            })),
        }
    }

    fn purged(self) -> Next {
        if let Some(away) = self.work.unconfirmed.iter().find_map(|ended| self.away(&ended.head)) {
            return (None, Status::because("deleted", format!("{away}, and may have it still")));
        }
        let action = if !self.work.cards.is_empty() || self.work.vm.management_address.is_some() {
            Some(Change::AddressesFreed)
        } else if self.work.discs.is_empty() && self.work.leftovers.is_empty() {
            Some(Change::VmRemoved)
        } else {
            None
        };
        (action.map(Action::Record), Status::because("deleted", "its discs are being removed"))
    }

    /// No run, and the machine should be on: open one, when its discs are there.
    fn start(self, discs: &[StandingDisc<'_>]) -> Next {
        let missing = discs.iter().find(|(disc, standing)| disc.remove_reason.is_none() && !standing.usable);
        if let Some((disc, standing)) = missing {
            let state = match standing.status.state.as_str() {
                state @ ("imaging" | "failed") => state,
                _ => "waiting",
            };
            let reason = standing.status.reason.as_deref();
            let progress = standing.status.progress;
            let text = match (reason, progress) {
                (Some(reason), _) => format!("disc {}: {reason}", disc.label),
                (None, Some(percent)) => format!("disc {}: the image is {percent} % written", disc.label),
                (None, None) => format!("disc {} is not ready", disc.label),
            };
            return (None, Status { progress, ..Status::because(state, text) });
        }
        self.unless_held(Action::OpenRun, Status::because("starting", "a head is being chosen"))
    }

    fn go_on(self, run: &RunRow, discs: &[StandingDisc<'_>]) -> Next {
        let head = &run.head;
        if let Some(away) = self.away(head) {
            return self.without_head(run, away);
        }
        let own = self.own_machine(run);
        match (run.state, own) {
            (RunState::Attaching, _) => self.attach(run, discs),
            (RunState::Starting | RunState::Running, Some(own)) if self.work.wanted_on() => {
                self.keep_running(run, own, discs)
            }
            (RunState::Starting, None) if self.work.wanted_on() && self.memory.start_overdue != Some(run.id) => {
                let resource = self.surroundings.resource(self.work, run.id, &run.key);
                let start =
                    self.ask_head(head, Purpose::Start(run.id), |name| Command::Create(name, to_attributes(&resource)));
                self.unless_held(start, Status::because("starting", format!("{head} is starting it")))
            }
            // The order to start it may still be carried out: it is taken back before the run ends.
            (RunState::Starting, _) => self.stop(run),
            (RunState::Running, Some(_)) => {
                (Some(Action::Record(Change::RunMoved(RunState::Stopping))), self.stopping_status(run))
            }
            (RunState::Stopping, Some(_)) => self.stop(run),
            (RunState::Running | RunState::Stopping, None) => {
                let said = self.observed.gone.clone();
                let reason = said.unwrap_or_else(|| format!("{head} does not have it any more"));
                let status = Status::because("stopping", reason.clone());
                (Some(Action::Record(Change::RunEnded { reason, stopped: true, confirmed: true })), status)
            }
        }
    }

    /// Waits until every tail has let the run in, then lets the head start it.
    fn attach(self, run: &RunRow, discs: &[StandingDisc<'_>]) -> Next {
        if !self.work.wanted_on() {
            let reason = "it was to be off before it had started".to_owned();
            let status = Status::because("stopping", reason.clone());
            return (Some(Action::Record(Change::RunEnded { reason, stopped: true, confirmed: true })), status);
        }
        if run.head_address.is_none() {
            let reason = format!("{} has not told its storage address", run.head);
            let status = Status::because("starting", reason.clone());
            return (Some(Action::Record(Change::RunEnded { reason, stopped: false, confirmed: true })), status);
        }
        let missing = discs.iter().find(|(disc, standing)| disc.remove_reason.is_none() && !standing.granted);
        match missing {
            Some((disc, standing)) => {
                let reason = standing.status.reason.as_deref().unwrap_or("its tail is being told who may use it");
                (None, Status::because("starting", format!("disc {}: {reason}", disc.label)))
            }
            None => {
                let status = Status::because("starting", format!("{} is about to start it", run.head));
                (Some(Action::Record(Change::RunMoved(RunState::Starting))), status)
            }
        }
    }

    fn keep_running(self, run: &RunRow, own: &Machine, discs: &[StandingDisc<'_>]) -> Next {
        let mut status = Status::plain("running");
        status.reason = discs.iter().find_map(|(disc, standing)| {
            if let (Some(_), "waiting", Some(reason)) =
                (&disc.moving, standing.status.state.as_str(), &standing.status.reason)
            {
                return Some(format!("disc {}: {reason}; the guest's I/O waits for it", disc.label));
            }
            let away = self.away(&disc.pool.as_ref()?.tail)?;
            Some(format!("disc {}: {away}; the guest's I/O waits for it", disc.label))
        });
        if run.state == RunState::Starting {
            return (Some(Action::Record(Change::RunMoved(RunState::Running))), status);
        }
        let Some(resource) = &own.resource else {
            return (None, Status::because("running", format!("what {} says of it cannot be understood", run.head)));
        };
        let mut changes = self.surroundings.differences(self.work, resource);
        let resizing = discs.iter().any(|(_, standing)| {
            standing
                .action
                .as_ref()
                .is_some_and(|action| matches!(action, Action::Ask(ask) if matches!(ask.purpose, Purpose::Resize(..))))
        });
        // The guest is told of a new size when the tail has it, not before.
        if resizing || status.reason.is_some() {
            changes.remove("discs");
        }
        let told = self.memory.refreshed.as_ref().is_some_and(|(id, told)| *id == run.id && *told == changes);
        if changes.is_empty() || told {
            return (None, status);
        }
        let refresh = self.ask_head(&run.head, Purpose::Refresh, |name| Command::Update(name, changes));
        match self.held() {
            Some(hold) => (None, Status { reason: Some(hold.reason.clone()), ..status }),
            None => (Some(refresh), status),
        }
    }

    fn stop(self, run: &RunRow) -> Next {
        let overdue = self.memory.start_overdue == Some(run.id);
        let why = match overdue {
            true => "its start took too long",
            false if self.work.vm.deleted => "it was deleted",
            false => "it is to be off",
        };
        let stop = self.ask_head(&run.head, Purpose::Stop(overdue && self.work.wanted_on()), |name| {
            Command::Remove(name, because(why))
        });
        self.unless_held(stop, self.stopping_status(run))
    }

    fn stopping_status(self, run: &RunRow) -> Status {
        Status::because("stopping", format!("{} is stopping it", run.head))
    }

    /// The head is away. Its machines are left alone, unless their owner wants this one off: then the
    /// run ends, its discs are closed to that head, and should it come back, what it has is a rogue.
    fn without_head(self, run: &RunRow, away: String) -> Next {
        let since = self.observed.away(&run.head).unwrap_or(self.now);
        let lost = self.now - since > NODE_LOST_AFTER;
        let confirmed = run.state == RunState::Attaching;
        let end = |reason: String, stopped| {
            let status = Status::because("stopping", reason.clone());
            (Some(Action::Record(Change::RunEnded { reason, stopped, confirmed })), status)
        };
        match run.state {
            RunState::Attaching if self.work.wanted_on() && lost => {
                end(format!("{away}, and had not started it"), false)
            }
            _ if !self.work.wanted_on() && lost => {
                end(format!("{away}: its discs are closed to that head, and it counts as off"), true)
            }
            _ if !self.work.wanted_on() => {
                let seconds = NODE_LOST_AFTER.as_secs();
                let reason = format!("{away}; it counts as off when that has lasted {seconds} s");
                (None, Status::because("waiting", reason))
            }
            _ => (None, Status::because("waiting", format!("{away}; its VMs are not started elsewhere automatically"))),
        }
    }

    /// The open run's machine, as its head has it.
    fn own_machine(self, run: &RunRow) -> Option<&'a Machine> {
        self.observed.machines.iter().find(|machine| machine.head == run.head && is_of(machine, run))
    }

    /// An instance of a VM that is in the database, where none should be (R057, R058).
    fn rogue(self) -> Option<&'a Machine> {
        self.observed.machines.iter().find(|machine| match &self.work.run {
            None => true,
            Some(run) => machine.head != run.head || !is_of(machine, run),
        })
    }

    /// The action, unless the VM is to be left alone for a while.
    fn unless_held(self, action: Action, status: Status) -> Next {
        match self.held() {
            Some(hold) => {
                let reason = format!("{} (next attempt at {})", hold.reason, moment(hold.until));
                (None, Status::because("waiting", reason))
            }
            None => (Some(action), status),
        }
    }

    /// Why the VM is to be left alone for a while, if so.
    fn held(self) -> Option<&'a Hold> {
        let concerns = |hold: &&Hold| !(hold.automatic_only && self.work.vm.power_ordered);
        self.memory.vm.as_ref().filter(|hold| hold.lasts(self.now)).filter(concerns)
    }

    fn ask_head(self, head: &NodeName, purpose: Purpose, command: impl FnOnce(ResourceName) -> Command) -> Action {
        let deadline = match purpose {
            Purpose::Start(_) => VM_START_DEADLINE,
            Purpose::Refresh => VM_UPDATE_DEADLINE,
            _ => VM_STOP_DEADLINE,
        };
        let command = command(ResourceName::Vm(self.work.vm.spine_id()));
        Action::Ask(Ask { node: head.clone(), command, deadline, purpose })
    }
}

/// Whether what a head has is this run. What cannot be read counts as it: it is left alone.
fn is_of(machine: &Machine, run: &RunRow) -> bool {
    let Some(resource) = &machine.resource else { return true };
    if let Some(number) = resource.extra.get(RUN) {
        return number.as_i64() == Some(run.id);
    }
    has_key(resource, run).unwrap_or(true)
}

/// Whether the machine's discs were opened with this run's key; none when it shows no key.
fn has_key(resource: &VmResource, run: &RunRow) -> Option<bool> {
    let shown = resource.discs.iter().find_map(|disc| disc.extra.get("key_hash")?.as_str())?;
    Some(shown == run.key.hash().as_str())
}

fn because(reason: &str) -> Attributes {
    let mut attributes = Attributes::new();
    attributes.insert("reason".to_owned(), json!(reason));
    attributes
}
