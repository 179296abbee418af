//! `bigv vm …`, but for what turns a VM on and off.

use super::{definitions, power, user};
use crate::{
    args::{VmCdrom, VmCommand, VmConsole, VmDelete, VmList, VmNew, VmReimage, VmResize, words},
    client::VmPath,
    context::Context,
    error::Error,
    interrupt,
    output::{self, Output, pages},
    wait::vm::{self as wait, Wait, Want},
};
use serde_json::{Value, json};
use spine::{
    api::{NewDisc, NewVm, Reimage, VirtualMachine, VmCreate},
    size::SizeMib,
    spec::parse_disc_specs,
};
use std::{os::unix::process::CommandExt, process::Command, time::Duration};

/// Writing an image takes as long as the image is big.
const IMAGING_TIME_MAX: Duration = Duration::from_secs(1800);
/// The distribution that is none.
const NO_DISTRIBUTION: &str = "none";

/// Carries out one of them.
pub fn run(context: &Context, command: &VmCommand) -> Result<Output, Error> {
    match command {
        VmCommand::New(args) => new(context, args),
        VmCommand::List(args) => list(context, args),
        VmCommand::Show(target) => show(context, &context.vm_path(target.typed())?),
        VmCommand::Start(args) => power::start(context, args),
        VmCommand::Stop(args) => power::stop(context, args),
        VmCommand::Restart(args) => power::restart(context, args),
        VmCommand::Shutdown(args) => power::shutdown(context, args),
        VmCommand::Reset(target) => power::reset(context, target),
        VmCommand::Delete(args) => delete(context, args),
        VmCommand::Undelete(target) => {
            let vm = context.vm_path(target.typed())?;
            context.client()?.update_vm(&vm, &json!({"deleted": false}))?;
            Ok(Output::message(format!("VM {vm} is back; `bigv vm start {vm}` starts it")))
        }
        VmCommand::Purge(args) => purge(context, args),
        VmCommand::Console(args) => console(context, args),
        VmCommand::Resize(args) => resize(context, args),
        VmCommand::Reimage(args) => reimage(context, args),
        VmCommand::Cdrom(args) => cdrom(context, args),
    }
}

/// Shows a VM as it is now.
pub fn show(context: &Context, vm: &VmPath) -> Result<Output, Error> {
    let answer = context.client()?.vm(vm)?;
    Ok(Output { page: pages::vm(&answer.value), json: answer.json })
}

fn new(context: &Context, args: &VmNew) -> Result<Output, Error> {
    let discs = parse_disc_specs(&args.vm_discs).map_err(|e| Error::BadInput(format!("--vm-discs: {e}")))?;
    let memory = memory(&args.vm_memory)?;
    let keys = args.vm_ssh_key_file.as_deref().map(user::read_keys).transpose()?;
    let vm = context.vm_path(args.target.typed())?;
    let distribution = match &args.vm_distribution {
        Some(name) => name.clone(),
        None => {
            let name = definitions::first_distribution(context)?;
            output::notice(&format!("no --vm-distribution was given: taking {name}, the first of this cluster"));
            name
        }
    };
    let discs = discs.iter().zip(1..).map(|(spec, n)| {
        let size = i64::try_from(spec.size.0).map_err(|_| Error::BadInput(format!("{} is too big", spec.size)))?;
        Ok(NewDisc { label: Some(format!("disc-{n}")), storage_grade: spec.grade.to_string(), size })
    });
    let order = VmCreate {
        virtual_machine: NewVm {
            name: vm.vm.clone(),
            cores: Some(args.vm_cores.into()),
            memory: Some(memory),
            cdrom_url: args.vm_cdrom_url.clone(),
            autoreboot_on: args.stopped.then_some(false),
            power_on: args.stopped.then_some(false),
            hardware_profile: None,
        },
        discs: discs.collect::<Result<_, Error>>()?,
        reimage: image(context, distribution, args.vm_root_password.clone(), keys)?,
    };
    context.client()?.create_vm(&vm.group(), &order)?;
    if args.stopped {
        return show(context, &vm);
    }
    let wait = Wait {
        vm: &vm,
        want: Want::Running,
        before: None,
        time_max: IMAGING_TIME_MAX,
        going_on: format!("{vm} is still being made"),
        advice: None,
    };
    wait.show_after(context, &args.wait)
}

fn image(
    context: &Context,
    distribution: String,
    root_password: Option<String>,
    ssh_public_key: Option<String>,
) -> Result<Option<Reimage>, Error> {
    if distribution == NO_DISTRIBUTION {
        if root_password.is_some() || ssh_public_key.is_some() {
            return Err(Error::BadInput(
                "without a distribution there is nothing to put --vm-root-password or --vm-ssh-key-file into"
                    .to_owned(),
            ));
        }
        return Ok(None);
    }
    let root_password = match root_password.as_deref() {
        Some("-") => Some(context.need_secret("root's password in the guest", "--vm-root-password")?),
        _ => root_password,
    };
    Ok(Some(Reimage { distribution, root_password, ssh_public_key }))
}

fn list(context: &Context, args: &VmList) -> Result<Output, Error> {
    // The profile's group completes names; a list without a group is of the whole account.
    let group = match (&args.in_group, &context.globals().group_name) {
        (Some(typed), _) => Some(context.group_path(typed)?),
        (None, Some(group)) => Some(crate::names::group_path(group.clone(), context.account()?)),
        (None, None) => None,
    };
    if let Some(group) = group {
        let answer = context.client()?.group(&group, args.include_deleted)?;
        let vms = answer.value.virtual_machines.unwrap_or_default();
        let json = answer.json.get("virtual_machines").cloned().unwrap_or_else(|| json!([]));
        return Ok(Output { json, page: pages::vms(vms.iter(), format!("There are no VMs in group {group}.")) });
    }
    let account = context.account()?;
    let answer = context.client()?.account(&account, args.include_deleted)?;
    let groups = answer.value.groups.unwrap_or_default();
    let vms = groups.iter().flat_map(|group| group.virtual_machines.iter().flatten());
    let json_groups = answer.json.get("groups").and_then(Value::as_array).into_iter().flatten();
    let json_vms = json_groups.filter_map(|group| group.get("virtual_machines")?.as_array()).flatten();
    let json = json_vms.cloned().collect();
    let none = format!("There are no VMs in account {account}; `bigv help vm new` says how to make one.");
    Ok(Output { json, page: pages::vms(vms, none) })
}

fn delete(context: &Context, args: &VmDelete) -> Result<Output, Error> {
    let vm = context.vm_path(args.target.typed())?;
    let client = context.client()?;
    if client.vm(&vm)?.value.deleted {
        return Err(Error::BadInput(format!("VM {vm} is deleted already; `bigv vm purge` destroys it")));
    }
    context.confirm(&format!("Delete VM {vm}? Its power is cut at once."), args.force.force, "--force")?;
    client.delete_vm(&vm, false)?;
    Ok(Output::message(format!("VM {} was deleted; `bigv vm undelete {vm}` has it back", vm.vm)))
}

fn purge(context: &Context, args: &VmDelete) -> Result<Output, Error> {
    let vm = context.vm_path(args.target.typed())?;
    let client = context.client()?;
    client.vm(&vm)?;
    let question = format!("Destroy VM {vm} and all its discs for good?");
    context.confirm(&question, args.force.force, "--force")?;
    client.delete_vm(&vm, true)?;
    Ok(Output::message(format!("VM {} was destroyed", vm.vm)))
}

fn resize(context: &Context, args: &VmResize) -> Result<Output, Error> {
    let mut changes = serde_json::Map::new();
    if let Some(cores) = args.vm_cores {
        changes.insert("cores".to_owned(), json!(cores));
    }
    if let Some(text) = &args.vm_memory {
        changes.insert("memory".to_owned(), json!(memory(text)?));
    }
    if changes.is_empty() {
        return Err(Error::Missing { what: "the new size", option: "--vm-cores, --vm-memory or both" });
    }
    let vm = context.vm_path(args.target.typed())?;
    let now = context.client()?.update_vm(&vm, &Value::Object(changes))?.value;
    if wait::state(&now) != "off" {
        output::notice(&format!("this takes effect when the VM is started next: `bigv vm restart {vm}`"));
    }
    show(context, &vm)
}

fn reimage(context: &Context, args: &VmReimage) -> Result<Output, Error> {
    let keys = args.vm_ssh_key_file.as_deref().map(user::read_keys).transpose()?;
    let vm = context.vm_path(args.target.typed())?;
    let distribution = context.need(args.vm_distribution.clone(), "the distribution", "--vm-distribution")?;
    let Some(order) = image(context, distribution, args.vm_root_password.clone(), keys)? else {
        return Err(Error::BadInput("--vm-distribution none: there is nothing to write".to_owned()));
    };
    let client = context.client()?;
    let before = client.vm(&vm)?.value;
    if !matches!(wait::state(&before), "off" | "failed") {
        let state = wait::state(&before);
        return Err(Error::BadInput(format!("VM {vm} is {state} and must be off: `bigv vm stop {vm}` first")));
    }
    let question = format!("Write {} onto the first disc of {vm}? All that is on it is lost.", order.distribution);
    context.confirm(&question, args.force.force, "--force")?;
    client.reimage_vm(&vm, &order)?;
    let wait = Wait {
        vm: &vm,
        want: Want::Running,
        before: Some(&before),
        time_max: IMAGING_TIME_MAX,
        going_on: format!("{vm} is still being imaged"),
        advice: None,
    };
    wait.show_after(context, &args.wait)
}

fn cdrom(context: &Context, args: &VmCdrom) -> Result<Output, Error> {
    let [vm, url] = words::fill([&args.vm_name, &args.vm_cdrom_url], [&args.vm, &args.url])?;
    let vm = context.vm_path(vm.as_deref())?;
    let url = match (args.remove, url) {
        (true, None) => Value::Null,
        (true, Some(_)) => return Err(Error::BadInput("a URL and --remove contradict each other".to_owned())),
        (false, url) => json!(context.need(url, "the CD's URL", "URL, --vm-cdrom-url or --remove")?),
    };
    context.client()?.update_vm(&vm, &json!({ "cdrom_url": url }))?;
    show(context, &vm)
}

fn console(context: &Context, args: &VmConsole) -> Result<Output, Error> {
    let mut words = context.settings.ssh_args.as_deref().map(split_ssh_args).transpose()?.unwrap_or_default();
    words.extend(args.ssh_args.as_deref().map(split_ssh_args).transpose()?.unwrap_or_default());
    let vm = context.vm_path(args.target.typed())?;
    let found = context.client()?.vm(&vm)?.value;
    words.push(format!("{}@{}", context.username()?, console_address(&vm, &found)?));
    if args.no_connect {
        let quoted: Result<Vec<_>, _> = words.iter().map(|word| shlex::try_quote(word)).collect();
        let line = quoted.map_err(|e| Error::BadInput(format!("the arguments for ssh: {e}")))?.join(" ");
        return Ok(Output {
            json: json!({"management_address": found.management_address, "command": format!("ssh {line}")}),
            page: output::Page::Text(format!("To reach the serial console of {vm}, type:\n  ssh {line}")),
        });
    }
    interrupt::release();
    let source = Command::new("ssh").args(&words).exec();
    Err(Error::Subprocess { program: "ssh".to_owned(), source })
}

fn console_address(vm: &VmPath, found: &VirtualMachine) -> Result<std::net::IpAddr, Error> {
    if found.deleted {
        return Err(Error::BadInput(format!("VM {vm} is deleted: `bigv vm undelete {vm}` has it back")));
    }
    if found.head.is_none() && wait::state(found) != "running" {
        let state = wait::state(found);
        let advice = if found.power_on {
            format!("`bigv vm show {vm}` says what it is doing")
        } else {
            format!("`bigv vm start {vm}` starts it")
        };
        return Err(Error::BadInput(format!("VM {vm} is {state} and has no console yet: {advice}")));
    }
    found.management_address.ok_or_else(|| Error::Failed(format!("VM {vm} has no management address, so no console")))
}

/// Splits as a shell would.
pub fn split_ssh_args(text: &str) -> Result<Vec<String>, Error> {
    shlex::split(text).ok_or_else(|| Error::BadInput(format!("ssh-args {text:?}: a quote is not closed")))
}

/// Memory in MiB; G when no unit is given.
fn memory(text: &str) -> Result<i64, Error> {
    let size: SizeMib =
        text.parse().map_err(|e: spine::size::SizeError| Error::BadInput(format!("--vm-memory: {e}")))?;
    i64::try_from(size.0).map_err(|_| Error::BadInput(format!("--vm-memory: {size} is too big")))
}
