//! Users: looks at them, makes them, changes their keys and passwords.

use super::{
    Service, ServiceError,
    accounts::{grant_admin, insert as insert_account},
    error::{invalid, taken},
    one,
};
use crate::{
    auth::{
        Caller,
        password::{self, Passwords},
    },
    model::{
        account::User,
        invalid::Invalid,
        name::{Spec, check_owner},
        privilege::{Grant, Level, Scope},
    },
    store::{
        Store, accounts,
        events::{self, BRAIN, Event},
        privileges, users,
    },
};
use russh::keys::PublicKey;
use spine::secret::Secret;
use tokio_postgres::Transaction;

/// Longest set of keys, in bytes: a hundred users with large keys share a console's resource.
pub const AUTHORIZED_KEYS_BYTES_MAX: usize = 16 << 10;
/// Longest e-mail address, in bytes (RFC 5321 section 4.5.3.1).
const EMAIL_BYTES_MAX: usize = 254;

/// The user themselves; everyone, for those who run the cluster.
///
/// # Errors
/// When the database fails.
pub async fn list(service: &Service, caller: &Caller, spec: Option<&Spec>) -> Result<Vec<User>, ServiceError> {
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let mut found = users::list(&tx, spec).await?;
    found.retain(|user| user.id == caller.user_id || caller.access.is_admin());
    Ok(found)
}

/// The one user of this name or number, if the caller can see them.
///
/// # Errors
/// When there is none.
pub async fn show(service: &Service, caller: &Caller, spec: &Spec) -> Result<User, ServiceError> {
    one(list(service, caller, Some(spec)).await?)
}

/// A user that is to be made.
#[derive(Clone, Debug, Default)]
pub struct NewUser {
    /// What they log in as.
    pub username: Option<String>,
    /// Where mail goes.
    pub email: Option<String>,
    /// What they log in with; without it they cannot.
    pub password: Option<Secret>,
    /// OpenSSH public keys, one a line.
    pub authorized_keys: Option<String>,
    /// An account to make for them.
    pub account_name: Option<String>,
}

/// Makes a user. Nobody needs to have logged in where signing up is allowed; else it takes someone
/// who administers an account.
///
/// # Errors
/// When the caller may not, or a value is wrong.
pub async fn create(service: &Service, caller: Option<&Caller>, user: NewUser) -> Result<User, ServiceError> {
    let may = service.config.signup
        || caller.is_some_and(|caller| match user.account_name {
            None => caller.access.holds_anywhere(Level::AccountAdmin),
            Some(_) => caller.access.is_admin(),
        });
    if !may {
        return Err(ServiceError::Forbidden("users are made by the operators of this cluster".into()));
    }
    check(&user)?;
    let hash = hash(service.gate.passwords(), user.password.as_ref()).await?;
    let actor = caller.map_or_else(|| user.username.clone().unwrap_or_default(), |caller| caller.username.clone());
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let made = insert(&tx, &user, hash.as_deref(), &actor).await?;
    if let Some(account) = &user.account_name {
        insert_account(&tx, account, made.id, &actor).await.map_err(about_account)?;
    }
    tx.commit().await?;
    Ok(made)
}

/// What is to change in a user. An inner none clears.
#[derive(Clone, Debug, Default)]
pub struct UserChange {
    /// OpenSSH public keys, one a line.
    pub authorized_keys: Option<Option<String>>,
    /// A new password; it ends all sessions.
    pub password: Option<Secret>,
}

/// Changes a user's keys or password.
///
/// # Errors
/// When the caller may not, or a value is wrong.
pub async fn change(service: &Service, caller: &Caller, spec: &Spec, change: UserChange) -> Result<User, ServiceError> {
    let mut wrong = Invalid::default();
    if let Some(Err(sentence)) = change.authorized_keys.as_ref().and_then(Option::as_deref).map(check_keys) {
        wrong.add("authorized_keys", sentence);
    }
    if let Some(Err(sentence)) = change.password.as_ref().map(|password| password::check_new(password.reveal())) {
        wrong.add("password", sentence);
    }
    let mut user = show(service, caller, spec).await?;
    wrong.result()?;
    let hash = hash(service.gate.passwords(), change.password.as_ref()).await?;
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    may_change(&tx, caller, &user).await?;
    if let Some(keys) = change.authorized_keys {
        users::set_authorized_keys(&tx, user.id, keys.as_deref()).await?;
        record(&tx, &caller.username, "user-changed", &format!("the keys of {} were set", user.username)).await?;
        user.authorized_keys = keys;
    }
    if let Some(hash) = hash {
        users::set_password(&tx, user.id, &hash).await?;
        record(&tx, &caller.username, "user-changed", &format!("the password of {} was set", user.username)).await?;
    }
    tx.commit().await?;
    // Consoles of running machines learn of it.
    service.poke.all();
    Ok(user)
}

/// Refuses to change someone who may do as much as the caller, or more: with their password set, the
/// caller would have their privileges.
async fn may_change(tx: &Transaction<'_>, caller: &Caller, user: &User) -> Result<(), ServiceError> {
    if user.id == caller.user_id {
        return Ok(());
    }
    let held = privileges::of_user(tx, user.id).await?.into_iter().map(|privilege| privilege.grant.level).max();
    match caller.access.cluster_level() > held {
        true => Ok(()),
        false => Err(ServiceError::Forbidden(format!("{} may do as much as you, or more", user.username))),
    }
}

/// A user that an operator makes from the shell, where no API is needed yet.
#[derive(Clone, Debug, Default)]
pub struct AddUser {
    /// The user.
    pub user: NewUser,
    /// What they may do in the whole cluster: `cluster_admin` or `cluster_su`; nothing if none.
    pub cluster_level: Option<Level>,
}

/// Makes a user; the account named is made too unless it is there already, and the user administers
/// it.
///
/// # Errors
/// When a value is wrong or taken, or the database fails.
pub async fn add(store: &Store, order: AddUser) -> Result<User, ServiceError> {
    check(&order.user)?;
    if order.cluster_level.is_some_and(|level| level < Level::ClusterAdmin) {
        return Err(invalid("level", "must be cluster_admin or cluster_su"));
    }
    let hash = hash(&Passwords::default(), order.user.password.as_ref()).await?;
    let mut client = store.client().await?;
    let tx = client.transaction().await?;
    let made = insert(&tx, &order.user, hash.as_deref(), BRAIN).await?;
    if let Some(name) = &order.user.account_name {
        match accounts::id_of(&tx, name).await? {
            Some(id) => grant_admin(&tx, id, made.id, BRAIN).await?,
            None => drop(insert_account(&tx, name, made.id, BRAIN).await.map_err(about_account)?),
        }
    }
    if let Some(level) = order.cluster_level {
        let grant = Grant {
            level,
            scope: Scope::Cluster,
            password_required: true,
            yubikey_required: false,
            ip_restrictions: None,
        };
        privileges::insert(&tx, made.id, &grant, BRAIN).await?;
    }
    tx.commit().await?;
    Ok(made)
}

async fn insert(tx: &Transaction<'_>, user: &NewUser, hash: Option<&str>, actor: &str) -> Result<User, ServiceError> {
    let username = user.username.as_deref().unwrap_or_default();
    let keys = user.authorized_keys.as_deref();
    let inserted = users::insert(tx, username, user.email.as_deref(), keys, hash).await;
    let id = inserted.map_err(taken("users_username_key", "username"))?;
    record(tx, actor, "user-created", &format!("user {username} was made")).await?;
    Ok(User {
        id,
        username: username.to_owned(),
        email: user.email.clone(),
        authorized_keys: user.authorized_keys.clone(),
    })
}

fn check(user: &NewUser) -> Result<(), Invalid> {
    let mut wrong = Invalid::default();
    let mut complain = |attribute: &str, outcome: Option<Result<(), String>>| {
        if let Some(Err(sentence)) = outcome {
            wrong.add(attribute, sentence);
        }
    };
    complain("username", Some(check_owner(user.username.as_deref().unwrap_or_default())));
    complain("email", user.email.as_deref().map(check_email));
    complain("password", user.password.as_ref().map(|password| password::check_new(password.reveal())));
    complain("authorized_keys", user.authorized_keys.as_deref().map(check_keys));
    complain("account_name", user.account_name.as_deref().map(check_owner));
    wrong.result()
}

fn check_email(email: &str) -> Result<(), String> {
    let good = email.len() <= EMAIL_BYTES_MAX
        && !email.contains(|c: char| c.is_whitespace() || c.is_control())
        && email.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty());
    if good { Ok(()) } else { Err("is invalid".into()) }
}

/// Checks keys, one a line; empty lines and comments are let through, but no control characters: they
/// have no use, and take six bytes each on the way to the heads.
fn check_keys(keys: &str) -> Result<(), String> {
    if keys.len() > AUTHORIZED_KEYS_BYTES_MAX {
        return Err(format!("is too long (maximum is {AUTHORIZED_KEYS_BYTES_MAX} characters)"));
    }
    if keys.contains("PRIVATE KEY") {
        return Err("is invalid: this is a private key; send the public one".into());
    }
    for (number, line) in keys.lines().enumerate() {
        if line.contains(|c: char| c.is_control() && c != '\t') {
            return Err(format!("is invalid: line {} has control characters", number + 1));
        }
        let line = line.trim();
        if !line.is_empty() && !line.starts_with('#') && PublicKey::from_openssh(line).is_err() {
            return Err(format!("is invalid: line {} is not an OpenSSH public key", number + 1));
        }
    }
    Ok(())
}

async fn hash(passwords: &Passwords, password: Option<&Secret>) -> Result<Option<String>, ServiceError> {
    match password {
        Some(password) => Ok(Some(passwords.hash(password).await?)),
        None => Ok(None),
    }
}

/// An account made along with a user has another name for its name.
fn about_account(error: ServiceError) -> ServiceError {
    match error {
        ServiceError::Invalid(wrong) if wrong.has("name") => invalid("account_name", "has already been taken"),
        other => other,
    }
}

async fn record(tx: &Transaction<'_>, actor: &str, kind: &str, message: &str) -> Result<(), ServiceError> {
    Ok(events::record(tx, &Event { actor, kind, message, ..Event::default() }).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti me@here";

    #[test]
    fn keys_are_checked_line_by_line() {
        assert_eq!(check_keys(&format!("# mine\n\n{KEY}\r\n{KEY}")), Ok(()));
        assert_eq!(
            check_keys(&format!("{KEY}\nssh-rsa x")),
            Err("is invalid: line 2 is not an OpenSSH public key".into())
        );
        assert!(check_keys("-----BEGIN OPENSSH PRIVATE KEY-----").unwrap_err().contains("private"));
        assert!(check_keys(&"#".repeat(20_000)).is_err());
        assert_eq!(check_keys(&format!("#\ta\n{KEY}")), Ok(()));
        assert_eq!(check_keys("\n#\u{1}"), Err("is invalid: line 2 has control characters".into()));
    }

    #[test]
    fn addresses_have_two_sides() {
        assert_eq!(check_email("a@b"), Ok(()));
        for bad in ["", "a", "@b", "a@", "a b@c", "a\n@c"] {
            assert!(check_email(bad).is_err(), "{bad:?}");
        }
    }
}
