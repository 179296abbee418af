//! What turns a VM on and off.
//!
//! ```text
//!              autoreboot_on   power_on   then
//!   start      true            true       runs, and comes back whenever it stops
//!   stop       false           false      its power is cut, it stays off
//!   restart    true            false      its power is cut, and the brain starts it again
//!   shutdown   false           -          the guest is asked to end, and stays off
//! ```

use super::vm::show;
use crate::{
    args::{VmPower, VmTarget},
    client::VmPath,
    context::Context,
    error::Error,
    output::{self, Output},
    wait::vm::{self as wait, Wait, Want},
};
use serde_json::json;
use std::time::Duration;

/// Starting and stopping take seconds; a head that restarts may take minutes.
const POWER_TIME_MAX: Duration = Duration::from_secs(600);

/// Starts a VM.
pub fn start(context: &Context, args: &VmPower) -> Result<Output, Error> {
    let vm = context.vm_path(args.target.typed())?;
    start_path(context, &vm, args)
}

fn start_path(context: &Context, vm: &VmPath, args: &VmPower) -> Result<Output, Error> {
    let client = context.client()?;
    let before = client.vm(vm)?.value;
    client.update_vm(vm, &json!({"autoreboot_on": true, "power_on": true}))?;
    let wait = Wait {
        vm,
        want: Want::Running,
        before: Some(&before),
        time_max: POWER_TIME_MAX,
        going_on: format!("{vm} is still being started"),
        advice: None,
    };
    wait.show_after(context, &args.wait)
}

/// Cuts a VM's power.
pub fn stop(context: &Context, args: &VmPower) -> Result<Output, Error> {
    let vm = context.vm_path(args.target.typed())?;
    context.client()?.update_vm(&vm, &json!({"autoreboot_on": false, "power_on": false}))?;
    let wait = Wait {
        vm: &vm,
        want: Want::Off,
        before: None,
        time_max: POWER_TIME_MAX,
        going_on: format!("{vm} is still being stopped"),
        advice: None,
    };
    wait.show_after(context, &args.wait)
}

/// Cuts a VM's power and has the brain start it again. One that is off is only started.
pub fn restart(context: &Context, args: &VmPower) -> Result<Output, Error> {
    let vm = context.vm_path(args.target.typed())?;
    let client = context.client()?;
    let before = client.vm(&vm)?.value;
    if wait::state(&before) == "off" {
        return start_path(context, &vm, args);
    }
    client.update_vm(&vm, &json!({"autoreboot_on": true, "power_on": false}))?;
    let wait = Wait {
        vm: &vm,
        want: Want::RunningAgain,
        before: Some(&before),
        time_max: POWER_TIME_MAX,
        going_on: format!("{vm} is still being restarted"),
        advice: None,
    };
    wait.show_after(context, &args.wait)
}

/// Asks the guest to shut down.
pub fn shutdown(context: &Context, args: &VmPower) -> Result<Output, Error> {
    let vm = context.vm_path(args.target.typed())?;
    let client = context.client()?;
    let before = client.vm(&vm)?.value;
    // Or it would come back as soon as it is down.
    client.update_vm(&vm, &json!({"autoreboot_on": false}))?;
    if wait::state(&before) == "off" {
        output::notice(&format!("{vm} is off already"));
        return show(context, &vm);
    }
    client.signal_vm(&vm, "powerdown")?;
    let wait = Wait {
        vm: &vm,
        want: Want::Off,
        before: Some(&before),
        time_max: POWER_TIME_MAX,
        going_on: format!("{vm} was asked to shut down"),
        advice: Some(format!("a guest that does not listen can be stopped with `bigv vm stop {vm}`")),
    };
    wait.show_after(context, &args.wait)
}

/// Presses the reset button.
pub fn reset(context: &Context, target: &VmTarget) -> Result<Output, Error> {
    let vm = context.vm_path(target.typed())?;
    context.client()?.signal_vm(&vm, "reset")?;
    Ok(Output::message(format!("VM {} was reset", vm.vm)))
}
