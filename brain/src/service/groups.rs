//! Groups: looks at them, makes, renames and deletes them.

use super::{
    Service, ServiceError,
    accounts::{GroupTree, check_not_suspended, group_trees},
    error::{invalid, permit, taken},
    one,
};
use crate::{
    auth::Caller,
    model::{
        account::{DEFAULT_GROUP, Group},
        filter::Filter,
        name::check_owner,
        privilege::Action,
    },
    store::{
        accounts,
        events::{self, Event},
        groups,
    },
};
use tokio_postgres::Transaction;

/// The groups that the caller can see and the filter names.
///
/// # Errors
/// When the database fails.
pub async fn list(service: &Service, caller: &Caller, filter: &Filter) -> Result<Vec<Group>, ServiceError> {
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    Ok(groups::list(&tx, &caller.access.reach(), filter).await?)
}

/// The groups of an account, which must be there.
///
/// # Errors
/// When the account is not there, or the database fails.
pub async fn list_in_account(service: &Service, caller: &Caller, filter: &Filter) -> Result<Vec<Group>, ServiceError> {
    super::accounts::show(service, caller, filter).await?;
    list(service, caller, filter).await
}

/// As [`list`], with all that is in them.
///
/// # Errors
/// When the database fails.
pub async fn overview(service: &Service, caller: &Caller, filter: &Filter) -> Result<Vec<GroupTree>, ServiceError> {
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    group_trees(&tx, caller, filter).await
}

/// Makes a group in an account.
///
/// # Errors
/// When the caller may not, or the name is wrong or taken.
pub async fn create(
    service: &Service,
    caller: &Caller,
    account: &Filter,
    name: Option<&str>,
) -> Result<Group, ServiceError> {
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let account = one(accounts::list(&tx, &caller.access.reach(), account).await?)?;
    permit(caller, Action::ManageGroups, account.place())?;
    check_not_suspended(&tx, caller, account.id).await?;
    let name = name.unwrap_or_default();
    check_owner(name).map_err(|sentence| invalid("name", sentence))?;
    let id = groups::insert(&tx, account.id, name).await.map_err(taken("groups_account_id_name_key", "name"))?;
    record(&tx, caller, "group-created", &format!("group {name} of account {} was made", account.name)).await?;
    tx.commit().await?;
    Ok(Group { id, account_id: account.id, name: name.to_owned() })
}

/// Gives a group another name. `None` changes nothing.
///
/// # Errors
/// When the caller may not, or the name is wrong or taken.
pub async fn rename(
    service: &Service,
    caller: &Caller,
    filter: &Filter,
    name: Option<&str>,
) -> Result<Group, ServiceError> {
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let mut group = one(groups::list(&tx, &caller.access.reach(), filter).await?)?;
    permit(caller, Action::ManageVms, group.place())?;
    let Some(name) = name.filter(|name| *name != group.name) else { return Ok(group) };
    check_owner(name).map_err(|sentence| invalid("name", sentence))?;
    if group.name == DEFAULT_GROUP {
        return Err(invalid("name", "cannot be changed: each account has a group `default`"));
    }
    groups::rename(&tx, group.id, name).await.map_err(taken("groups_account_id_name_key", "name"))?;
    record(&tx, caller, "group-changed", &format!("group {} is now {name}", group.name)).await?;
    tx.commit().await?;
    service.poke.all();
    group.name = name.to_owned();
    Ok(group)
}

/// Deletes a group without machines.
///
/// # Errors
/// When the caller may not, or it has machines.
pub async fn delete(service: &Service, caller: &Caller, filter: &Filter) -> Result<(), ServiceError> {
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let group = one(groups::list(&tx, &caller.access.reach(), filter).await?)?;
    permit(caller, Action::ManageGroups, group.place())?;
    if group.name == DEFAULT_GROUP {
        return Err(invalid("name", "cannot be deleted: each account has a group `default`"));
    }
    let sentence = match groups::vm_counts(&tx, group.id).await? {
        [0, 0, 0] => None,
        [0, 0, _] => Some("are still being cleared away: try again in a moment".to_owned()),
        [0, deleted, _] => Some(format!("are still there: {deleted} deleted, purge or undelete and move them first")),
        [count, ..] => Some(format!("are still there: delete and purge all {count} first")),
    };
    if let Some(sentence) = sentence {
        return Err(invalid("virtual_machines", sentence));
    }
    // A machine made meanwhile makes the database refuse this.
    groups::delete(&tx, group.id).await.map_err(|error| match error.constraint() {
        Some("virtual_machines_group_id_fkey") => invalid("virtual_machines", "are still there"),
        _ => error.into(),
    })?;
    record(&tx, caller, "group-deleted", &format!("group {} was deleted", group.name)).await?;
    tx.commit().await?;
    Ok(())
}

async fn record(tx: &Transaction<'_>, caller: &Caller, kind: &str, message: &str) -> Result<(), ServiceError> {
    let event = Event { actor: &caller.username, kind, message, ..Event::default() };
    Ok(events::record(tx, &event).await?)
}
