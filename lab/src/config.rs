//! The daemons' configuration files, as TOML text.

use crate::plan::{GRADES, HEAD_MEMORY_MIB, Lan, Node, Plan, SPINE_LISTEN, STORAGE_PREFIX};
use std::path::{Path, PathBuf};

/// Where a lab keeps what. Everything is under one directory, so that removing it removes all.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The lab's directory.
    pub root: PathBuf,
}

impl Layout {
    /// The state file; a directory without one is not a lab's.
    pub fn state_file(&self) -> PathBuf {
        self.root.join("lab.json")
    }

    /// A node's own directory.
    pub fn node(&self, node: Node) -> PathBuf {
        self.root.join(node.to_string())
    }

    /// A node's configuration file.
    pub fn config(&self, node: Node) -> PathBuf {
        self.node(node).join(format!("{}.toml", role(node)))
    }

    /// A node's log: what its daemon said on standard output and standard error.
    pub fn log(&self, node: Node) -> PathBuf {
        self.root.join("logs").join(format!("{node}.log"))
    }

    /// The brain's private PostgreSQL.
    pub fn database(&self) -> PathBuf {
        self.node(Node::Brain).join("postgres")
    }

    /// The directories that a node's daemon expects to find.
    pub fn directories(&self, node: Node) -> Vec<PathBuf> {
        let node_root = self.node(node);
        let mut directories = vec![node_root.clone(), node_root.join("state")];
        match node {
            Node::Head(_) => directories.push(node_root.join("run")),
            Node::Tail(_) => directories.extend(GRADES.map(|grade| node_root.join("pools").join(grade))),
            Node::Brain | Node::Switch | Node::Customer => {}
        }
        directories
    }
}

/// The configuration file of a node's daemon.
pub fn text(plan: &Plan, layout: &Layout, images: &Path, node: Node) -> Option<String> {
    match node {
        Node::Brain => Some(brain(layout)),
        Node::Head(number) => Some(head(plan, layout, node, number)),
        Node::Tail(_) => Some(tail(plan, layout, images, node)),
        Node::Switch | Node::Customer => None,
    }
}

fn role(node: Node) -> &'static str {
    match node {
        Node::Brain => "brain",
        Node::Head(_) => "head",
        Node::Tail(_) => "tail",
        Node::Switch | Node::Customer => "none",
    }
}

/// The example of the brain's crate, at home in this lab. The API's socket is handed over by the lab, so the brain opens
/// none of its own.
fn brain(layout: &Layout) -> String {
    let state = quoted_path(&layout.node(Node::Brain).join("state"));
    BRAIN_EXAMPLE.replace(r#"["127.0.0.1:8600"]"#, "[]").replace(r#""/var/lib/bigv-brain""#, &state)
}

/// A cluster whose networks are the lab's.
const BRAIN_EXAMPLE: &str = include_str!("../../brain/example.toml");

fn head(plan: &Plan, layout: &Layout, node: Node, number: u8) -> String {
    let root = layout.node(node);
    let [uid_first, uid_last] = plan.uid_range(number);
    format!(
        r#"name = {name}
brains = [{brain}]
storage_address = {storage}
storage_prefix = {prefix}
state_dir = {state}
runtime_dir = {run}
accel = "auto"
memory_mib = {HEAD_MEMORY_MIB}
cores = 8
uid_range = [{uid_first}, {uid_last}]
management_interface = {management}
console_port = 22
manage_sysctls = true

[[network]]
vlan = 1
bridge = "br-public"
"#,
        name = quoted(&node.to_string()),
        brain = quoted(SPINE_LISTEN),
        storage = quoted(&plan.storage_address(node).unwrap_or_default()),
        prefix = quoted(STORAGE_PREFIX),
        state = quoted_path(&root.join("state")),
        run = quoted_path(&root.join("run")),
        management = quoted(&Lan::Management.interface()),
    )
}

fn tail(plan: &Plan, layout: &Layout, images: &Path, node: Node) -> String {
    let root = layout.node(node);
    let mut text = format!(
        r#"name = {name}
brains = [{brain}]
storage_prefix = {prefix}
storage_interface = {interface}
storage_address = {storage}
migration_listen = {migration}
state_dir = {state}
images_dir = {images}
"#,
        name = quoted(&node.to_string()),
        brain = quoted(SPINE_LISTEN),
        prefix = quoted(STORAGE_PREFIX),
        interface = quoted(&Lan::Storage.interface()),
        storage = quoted(&plan.storage_address(node).unwrap_or_default()),
        migration = quoted(&format!("[{}]:{MIGRATION_PORT}", plan.storage_address(node).unwrap_or_default())),
        state = quoted_path(&root.join("state")),
        images = quoted_path(images),
    );
    for grade in GRADES {
        text.push_str(&format!(
            "\n[[pool]]\nname = {name}\ngrade = {grade}\npath = {path}\nnote = \"of the lab\"\n",
            name = quoted(&format!("{grade}1")),
            grade = quoted(grade),
            path = quoted_path(&root.join("pools").join(grade)),
        ));
    }
    text
}

/// Where tails take discs from each other.
const MIGRATION_PORT: u16 = 7771;

/// A TOML string: JSON's quoting is a part of TOML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn quoted_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_toml_even_with_odd_paths() {
        let plan = Plan { name: "lab".parse().unwrap(), heads: 2, tails: 2, slot: 1 };
        let layout = Layout { root: "/tmp/a \"quoted\"\\path\n[x]".into() };
        for node in plan.daemons() {
            let text = text(&plan, &layout, Path::new("/images"), node).unwrap();
            let parsed: toml::Table = text.parse().unwrap_or_else(|error| panic!("{node}: {error}\n{text}"));
            let expected = layout.node(node).join("state");
            assert_eq!(parsed["state_dir"].as_str(), expected.to_str(), "{node}");
        }
    }

    #[test]
    fn the_brains_example_describes_the_lab() {
        let plan = Plan { name: "lab".parse().unwrap(), heads: 1, tails: 1, slot: 0 };
        let layout = Layout { root: "/l".into() };
        let text = text(&plan, &layout, Path::new("/images"), Node::Brain).unwrap();
        let parsed: toml::Table = text.parse().unwrap();
        assert_eq!(parsed["spine_listen"][0].as_str(), Some(SPINE_LISTEN));
        assert_eq!(parsed["storage_prefix"].as_str(), Some(STORAGE_PREFIX));
        assert_eq!(parsed["http_listen"].as_array().unwrap().len(), 0, "the lab hands it over");
        let grades: Vec<_> =
            parsed["grade"].as_array().unwrap().iter().filter_map(|grade| grade["name"].as_str()).collect();
        assert_eq!(grades, GRADES);
    }

    #[test]
    fn r011_each_tail_has_a_pool_of_each_grade() {
        let plan = Plan { name: "lab".parse().unwrap(), heads: 1, tails: 1, slot: 0 };
        let layout = Layout { root: "/l".into() };
        let parsed: toml::Table = text(&plan, &layout, Path::new("/images"), Node::Tail(1)).unwrap().parse().unwrap();
        let pools = parsed["pool"].as_array().unwrap();
        let grades: Vec<_> = pools.iter().filter_map(|pool| pool["grade"].as_str()).collect();
        assert_eq!(grades, GRADES);
        for pool in pools {
            let path = PathBuf::from(pool["path"].as_str().unwrap());
            assert!(layout.directories(Node::Tail(1)).contains(&path), "nobody makes {}", path.display());
        }
    }
}
