//! What `gannet version` says of its making, for the compiler to write into the program.
//!
//! Owns how the commit, the profile and the features are found. Never fails: what cannot be told is empty.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    // A build for tests knows no commit, or each commit would build it again.
    let is_release = env::var("PROFILE").is_ok_and(|kind| kind == "release");
    let commit = if is_release { commit() } else { None };
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=GANNET_COMMIT");
    for (name, value) in [
        ("GANNET_BUILT_COMMIT", commit.unwrap_or_default()),
        ("GANNET_BUILT_PROFILE", profile().unwrap_or_default()),
        ("GANNET_BUILT_FEATURES", features()),
        ("GANNET_BUILT_TARGET", env::var("TARGET").unwrap_or_default()),
    ] {
        println!("cargo::rustc-env={name}={value}");
    }
}

/// `$GANNET_COMMIT`, for who builds from sources without git; or what git says.
fn commit() -> Option<String> {
    let given = env::var("GANNET_COMMIT").ok().filter(|commit| commit.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    if let Some(commit) = given.filter(|commit| !commit.is_empty()) {
        return Some(commit);
    }
    // Not the repository of somebody who has these files inside their own.
    let top = git(&["rev-parse", "--show-toplevel"])?;
    let here = env::var("CARGO_MANIFEST_DIR").ok()?;
    if Path::new(&top).canonicalize().ok()? != Path::new(&here).canonicalize().ok()? {
        return None;
    }
    // HEAD names a branch, whose own file or the packed ones have the commit.
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        let path = git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists());
        path.iter().for_each(|path| println!("cargo::rerun-if-changed={path}"));
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Cargo tells only what a profile comes from; its name is that of the directory: `target/NAME/build/gannet-x/out`.
fn profile() -> Option<String> {
    let out = env::var("OUT_DIR").ok()?;
    let name = Path::new(&out).ancestors().nth(3)?.file_name()?;
    Some(name.to_str()?.to_owned())
}

/// Without `default`, which is a list of others.
fn features() -> String {
    let names = env::vars().filter_map(|(name, _)| name.strip_prefix("CARGO_FEATURE_").map(str::to_ascii_lowercase));
    let mut names: Vec<String> = names.map(|name| name.replace('_', "-")).filter(|name| name != "default").collect();
    names.sort();
    names.join(" ")
}
