//! Network cards: looks at them.

use super::{Service, ServiceError, one};
use crate::{
    auth::Caller,
    model::{filter::Filter, nic::Nic},
    store::{nics, virtual_machines},
};

/// The cards that the caller can see and the filter names.
///
/// # Errors
/// When the database fails.
pub async fn list(service: &Service, caller: &Caller, filter: &Filter) -> Result<Vec<Nic>, ServiceError> {
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    Ok(nics::list(&tx, &caller.access.reach(), filter).await?)
}

/// The cards of one machine, which must be there.
///
/// # Errors
/// When the machine is not there, or the database fails.
pub async fn list_of_vm(service: &Service, caller: &Caller, filter: &Filter) -> Result<Vec<Nic>, ServiceError> {
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let vm = one(virtual_machines::list(&tx, &caller.access.reach(), filter).await?)?;
    Ok(nics::list(&tx, &caller.access.reach(), &Filter::vm_id(vm.id)).await?)
}

/// The one card that the filter names.
///
/// # Errors
/// When there is none.
pub async fn show(service: &Service, caller: &Caller, filter: &Filter) -> Result<Nic, ServiceError> {
    one(list(service, caller, filter).await?)
}
