//! The committed plots and the capacity table are what the committed results give.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use gannet_bench::page;
use gannet_bench::results::Results;

/// Bytes a plot may have.
const PLOT_MAX: u64 = 60_000;

fn folders() -> (PathBuf, PathBuf) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    (root.join("results"), root.join("../docs"))
}

#[test]
fn the_committed_plots_and_table_are_what_the_results_give() -> io::Result<()> {
    let (results, documents) = folders();
    let differences = page::differences(&Results::read(&results)?, &documents)?;
    assert!(differences.is_empty(), "run bench/plots and commit: {differences:#?}");
    for entry in fs::read_dir(documents.join("plots"))? {
        let entry = entry?;
        assert!(entry.metadata()?.len() < PLOT_MAX, "{} is large", entry.path().display());
    }
    Ok(())
}

/// A copy of both folders, without what the test needs not; gone with the test.
struct Copied(PathBuf);

impl Copied {
    fn make(name: &str) -> io::Result<Self> {
        let copy = Self(std::env::temp_dir().join(format!("gannet-{name}-{}", std::process::id())));
        let (results, documents) = folders();
        for (from, to) in [(results, "results"), (documents.join("plots"), "docs/plots")] {
            let to = copy.0.join(to);
            fs::create_dir_all(&to)?;
            for entry in fs::read_dir(from)? {
                let path = entry?.path();
                fs::copy(&path, to.join(path.file_name().unwrap_or_default()))?;
            }
        }
        fs::copy(documents.join("benchmarks.md"), copy.0.join("docs/benchmarks.md"))?;
        Ok(copy)
    }

    fn differences(&self) -> io::Result<Vec<String>> {
        page::differences(&Results::read(&self.0.join("results"))?, &self.0.join("docs"))
    }

    fn replace(&self, file: &str, change: impl FnOnce(&mut serde_json::Value)) -> io::Result<()> {
        let path = self.0.join(file);
        let mut value = serde_json::from_str(&fs::read_to_string(&path)?)?;
        change(&mut value);
        fs::write(path, value.to_string())
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_changed_result_is_noticed_and_drawn_anew() -> io::Result<()> {
    let copy = Copied::make("changed")?;
    assert_eq!(copy.differences()?, Vec::<String>::new());
    copy.replace("results/growth.json", |growth| growth["rows"][0]["user_bytes_each"]["rss"] = 12_345.0.into())?;
    let differences = copy.differences()?.join("\n");
    assert!(differences.contains("benchmarks.md") && differences.contains("growth.svg"), "{differences}");
    assert!(!differences.contains("compare.svg"), "{differences}");
    fs::write(copy.0.join("docs/plots/old.svg"), "")?;
    let results = Results::read(&copy.0.join("results"))?;
    assert_eq!(page::write(&results, &copy.0.join("docs"))?.len(), 2);
    assert!(fs::read_to_string(copy.0.join("docs/benchmarks.md"))?.contains("12,345"));
    let left = copy.differences()?;
    assert!(left.len() == 1 && left[0].contains("old.svg"), "{left:?}");
    Ok(())
}

/// More servers than are committed, one of which lacks in a shape, and a peer's memory.
#[test]
fn any_set_of_servers_is_drawn() -> io::Result<()> {
    let copy = Copied::make("servers")?;
    copy.replace("results/compare.json", |compare| {
        let mut row = compare["rows"][0].clone();
        row["server"] = "ws & more".into();
        row["ratio"] = serde_json::json!({"median": 41.5, "min": 40.0, "max": 43.0});
        if let Some(rows) = compare["rows"].as_array_mut() {
            rows.insert(1, row);
        }
    })?;
    copy.replace("results/memory.json", |memory| {
        let mut row = memory["rows"][0].clone();
        row["server"] = "a peer".into();
        row["idle"]["rss"] = 123_456.into();
        row["after_message"] = serde_json::Value::Null;
        if let Some(rows) = memory["rows"].as_array_mut() {
            rows.push(row);
        }
    })?;
    page::write(&Results::read(&copy.0.join("results"))?, &copy.0.join("docs"))?;
    let compare = fs::read_to_string(copy.0.join("docs/plots/compare.svg"))?;
    assert_eq!(compare.matches("ws &amp; more").count(), 1);
    assert!(compare.contains(">42</text>") || compare.contains(">41</text>"));
    assert!(fs::read_to_string(copy.0.join("docs/plots/memory.svg"))?.contains(">123,456</text>"));
    assert_eq!(copy.differences()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn a_missing_result_names_what_makes_it() -> io::Result<()> {
    let copy = Copied::make("missing")?;
    fs::remove_file(copy.0.join("results/growth.json"))?;
    let error = copy.differences().err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("growth.json") && error.contains("bench/million --grow"), "{error}");
    Ok(())
}
