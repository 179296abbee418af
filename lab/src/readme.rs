//! The commands of the project's README: the test of the whole path types them, so that they are what works.

/// The lines of the quick start, each as its words.
pub fn quick_start() -> Vec<Vec<&'static str>> {
    let section = README.split("\n## ").find(|section| section.starts_with("Quick start\n")).unwrap_or_default();
    let block = section.split("```").nth(1).unwrap_or_default();
    block.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).filter(|words| !words.is_empty()).collect()
}

const README: &str = include_str!("../../README.md");

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// What stands between backquotes in running text.
    fn quoted() -> impl Iterator<Item = &'static str> {
        README.split("```").step_by(2).flat_map(|text| text.split('`').skip(1).step_by(2))
    }

    #[test]
    fn the_quick_start_brings_a_cluster_up_and_goes_on_with_bigv() {
        let lines = quick_start();
        assert_eq!(lines[0], ["scripts/lab", "up"]);
        assert!(lines.len() > 1 && lines[1..].iter().all(|words| words[0] == "bigv" && words.len() > 1), "{lines:?}");
    }

    #[test]
    fn what_the_readme_names_is_there() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let paths = quoted().filter_map(|text| text.split(' ').next()).filter(|word| word.contains('/'));
        let links = README.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for path in paths.chain(links).filter(|path| !path.starts_with('/')) {
            assert!(root.join(path).exists(), "{path}");
        }
        let script = std::fs::read_to_string(root.join("scripts/lab")).unwrap();
        for command in quoted().filter_map(|text| text.strip_prefix("scripts/lab ")) {
            let word = command.split(' ').next().unwrap();
            assert!(script.contains(&format!("scripts/lab {word} ")), "scripts/lab {word}");
        }
    }
}
