//! The result files of the other programs, read back: figures by their place in the JSON.
//!
//! What is not there is an error that names the command which makes it. Never knows what a figure is used for.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::Value;

use crate::figures::Spread;

/// Names, and what makes them.
const FILES: [(&str, &str); 4] = [
    ("growth.json", "`bench/million --grow 10000,100000,1000000` makes it"),
    ("memory.json", "`target/dist/memory` makes it, as memory-SECONDS.json: rename that"),
    ("compare.json", "`bench/compare` makes it, as compare-SECONDS.json: rename that"),
    ("protocol.json", "`target/dist/protocol` makes it, as protocol-SECONDS.json: rename that"),
];

/// All that tables and plots are made of.
pub struct Results {
    pub growth: File,
    pub memory: File,
    pub compare: File,
    pub protocol: File,
}

impl Results {
    pub fn read(folder: &Path) -> io::Result<Self> {
        let [growth, memory, compare, protocol] = FILES;
        Ok(Self {
            growth: File::read(folder, growth)?,
            memory: File::read(folder, memory)?,
            compare: File::read(folder, compare)?,
            protocol: File::read(folder, protocol)?,
        })
    }
}

/// One result file.
pub struct File {
    pub name: &'static str,
    made_by: &'static str,
    value: Value,
}

impl File {
    fn read(folder: &Path, (name, made_by): (&'static str, &'static str)) -> io::Result<Self> {
        let path = folder.join(name);
        let fail = |why: String| io::Error::other(format!("{}: {why}; {made_by}", path.display()));
        let text = fs::read_to_string(&path).map_err(|error| fail(error.to_string()))?;
        let value = serde_json::from_str(&text).map_err(|error| fail(error.to_string()))?;
        Ok(Self { name, made_by, value })
    }

    /// Its rows; none is an error.
    pub fn rows(&self) -> io::Result<Vec<Row<'_>>> {
        let rows = self.value["rows"].as_array().filter(|rows| !rows.is_empty());
        let rows = rows.ok_or_else(|| self.lacks("no rows"))?;
        Ok(rows.iter().map(|value| Row { file: self, value }).collect())
    }

    /// The whole file as one row: what stands beside the rows.
    pub fn head(&self) -> Row<'_> {
        Row { file: self, value: &self.value }
    }

    /// The machine in a few words.
    pub fn machine(&self) -> io::Result<String> {
        let head = self.head();
        let (cpu, kernel) = (head.text("/machine/cpu")?, head.text("/machine/kernel")?);
        Ok(format!("{cpu}, {:.0} cores, Linux {kernel}", head.number("/machine/cores")?))
    }

    pub fn lacks(&self, what: &str) -> io::Error {
        io::Error::other(format!("{} has {what}; {}", self.name, self.made_by))
    }
}

/// A row of a file. Places are JSON pointers.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    file: &'a File,
    value: &'a Value,
}

impl<'a> Row<'a> {
    pub fn text(&self, place: &str) -> io::Result<&'a str> {
        self.value.pointer(place).and_then(Value::as_str).ok_or_else(|| self.lacks(place))
    }

    /// True if there is such a text and it is this one.
    pub fn is(&self, place: &str, text: &str) -> bool {
        self.value.pointer(place).and_then(Value::as_str) == Some(text)
    }

    pub fn number(&self, place: &str) -> io::Result<f64> {
        self.optional(place).ok_or_else(|| self.lacks(place))
    }

    /// A figure that not every row has.
    pub fn optional(&self, place: &str) -> Option<f64> {
        self.value.pointer(place).and_then(Value::as_f64)
    }

    /// A figure something is divided by.
    pub fn positive(&self, place: &str) -> io::Result<f64> {
        let number = self.number(place)?;
        if number > 0.0 { Ok(number) } else { Err(self.file.lacks(&format!("{number} at {place}"))) }
    }

    /// Bytes of memory at `place`: resident or in use, whichever is more. An allocator keeps pages from the start, and
    /// what they take in is not seen in what is resident.
    pub fn memory(&self, place: &str) -> io::Result<f64> {
        let in_use = self.optional(&format!("{place}/in_use")).unwrap_or(0.0);
        Ok(self.positive(&format!("{place}/rss"))?.max(in_use))
    }

    /// The figures of all repetitions.
    pub fn numbers(&self, place: &str) -> io::Result<Vec<f64>> {
        let list = self.value.pointer(place).and_then(Value::as_array).ok_or_else(|| self.lacks(place))?;
        list.iter().map(|value| value.as_f64().ok_or_else(|| self.lacks(place))).collect()
    }

    /// Their median.
    pub fn median(&self, place: &str) -> io::Result<f64> {
        Spread::of(&self.numbers(place)?).map(|spread| spread.median).ok_or_else(|| self.lacks(place))
    }

    fn lacks(&self, place: &str) -> io::Error {
        self.file.lacks(&format!("no {place} in a row"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_command() {
        let nowhere = Path::new("/nowhere");
        let error = Results::read(nowhere).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("/nowhere/growth.json") && error.contains("bench/million --grow"), "{error}");
        let file =
            File { name: "a.json", made_by: "`a` makes it", value: serde_json::json!({"rows": [{"n": [2, 1]}]}) };
        let rows = file.rows().unwrap_or_default();
        assert_eq!(rows[0].median("/n").ok(), Some(1.5));
        let error = rows[0].number("/idle/rss").err().map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(error, "a.json has no /idle/rss in a row; `a` makes it");
    }
}
