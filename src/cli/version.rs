//! F11 · What `gannet version` prints: which program this is and how it was made.

/// What the build script could tell; empty = it could not.
const FACTS: [(&str, &str); 4] = [
    ("commit", env!("GANNET_BUILT_COMMIT")),
    ("profile", env!("GANNET_BUILT_PROFILE")),
    ("features", env!("GANNET_BUILT_FEATURES")),
    ("target", env!("GANNET_BUILT_TARGET")),
];

/// The version on the first line, as `--version` prints it, then a line for each fact.
pub fn text() -> String {
    let facts = FACTS.map(|(name, fact)| format!("{name:<9}{}\n", if fact.is_empty() { "unknown" } else { fact }));
    format!("gannet {}\n{}", env!("CARGO_PKG_VERSION"), facts.concat())
}
