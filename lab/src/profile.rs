//! What makes the commands after `up` work: a user of the lab's, a `bigv` profile with their login and
//! the way to the consoles, and `bigv` on the PATH.
//!
//! Both files outside the lab's directory are recorded before they are made, and only a file that is
//! recorded is ever written over or removed.

use crate::{cluster::Cluster, daemon, error::LabError, process, state::Login};
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Where `bigv` is linked to.
const LINK: &str = "/usr/local/bin/bigv";
const USER: &str = "admin";
const ACCOUNT: &str = "lab";

/// Makes the lab's user in the brain's database, unless that was done.
pub fn add_user(cluster: &mut Cluster) -> Result<(), LabError> {
    let mut login = match cluster.state.login.clone() {
        Some(login) => login,
        None => Login { user: USER.to_owned(), password: random_text()?, account: ACCOUNT.to_owned(), made: false },
    };
    if login.made {
        return Ok(());
    }
    cluster.state.login = Some(login.clone());
    cluster.save()?;
    let key = console_key(cluster)?;
    let password = cluster.layout.root.join("password");
    write_private(&password, login.password.as_bytes())?;
    let public = key.with_extension("pub");
    let input = File::open(&password).map_err(LabError::io("open", &password))?;
    let arguments = [
        "user",
        "add",
        &login.user,
        "--account",
        &login.account,
        "--admin",
        "--password-stdin",
        "--authorized-keys",
        &public.to_string_lossy(),
    ];
    match daemon::run_brain(cluster, &arguments, Some(input)) {
        // An `up` that was killed just here; the password is the one that was recorded.
        Err(LabError::NotReady { log_end, .. }) if log_end.contains("has already been taken") => {}
        outcome => outcome?,
    }
    login.made = true;
    cluster.state.login = Some(login);
    cluster.save()
}

/// Writes the profile and, if `link` is set, puts `bigv` on the PATH, unless something else is there.
pub fn write(cluster: &mut Cluster, link: bool) -> Result<(), LabError> {
    write_profile(cluster)?;
    if link {
        write_link(cluster)?;
    }
    Ok(())
}

/// Removes what [`write`] made.
pub fn remove(cluster: &Cluster) -> Result<(), LabError> {
    for path in &cluster.state.outside {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(LabError::io("remove", path)(error)),
            _ => {}
        }
        if path.as_path() != Path::new(LINK) {
            // The profile's directory and the one of all profiles, when nothing else is in them.
            path.ancestors().skip(1).take(2).take_while(|directory| fs::remove_dir(directory).is_ok()).for_each(drop);
        }
    }
    Ok(())
}

/// How `bigv` is to be called for this lab: by its name if it is ours on the PATH, else by its path; with the
/// profile's name unless it is the default one.
pub fn command_line(cluster: &Cluster) -> String {
    let program = cluster.state.programs.join("bigv");
    let linked = cluster.state.outside.iter().any(|path| path.as_path() == Path::new(LINK));
    let mut line = if linked { "bigv".to_owned() } else { program.display().to_string() };
    if let Some(name) = profile_path(cluster).filter(|name| name != "default") {
        line.push_str(&format!(" --profile {name}"));
    }
    line
}

fn write_profile(cluster: &mut Cluster) -> Result<(), LabError> {
    let Some(login) = cluster.state.login.clone() else { return Ok(()) };
    let Some(recorded) = cluster.state.outside.iter().find(|path| path.ends_with("profile.toml")).cloned() else {
        let home = bigv_home()?;
        let default = home.join("default").join("profile.toml");
        let named = home.join(cluster.state.plan.name.as_str()).join("profile.toml");
        let path = [default, named].into_iter().find(|path| !path.exists()).ok_or_else(|| {
            LabError::Refused(format!("{} has a profile of this lab's name already; remove it", home.display()))
        })?;
        cluster.state.outside.push(path);
        cluster.save()?;
        return write_profile(cluster);
    };
    let parent = recorded.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(LabError::io("create", parent))?;
    write_private(&recorded, profile_text(cluster, &login).as_bytes())
}

fn profile_text(cluster: &Cluster, login: &Login) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    format!(
        "# Written by bigv-lab; `bigv-lab down` removes it.\n\
         location = {}\nusername = {}\npassword = {}\naccount = {}\nssh-args = {}\n",
        quoted(&cluster.endpoint().unwrap_or_default()),
        quoted(&login.user),
        quoted(&login.password),
        quoted(&login.account),
        quoted(&ssh_arguments(cluster)),
    )
}

/// ssh goes out from the customers' namespace, with the lab's own key, and leaves no trace in ~/.ssh.
fn ssh_arguments(cluster: &Cluster) -> String {
    let root = cluster.layout.root.display();
    let lab = cluster.state.programs.join("bigv-lab");
    format!(
        "-o ProxyCommand='{} connect --name {} %h %p' -o IdentityFile='{root}/console_key' -o IdentitiesOnly=yes \
         -o UserKnownHostsFile='{root}/known_hosts' -o StrictHostKeyChecking=accept-new -o LogLevel=ERROR",
        lab.display(),
        cluster.state.plan.name,
    )
}

fn write_link(cluster: &mut Cluster) -> Result<(), LabError> {
    let link = PathBuf::from(LINK);
    let program = cluster.state.programs.join("bigv");
    match fs::read_link(&link) {
        Ok(target) if target == program => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        // Somebody else's, or another lab's: leave it.
        _ => return Ok(()),
    }
    cluster.state.outside.push(link.clone());
    cluster.save()?;
    std::os::unix::fs::symlink(&program, &link).map_err(LabError::io("create", &link))
}

/// The name of the profile that was written.
fn profile_path(cluster: &Cluster) -> Option<String> {
    let path = cluster.state.outside.iter().find(|path| path.ends_with("profile.toml"))?;
    Some(path.parent()?.file_name()?.to_string_lossy().into_owned())
}

/// Where `bigv` keeps its profiles.
fn bigv_home() -> Result<PathBuf, LabError> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("BIGV_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".bigv")))
        .filter(|home| home.is_absolute())
        .ok_or_else(|| {
            LabError::Refused("HOME is not set to an absolute path; there is no place for bigv's profile".to_owned())
        })
}

/// The key with which the lab's user gets at the consoles; made the first time.
fn console_key(cluster: &Cluster) -> Result<PathBuf, LabError> {
    let key = cluster.layout.root.join("console_key");
    if !key.with_extension("pub").exists() {
        let _ = fs::remove_file(&key);
        let path = key.to_string_lossy();
        process::output("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "bigv-lab", "-f", &path])?;
    }
    Ok(key)
}

fn write_private(path: &Path, bytes: &[u8]) -> Result<(), LabError> {
    let open = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    open.and_then(|mut file| file.write_all(bytes)).map_err(LabError::io("write", path))
}

/// 128 random bits.
fn random_text() -> Result<String, LabError> {
    let mut bytes = [0; 16];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(LabError::io("read", "/dev/urandom"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Layout, plan::Plan, state::State};

    fn cluster(root: &Path) -> Cluster {
        let plan = Plan { name: "lab".parse().unwrap(), heads: 2, tails: 2, slot: 0 };
        let mut state = State::new(plan, root.join("bin"), root.join("images"));
        state.api_port = Some(8600);
        state.login =
            Some(Login { user: "admin".into(), password: "pa\"ss".into(), account: "lab".into(), made: true });
        Cluster { layout: Layout { root: root.to_owned() }, state }
    }

    #[test]
    fn the_profile_is_toml_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let mut cluster = cluster(directory.path());
        let path = directory.path().join("home/default/profile.toml");
        cluster.state.outside.push(path.clone());
        write(&mut cluster, false).unwrap();
        let parsed: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
        assert_eq!(parsed["location"].as_str(), Some("http://127.0.0.1:8600"));
        assert_eq!(parsed["password"].as_str(), Some("pa\"ss"));
        assert!(parsed["ssh-args"].as_str().unwrap().contains("connect --name lab %h %p"));
        let mode =
            |path: &Path| std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions()) & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        remove(&cluster).unwrap();
        assert!(!directory.path().join("home").exists(), "the profile's directories were the lab's");
        remove(&cluster).unwrap();
    }

    #[test]
    fn a_directory_of_profiles_with_others_in_it_stays() {
        let directory = tempfile::tempdir().unwrap();
        let mut cluster = cluster(directory.path());
        let other = directory.path().join("home/mine/profile.toml");
        fs::create_dir_all(other.parent().unwrap()).unwrap();
        fs::write(&other, "").unwrap();
        cluster.state.outside.push(directory.path().join("home/default/profile.toml"));
        write(&mut cluster, false).unwrap();
        remove(&cluster).unwrap();
        assert!(other.exists());
    }
}
