//! Layering that can be read from the imports: what is pure names `core` and `alloc` only, and `unsafe` is in one file.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| sources(&entry.unwrap().path(), found));
    } else if path.extension().is_some_and(|extension| extension == "rs")
        && !path.to_string_lossy().ends_with("tests.rs")
    {
        found.push(path.to_owned());
    }
}

/// The code of a file, without comments and without what is only for tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn all(parts: &[&str]) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = vec![];
    parts.iter().for_each(|part| sources(&root.join(part), &mut found));
    assert!(!found.is_empty());
    found
}

#[test]
fn pure_files_know_neither_kernel_nor_clock() {
    let pure = [
        "nbd",
        "geometry.rs",
        "limits.rs",
        "buffer.rs",
        "time.rs",
        "disc/barrier.rs",
        "disc/brake.rs",
        "disc/locks.rs",
        "disc/warmth.rs",
        "memory.rs",
        "disc/dirty.rs",
        "migration/checked.rs",
        "migration/converge.rs",
        "migration/handover.rs",
        "migration/ledger.rs",
        "migration/pace.rs",
        "migration/patience.rs",
        "migration/wire.rs",
        "metrics/counters.rs",
        "metrics/histogram.rs",
    ];
    for path in all(&pure) {
        for forbidden in ["std::", "tokio", "rustix", "libc::", "tracing", "crate::ring", "crate::shard"] {
            assert!(!code(&path).contains(forbidden), "{} names {forbidden}: use core:: or alloc::", path.display());
        }
    }
}

#[test]
fn unsafe_is_in_one_file() {
    for path in all(&[""]) {
        let there = code(&path).contains("unsafe {") || code(&path).contains("unsafe fn");
        assert!(!there || path.ends_with("ring/uring.rs"), "{} has unsafe code", path.display());
    }
}

#[test]
fn nobody_knows_what_is_above_it() {
    for (part, forbidden) in [
        ("nbd", ["crate::buffer", "crate::connection", "crate::disc"]),
        ("ring", ["crate::nbd", "crate::connection", "crate::disc"]),
        ("disc", ["crate::nbd", "crate::connection", "tokio"]),
        ("connection", ["crate::ring::uring::Ring", "tokio", "crate::control"]),
    ] {
        for path in all(&[part]) {
            for name in forbidden {
                assert!(!code(&path).contains(name), "{} names {name}", path.display());
            }
        }
    }
}
