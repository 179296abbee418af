//! Accounts: looks at them and makes them.

use super::{
    Service, ServiceError,
    error::{invalid, taken},
    one,
    virtual_machines::{VmTree, tree},
};
use crate::{
    auth::Caller,
    model::{
        account::{Account, DEFAULT_GROUP, Group},
        filter::Filter,
        name::{Spec, check_owner},
        privilege::{Grant, Level, Place, Reach, Scope},
    },
    store::{
        accounts,
        events::{self, Event},
        groups, privileges,
    },
};
use tokio_postgres::Transaction;

/// An account with all that is in it.
#[derive(Clone, Debug, PartialEq)]
pub struct AccountTree {
    /// The account.
    pub account: Account,
    /// Its groups, with their machines.
    pub groups: Vec<GroupTree>,
}

/// A group with its machines.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupTree {
    /// The group.
    pub group: Group,
    /// Its machines.
    pub vms: Vec<VmTree>,
}

/// The accounts that the caller can see and the filter names.
///
/// # Errors
/// When the database fails.
pub async fn list(service: &Service, caller: &Caller, filter: &Filter) -> Result<Vec<Account>, ServiceError> {
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    Ok(accounts::list(&tx, &caller.access.reach(), filter).await?)
}

/// As [`list`], with all that is in them.
///
/// # Errors
/// When the database fails.
pub async fn overview(service: &Service, caller: &Caller, filter: &Filter) -> Result<Vec<AccountTree>, ServiceError> {
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let accounts = accounts::list(&tx, &caller.access.reach(), filter).await?;
    let mut groups = group_trees(&tx, caller, filter).await?;
    let mut trees = Vec::with_capacity(accounts.len());
    for account in accounts {
        let (own, others) = groups.into_iter().partition(|tree| tree.group.account_id == account.id);
        groups = others;
        trees.push(AccountTree { account, groups: own });
    }
    Ok(trees)
}

/// The one account that the filter names.
///
/// # Errors
/// When there is none.
pub async fn show(service: &Service, caller: &Caller, filter: &Filter) -> Result<Account, ServiceError> {
    one(list(service, caller, filter).await?)
}

/// Groups with their machines.
pub(super) async fn group_trees(
    tx: &Transaction<'_>,
    caller: &Caller,
    filter: &Filter,
) -> Result<Vec<GroupTree>, ServiceError> {
    let groups = groups::list(tx, &caller.access.reach(), filter).await?;
    let mut vms = tree(tx, caller, filter).await?;
    let mut trees = Vec::with_capacity(groups.len());
    for group in groups {
        let (own, others) = vms.into_iter().partition(|tree| tree.vm.group_id == group.id);
        vms = others;
        trees.push(GroupTree { group, vms: own });
    }
    Ok(trees)
}

/// Makes an account with its group `default`; the caller administers it. Where signing up is not
/// allowed, that takes an admin of the cluster.
///
/// # Errors
/// When the caller may not, or the name is wrong or taken.
pub async fn create(service: &Service, caller: &Caller, name: Option<&str>) -> Result<Account, ServiceError> {
    if !service.config.signup && !caller.access.is_admin() {
        return Err(ServiceError::Forbidden("accounts are made by the operators of this cluster".into()));
    }
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let account = insert(&tx, name.unwrap_or_default(), caller.user_id, &caller.username).await?;
    tx.commit().await?;
    Ok(account)
}

/// Makes an account whose admin is this user.
pub(super) async fn insert(
    tx: &Transaction<'_>,
    name: &str,
    admin_id: i64,
    actor: &str,
) -> Result<Account, ServiceError> {
    check_owner(name).map_err(|sentence| invalid("name", sentence))?;
    let id = accounts::insert(tx, name).await.map_err(taken("accounts_name_key", "name"))?;
    groups::insert(tx, id, DEFAULT_GROUP).await?;
    grant_admin(tx, id, admin_id, actor).await?;
    let message = format!("account {name} was made");
    events::record(tx, &Event { actor, kind: "account-created", message: &message, ..Event::default() }).await?;
    Ok(Account { id, name: name.to_owned(), suspended: false })
}

/// Makes a user an admin of an account.
pub(super) async fn grant_admin(
    tx: &Transaction<'_>,
    account_id: i64,
    user_id: i64,
    actor: &str,
) -> Result<(), ServiceError> {
    let grant = Grant {
        level: Level::AccountAdmin,
        scope: Scope::Place(Place::account(account_id)),
        password_required: true,
        yubikey_required: false,
        ip_restrictions: None,
    };
    privileges::insert(tx, user_id, &grant, actor).await?;
    Ok(())
}

/// Nothing is made or started in a suspended account, except by those who run the cluster.
pub(super) async fn check_not_suspended(
    tx: &Transaction<'_>,
    caller: &Caller,
    account_id: i64,
) -> Result<(), ServiceError> {
    let filter = Filter::account(Spec::Id(account_id));
    let found = accounts::list(tx, &Reach::everything(), &filter).await?;
    match found.first().is_some_and(|account| account.suspended) && !caller.access.is_admin() {
        true => Err(ServiceError::Forbidden("the account is suspended".into())),
        false => Ok(()),
    }
}
