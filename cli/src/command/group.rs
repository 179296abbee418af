//! `bigv group …`.

use crate::{
    args::{GroupCommand, GroupTarget},
    client::GroupPath,
    context::Context,
    error::Error,
    names,
    output::{Output, pages},
};

/// Carries out one of them.
pub fn run(context: &Context, command: &GroupCommand) -> Result<Output, Error> {
    match command {
        GroupCommand::List => {
            let account = context.account()?;
            let answer = context.client()?.groups(&account)?;
            Ok(Output { page: pages::groups(&answer.value), json: answer.json })
        }
        GroupCommand::New(target) => {
            let group = path(context, target)?;
            let answer = context.client()?.create_group(&group)?;
            Ok(Output { json: answer.json, ..Output::message(format!("Group {group} was made.")) })
        }
        GroupCommand::Delete(args) => {
            let group = path(context, &args.target)?;
            context.confirm(&format!("Remove group {group}?"), args.force.force, "--force")?;
            context.client()?.delete_group(&group)?;
            Ok(Output::message(format!("Group {group} was removed.")))
        }
    }
}

fn path(context: &Context, target: &GroupTarget) -> Result<GroupPath, Error> {
    // The profile's group is a default for VMs, not one to be made or removed.
    if let (None, Some(group)) = (&target.target, &context.globals().group_name) {
        return Ok(names::group_path(group.clone(), context.account()?));
    }
    let typed = context.need(target.target.clone(), "the group's name", "GROUP or --group-name")?;
    context.group_path(&typed)
}
