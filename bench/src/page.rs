//! The tables and the plots where they are committed: made anew, or compared with what the results give.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::results::Results;
use crate::{capacity, plots, standings};

/// The page with the tables, and the folder of the plots, within the folder of documents.
const PAGE: &str = "benchmarks.md";
const PLOTS: &str = "plots";

/// Everything that is made of the results: where it lies and what it says.
pub fn made(results: &Results, documents: &Path) -> io::Result<Vec<(PathBuf, String)>> {
    let page = documents.join(PAGE);
    let text = fs::read_to_string(&page).map_err(|error| named(&page, &error))?;
    let text = with_table(&text, "standings", &standings::table(&results.compare)?)
        .and_then(|text| with_table(&text, "capacity", &capacity::table(results)?))
        .map_err(|error| named(&page, &error))?;
    let folder = documents.join(PLOTS);
    let plots = plots::files(results)?.into_iter().map(|(name, text)| (folder.join(name), text));
    Ok(plots.chain([(page, text)]).collect())
}

/// Writes it; returns what was changed.
pub fn write(results: &Results, documents: &Path) -> io::Result<Vec<PathBuf>> {
    fs::create_dir_all(documents.join(PLOTS))?;
    let mut changed = Vec::new();
    for (path, text) in made(results, documents)? {
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            continue;
        }
        fs::write(&path, text).map_err(|error| named(&path, &error))?;
        changed.push(path);
    }
    Ok(changed)
}

/// A line for each file that is not what the results give, and for each plot that nothing makes.
pub fn differences(results: &Results, documents: &Path) -> io::Result<Vec<String>> {
    let made = made(results, documents)?;
    let mut lines = Vec::new();
    for (path, text) in &made {
        match fs::read_to_string(path) {
            Ok(old) if old == *text => {}
            Ok(_) => lines.push(format!("{} is not what the results give", path.display())),
            Err(error) => lines.push(format!("{}: {error}", path.display())),
        }
    }
    for entry in fs::read_dir(documents.join(PLOTS)).into_iter().flatten() {
        let path = entry?.path();
        if made.iter().all(|(one, _)| *one != path) {
            lines.push(format!("{} is made of nothing", path.display()));
        }
    }
    lines.sort();
    Ok(lines)
}

/// The page with another table between the markers of that name.
fn with_table(page: &str, name: &str, table: &str) -> io::Result<String> {
    let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
    let lacks = || io::Error::other(format!("it lacks the lines {} and {end}, in this order", begin.trim_end()));
    let (before, rest) = page.split_once(&begin).ok_or_else(lacks)?;
    let (_, after) = rest.split_once(&end).ok_or_else(lacks)?;
    Ok(format!("{before}{begin}{table}{end}{after}"))
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_changes() -> io::Result<()> {
        let page = |table: &str| format!("a\n<!-- t: begin -->\n{table}<!-- t: end -->\nb\n");
        let new = with_table(&page("old\n"), "t", "| new |\n")?;
        assert_eq!(new, page("| new |\n"));
        assert_eq!(with_table(&new, "t", "| new |\n")?, new);
        assert!(with_table(&new, "other", "| new |\n").is_err());
        Ok(())
    }
}
