//! Files of a test, which are gone at its end.

use std::path::PathBuf;

pub struct File(PathBuf);

impl File {
    /// One that is not there yet. `name` is one test's.
    pub fn none(name: &str) -> File {
        File(std::env::temp_dir().join(format!("gannet-blackbox-{}-{name}", std::process::id())))
    }

    pub fn new(name: &str, text: &str) -> File {
        let file = File::none(name);
        file.write(text);
        file
    }

    pub fn write(&self, text: &str) {
        std::fs::write(&self.0, text).expect("write");
    }

    /// What is in it; nothing if it is not there.
    pub fn read(&self) -> String {
        std::fs::read_to_string(&self.0).unwrap_or_default()
    }

    pub fn path(&self) -> &str {
        self.0.to_str().expect("a path of text")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
