//! Privileges: looks at them, gives them and takes them back.

use super::{
    Service, ServiceError,
    error::{invalid, permit},
    one,
};
use crate::{
    auth::Caller,
    model::{
        account::Privilege,
        filter::Filter,
        name::Spec,
        privilege::{Action, Grant, Level, Place, Scope, check_networks},
    },
    store::{
        accounts,
        events::{self, Event},
        groups, privileges, users, virtual_machines,
    },
};
use tokio_postgres::Transaction;

/// The privileges of a user: one's own; anyone's, for those who run the cluster.
///
/// # Errors
/// When there is no such user for the caller.
pub async fn of_user(service: &Service, caller: &Caller, user: &Spec) -> Result<Vec<Privilege>, ServiceError> {
    let user = super::users::show(service, caller, user).await?;
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    Ok(privileges::of_user(&tx, user.id).await?)
}

/// The privileges given on exactly the place that the filter names, of levels below the caller's
/// own there.
///
/// # Errors
/// When there is no such place for the caller, or they only look at it.
pub async fn on_place(service: &Service, caller: &Caller, filter: &Filter) -> Result<Vec<Privilege>, ServiceError> {
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let place = place_of(&tx, caller, filter).await?.ok_or(ServiceError::NotFound)?;
    let own = caller.access.level_at(place);
    let mut found = privileges::on_place(&tx, place).await?;
    found.retain(|privilege| Some(privilege.level()) < own || privilege.user_id == caller.user_id);
    Ok(found)
}

/// One privilege: one's own, or one that the caller could take back.
///
/// # Errors
/// When there is none for the caller.
pub async fn show(service: &Service, caller: &Caller, id: i64) -> Result<Privilege, ServiceError> {
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let privilege = privileges::find(&tx, id).await?.ok_or(ServiceError::NotFound)?;
    match privilege.user_id == caller.user_id || rules_over(caller, &privilege.grant) {
        true => Ok(privilege),
        false => Err(ServiceError::NotFound),
    }
}

/// A privilege as it is asked for.
#[derive(Clone, Debug, Default)]
pub struct NewPrivilege {
    /// How much.
    pub level: Option<String>,
    /// Where: the one account, group or VM; nothing for the levels of the cluster.
    pub filter: Filter,
    /// Counts only with a password.
    pub password_required: Option<bool>,
    /// Counts only with a Yubikey.
    pub yubikey_required: Option<bool>,
    /// Counts only from these networks.
    pub ip_restrictions: Option<String>,
}

/// Gives a user a privilege. Its level must be below the caller's own in that place.
///
/// # Errors
/// When the caller may not, or a value is wrong.
pub async fn create(
    service: &Service,
    caller: &Caller,
    user: &Spec,
    order: NewPrivilege,
) -> Result<Privilege, ServiceError> {
    let level: Level = match order.level.as_deref() {
        None => return Err(invalid("level", "can't be blank")),
        Some(level) => level.parse().map_err(|error| invalid("level", format!("{error}")))?,
    };
    if let Some(Err(sentence)) = order.ip_restrictions.as_deref().map(check_networks) {
        return Err(invalid("ip_restrictions", sentence));
    }
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    // Who may give a privilege has to be able to name whom: users are no secret to them.
    let may_name = caller.access.holds_anywhere(Level::GroupAdmin);
    let mut found = users::list(&tx, Some(user)).await?;
    found.retain(|user| may_name || user.id == caller.user_id);
    let user = one(found)?;
    let place = place_of(&tx, caller, &order.filter).await?;
    let grant = Grant {
        level,
        scope: place.map_or(Scope::Cluster, Scope::Place),
        password_required: order.password_required.unwrap_or(true),
        yubikey_required: order.yubikey_required.unwrap_or(false),
        ip_restrictions: order.ip_restrictions.filter(|networks| !networks.trim().is_empty()),
    };
    check_target(level, place)?;
    if !rules_over(caller, &grant) {
        return Err(ServiceError::Forbidden(format!("to give {level}, you need a higher level there")));
    }
    let id = privileges::insert(&tx, user.id, &grant, &caller.username).await?;
    record(&tx, caller, "privilege-granted", &format!("{level} was given to {}", user.username)).await?;
    let made = privileges::find(&tx, id).await?;
    tx.commit().await?;
    service.poke.all();
    made.ok_or_else(|| ServiceError::Internal(format!("privilege {id} was made and is not there")))
}

/// Takes a privilege back: one's own, or one of a level below the caller's in that place.
///
/// # Errors
/// When there is none for the caller.
pub async fn delete(service: &Service, caller: &Caller, id: i64) -> Result<(), ServiceError> {
    let privilege = show(service, caller, id).await?;
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    privileges::delete(&tx, id).await?;
    let message = format!("{} was taken from {}", privilege.level(), privilege.username);
    record(&tx, caller, "privilege-revoked", &message).await?;
    tx.commit().await?;
    service.poke.all();
    Ok(())
}

/// Whether the caller's own level, where this grant holds, is above it.
fn rules_over(caller: &Caller, grant: &Grant) -> bool {
    let own = match grant.scope {
        Scope::Cluster => caller.access.cluster_level(),
        Scope::Place(place) => caller.access.level_at(place),
    };
    own.is_some_and(|own| own > grant.level)
}

/// A level must fit what it is given on.
fn check_target(level: Level, place: Option<Place>) -> Result<(), ServiceError> {
    let highest = match place.map(|place| (place.group_id(), place.vm_id())) {
        None if level >= Level::ClusterAdmin => return Ok(()),
        None => return Err(invalid("level", "needs an account_id, group_id or virtual_machine_id")),
        Some((_, Some(_))) => Level::VmAdmin,
        Some((Some(_), None)) => Level::GroupAdmin,
        Some((None, None)) => Level::AccountAdmin,
    };
    match level <= highest {
        true => Ok(()),
        false => Err(invalid("level", format!("can be {highest} at most there"))),
    }
}

/// The place that a filter names: none when it names nothing.
async fn place_of(tx: &Transaction<'_>, caller: &Caller, filter: &Filter) -> Result<Option<Place>, ServiceError> {
    let reach = caller.access.reach();
    let place = if filter.vm.is_some() {
        one(virtual_machines::list(tx, &reach, filter).await?)?.place()
    } else if filter.group.is_some() {
        one(groups::list(tx, &reach, filter).await?)?.place()
    } else if filter.account.is_some() {
        one(accounts::list(tx, &reach, filter).await?)?.place()
    } else {
        return Ok(None);
    };
    permit(caller, Action::See, place)?;
    Ok(Some(place))
}

async fn record(tx: &Transaction<'_>, caller: &Caller, kind: &str, message: &str) -> Result<(), ServiceError> {
    let event = Event { actor: &caller.username, kind, message, ..Event::default() };
    Ok(events::record(tx, &event).await?)
}
